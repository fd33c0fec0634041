// @ts-check
// How the responses stand on the desk: all of them in columns, one at a time, or two side by side of which one is
// kept. A narrow screen always shows one. The choice holds for the tasks that follow.
import { find, findAll, get } from "../shared/dom.js";
import { local } from "./store.js";
import { announce } from "./told.js";
import { say } from "./words.js";

/** @import { Task } from "./task.js" */
/** @typedef {"all" | "one" | "two"} Mode */

const GAP = 14; // pixels between the cards of a column
const SETTLED = 90; // milliseconds without a scroll: the card that a swipe came to
const DEEP = 60; // pixels into a response, from where a phone's header and prompt make room
const narrow = matchMedia("(max-width: 40rem)");

export class Desk {
  /** @param {Task} task */
  constructor(task) {
    this.task = task;
    this.cards = task.cards;
    this.row = get(".cards", task.root);
    /** @type {HTMLElement | null} the card that the rater keeps; else it is the best one */
    this.kept = null;
    /** @type {HTMLElement} the one that stands beside it */
    this.other = this.cards[1];
    this.closed = new AbortController();
    this.observer = new ResizeObserver(() => this.pack());
    for (const card of this.cards) this.observer.observe(card);
    this.listen();
    /** @type {Mode} */
    this.wanted = local.get("desk") ?? "all";
    this.setMode(this.wanted);
  }

  /** Its task has left the page: what outlives tasks lets go of it. */
  close() {
    this.closed.abort();
    this.observer.disconnect();
  }

  /** @returns {Mode} */
  get mode() {
    return narrow.matches ? "one" : this.wanted;
  }

  listen() {
    for (const button of findAll(".mode", this.task.root)) {
      button.addEventListener("click", () => this.choose(/** @type {Mode} */ (button.dataset.mode)));
    }
    for (const button of findAll(".jump", this.task.root)) {
      button.addEventListener("click", () => this.task.goTo(Number(button.dataset.jump)));
    }
    for (const card of this.cards) {
      get(".pin", card).addEventListener("click", () => this.keep(card));
      const body = get(".card-body", card);
      body.addEventListener("scroll", () => this.makeRoom(body), { passive: true });
    }
    narrow.addEventListener("change", () => this.show(), { signal: this.closed.signal });
    /** @type {number | undefined} */
    let timer;
    const settle = () => {
      clearTimeout(timer);
      timer = window.setTimeout(() => this.followSwipe(), SETTLED);
    };
    this.row.addEventListener("scroll", settle, { passive: true });
    this.preparePrompt();
  }

  /** The whole prompt, with the turns before it, is one key or one tap away. */
  preparePrompt() {
    const pane = get(".prompt-pane", this.task.root);
    const button = get(".prompt-toggle", pane);
    button.hidden = false;
    // A phone folds even a short one once the responses are read.
    const fits = pane.scrollHeight <= pane.clientHeight + 4 && !find(".earlier", pane);
    button.classList.toggle("spare", fits);
    button.addEventListener("click", () => this.togglePrompt());
  }

  togglePrompt() {
    const pane = get(".prompt-pane", this.task.root);
    const isWhole = pane.classList.toggle("whole");
    const earlier = find(".earlier", pane, HTMLDetailsElement);
    if (earlier) earlier.open = isWhole;
    get(".prompt-toggle", pane).setAttribute("aria-expanded", String(isWhole));
    // What was asked last stays in view; what led to it is above.
    findAll(".turn", pane).at(-1)?.scrollIntoView({ block: "nearest" });
  }

  /** @param {HTMLElement} body a response that is read on a phone */
  makeRoom(body) {
    const { classList } = document.body;
    const isLong = body.scrollHeight - body.clientHeight > 5 * DEEP;
    if (body.scrollTop > DEEP && isLong) classList.add("deep");
    else if (body.scrollTop < 8) classList.remove("deep");
  }

  /** A key or a button chose it: the same again is all of them.
   * @param {Mode} mode
   */
  choose(mode) {
    this.setMode(this.wanted === mode ? "all" : mode);
    local.set("desk", this.wanted);
    announce(find(`.mode[data-mode=${this.wanted}]`, this.task.root)?.firstChild?.textContent?.trim() ?? "");
    this.task.mark(this.task.marked);
  }

  /** @param {Mode} mode */
  setMode(mode) {
    this.wanted = mode;
    for (const button of findAll(".mode", this.task.root)) {
      button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    }
    this.show();
  }

  /** Keep a response beside the others, or the best one again.
   * @param {HTMLElement} card
   */
  keep(card) {
    this.kept = this.kept === card ? null : card;
    if (this.wanted !== "two") this.choose("two");
    this.show();
    const pinned = get(".pinned", this.row);
    announce(say("kept", { letter: pinned.dataset.letter ?? "" }));
  }

  /** Let the page say which mode it is, and which cards are seen in it. */
  show() {
    this.row.dataset.mode = this.mode;
    const { marked } = this.task;
    const pinned = this.kept ?? this.task.form.findBest() ?? this.cards[0];
    if (marked && marked !== pinned) this.other = marked;
    if (this.other === pinned) this.other = this.cards.find((card) => card !== pinned) ?? pinned;
    this.cards.forEach((card, index) => {
      card.classList.toggle("pinned", card === pinned);
      card.classList.toggle("side", card === pinned || card === this.other);
      get(".pin", card).setAttribute("aria-pressed", String(card === this.kept));
      const jump = get(`[data-jump="${index}"]`, this.task.root);
      if (card === marked) jump.setAttribute("aria-current", "true");
      else jump.removeAttribute("aria-current");
      const tier = this.task.form.getTier(card);
      jump.dataset.place = tier ? String(tier) : "";
      jump.setAttribute("aria-label", card.getAttribute("aria-label") ?? "");
    });
    this.pack();
  }

  /** Give each card its own height in its column. Columns stay, whatever unfolds. */
  pack() {
    const isPacked = this.mode === "all";
    this.row.classList.toggle("packed", isPacked);
    const columns = getComputedStyle(this.row).gridTemplateColumns.split(" ").length;
    this.cards.forEach((card, index) => {
      card.style.gridColumn = isPacked ? String((index % columns) + 1) : "";
      card.style.gridRow = isPacked ? `span ${Math.ceil(card.offsetHeight) + GAP}` : "";
    });
  }

  /** A swipe has come to another card: keys and buttons speak of that one. */
  followSwipe() {
    if (this.mode !== "one" || !this.row.isConnected) return;
    const left = this.row.getBoundingClientRect().left;
    const away = this.cards.map((card) => Math.abs(card.getBoundingClientRect().left - left));
    const card = this.cards[away.indexOf(Math.min(...away))];
    if (card !== this.task.marked) this.task.mark(card, { focus: false });
    this.makeRoom(get(".card-body", card));
  }
}
