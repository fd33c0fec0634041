// @ts-check
// Dragging a card, by its head or its chip, to a tier in the bar, which is always on the screen.
import { create, get } from "../shared/dom.js";

const DRAG_AFTER = 5; // pixels before a press becomes a drag
const GHOST_TEXT = 60; // characters of the response that go with the hand

/** @typedef {{ onStart: () => void, onDrop: (tier: number) => void }} Listener */

/** Whether a drag is under way.  */
export function isDragging() {
  return document.body.classList.contains("dragging");
}

/** Let a card be dragged by this handle.
 * @param {HTMLElement} handle
 * @param {HTMLElement} card
 * @param {Listener} listener
 */
export function makeDraggable(handle, card, listener) {
  handle.addEventListener("pointerdown", (down) => {
    const target = /** @type {Element} */ (down.target);
    if (down.button !== 0 || target.closest("button, select, label")) return;
    // A finger on the head scrolls the page; on the grip or a chip it drags.
    if (down.pointerType !== "mouse" && !target.closest(".grip, .chip")) return;
    follow(down, card, listener);
    if (down.pointerType !== "mouse") down.preventDefault();
  });
}

/** @param {PointerEvent} event */
function findSlot(event) {
  const slot = document.elementFromPoint(event.clientX, event.clientY)?.closest(".slot");
  return slot instanceof HTMLElement ? slot : null;
}

/** Follow the hand until it lets go.
 * @param {PointerEvent} down
 * @param {HTMLElement} card
 * @param {Listener} listener
 */
function follow(down, card, listener) {
  const ended = new AbortController();
  /** @type {HTMLElement | null} */
  let ghost = null;
  /** @type {HTMLElement | null} */
  let over = null;

  /** @param {PointerEvent} event */
  const move = (event) => {
    if (!ghost) {
      if (Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < DRAG_AFTER) return;
      ghost = createGhost(card);
      listener.onStart();
      document.body.classList.add("dragging");
    }
    ghost.style.translate = `${event.clientX}px ${event.clientY}px`;
    const slot = findSlot(event);
    if (slot === over) return;
    over?.classList.remove("over");
    slot?.classList.add("over");
    over = slot;
  };
  const end = () => {
    ended.abort();
    over?.classList.remove("over");
    ghost?.remove();
    document.body.classList.remove("dragging");
  };
  /** @param {PointerEvent} event */
  const drop = (event) => {
    const slot = ghost && findSlot(event);
    end();
    if (slot) listener.onDrop(Number(slot.dataset.tier));
  };

  const options = { capture: true, signal: ended.signal };
  window.addEventListener("pointermove", move, options);
  window.addEventListener("pointerup", drop, options);
  window.addEventListener("pointercancel", end, options);
  window.addEventListener("keydown", (event) => event.key === "Escape" && end(), options);
}

/** What goes with the hand: the letter and the first words.
 * @param {HTMLElement} card
 */
function createGhost(card) {
  const letter = create("span", { className: "letter", textContent: card.dataset.letter });
  const text = (get(".source", card).textContent ?? "").trim().slice(0, GHOST_TEXT);
  const ghost = create("div", { className: "ghost" }, letter, ` ${text}…`);
  document.body.append(ghost);
  return ghost;
}
