// @ts-check
// Cards, chips and the bar: how the page shows what the form holds. Cards stay where they are; only badges,
// buttons and chips change.
import { create, find, findAll, get } from "../shared/dom.js";
import { makeDraggable } from "./drag.js";
import { announce } from "./told.js";
import { say } from "./words.js";

/** @import { Task } from "./task.js" */

const FOLD_ABOVE = 420; // pixels: longer responses are folded

/** Wire the cards of a task.
 * @param {Task} task
 */
export function prepareCards(task) {
  for (const card of task.cards) {
    const button = get(".unfold", card);
    if (get(".view", card).offsetHeight > FOLD_ABOVE) {
      get(".text", card).classList.add("folded");
      button.hidden = false;
      button.setAttribute("aria-expanded", "false");
    }
    button.addEventListener("click", () => unfold(card));
    card.addEventListener("focus", () => task.mark(card, { focus: false }));
    for (const tierButton of findAll(".place-button", card)) {
      tierButton.addEventListener("click", () => {
        const tier = Number(tierButton.dataset.place);
        // A second click takes the place away, but not one that has only moved up into a gap.
        const isAgain = task.form.getTier(card) === tier && task.chosen.get(card) === tier;
        task.setTier(card, isAgain ? 0 : tier);
      });
    }
    if (!task.form.isPair) makeDraggable(get(".card-head", card), card, listenToDrag(task, card));
  }
}

/**
 * @param {Task} task
 * @param {HTMLElement} card
 */
function listenToDrag(task, card) {
  return {
    onStart: () => task.mark(card, { focus: false }),
    /** @param {number} tier */
    onDrop: (tier) => {
      task.setTier(card, tier);
      task.mark(card);
    },
  };
}

/** Unfold a long response, or fold it again.
 * @param {HTMLElement} card
 */
export function unfold(card) {
  const button = get(".unfold", card);
  if (button.hidden) return;
  const folded = get(".text", card).classList.toggle("folded");
  button.textContent = say(folded ? "show_all" : "fold");
  button.setAttribute("aria-expanded", String(!folded));
  if (folded) card.scrollIntoView({ block: "nearest" });
}

/** See a response as it was written, or as it reads: the page's own buttons switch, and keys press them.
 * @param {HTMLElement} card
 */
export function switchView(card) {
  const button = find(".view-button", card);
  if (!button) return; // it can be shown in one way only
  button.click();
  const isSource = get(".view", card).dataset.view === "source";
  announce(say(isSource ? "as_source" : "as_rendered", { letter: card.dataset.letter ?? "" }));
}

/** The same for all of them. */
export function switchViews() {
  const button = get(".view-all");
  button.click();
  announce(say(button.getAttribute("aria-pressed") === "true" ? "all_as_source" : "all_as_rendered"));
}

/** Say everywhere what the form holds.
 * @param {Task} task
 */
export function showRanks(task) {
  const { form, root } = task;
  const ranks = form.listRanks();
  task.cards.forEach((card, index) => showCard(card, ranks[index], form.getTier(card), form.isPair));
  for (const slot of findAll(".slot", root)) {
    const held = task.cards.filter((card) => form.getTier(card) === Number(slot.dataset.tier));
    slot.classList.toggle("filled", held.length > 0);
    get(".chips", slot).replaceChildren(...held.map((card) => createChip(task, card)));
  }
  task.desk.show(); // letters say what the cards say
  get("#order", root).textContent = form.describe() || say("nothing_placed");
  get("#submit", root).setAttribute("aria-disabled", String(!form.isComplete()));
}

/**
 * @param {HTMLElement} card
 * @param {number} rank
 * @param {number} tier
 * @param {boolean} isPair
 */
function showCard(card, rank, tier, isPair) {
  const letter = card.dataset.letter ?? "";
  // The place as it was chosen: on the badge, the buttons and the strip alike. It has no gaps once all have one.
  const place = isPair ? rank : tier;
  get(".place", card).textContent = tier ? String(tier) : "";
  card.classList.toggle("placed", rank > 0);
  card.classList.toggle("best", rank === 1);
  const label = place ? say("response", { letter, place }) : say("response_unplaced", { letter });
  card.setAttribute("aria-label", label);
  for (const button of findAll(".place-button", card)) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.place) === tier));
  }
}

/**
 * @param {Task} task
 * @param {HTMLElement} card
 */
function createChip(task, card) {
  const chip = create("span", { className: "chip", textContent: card.dataset.letter });
  makeDraggable(chip, card, listenToDrag(task, card));
  return chip;
}

/** Mark the card that keys speak of: the one that Tab comes to.
 * @param {HTMLElement[]} cards
 * @param {HTMLElement} marked
 */
export function showMark(cards, marked) {
  for (const card of cards) {
    const tabIndex = card === marked ? 0 : -1;
    card.classList.toggle("marked", card === marked);
    card.tabIndex = tabIndex;
    for (const button of findAll(".place-button, .unfold, .view-button, .pin", card)) button.tabIndex = tabIndex;
  }
}

/** What became of a card, for those who do not see it.
 * @param {Task} task
 * @param {HTMLElement} card
 */
export function describeTier({ cards, form }, card) {
  const letter = card.dataset.letter ?? "";
  const tier = form.getTier(card);
  if (!tier) return say("unplaced", { letter });
  const equals = cards.filter((other) => other !== card && form.getTier(other) === tier);
  const others = equals.map((other) => other.dataset.letter).join(", ");
  const left = cards.filter((other) => !form.getTier(other)).length;
  const rest = left ? say("to_go", { count: left }) : say("all_placed");
  return `${say(others ? "tied" : "place", { letter, place: tier, others })}. ${rest}`;
}

/** Open a dialog of the page; the one with differences compares the marked response with the next.
 * @param {string} id
 * @param {Task | null} task
 */
export function openDialog(id, task) {
  const dialog = find(`#${id}`, document, HTMLDialogElement);
  if (!dialog) return;
  dialog.showModal();
  if (id === "difference-dialog" && task) task.differences.open(dialog, task.cards.indexOf(task.marked));
}
