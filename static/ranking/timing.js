// @ts-check
// Time at work: not while the page is hidden, not while nobody moves. A session is what one tab has seen.
import { get } from "../shared/dom.js";
import { tab } from "./store.js";
import { suggestPause } from "./told.js";
import { formatClock, say } from "./words.js";

/** @typedef {{ done?: number, seconds?: number, stretch?: number }} Kept stretch: seconds since the last break */

const IDLE_AFTER = 60_000; // milliseconds without a key, a touch or a move: nobody is at work
const RESTED_AFTER = 5 * 60_000; // milliseconds away that count as a break
const PAUSE_AFTER = 45 * 60; // seconds of work before a break is suggested
const SIGNS = ["keydown", "pointerdown", "pointermove", "wheel", "touchstart", "scroll"];

/** One more second of work; whether it is time for a break.
 * @param {Kept} kept
 * @returns {[Kept, boolean]}
 */
export function addSecond(kept) {
  const stretch = (kept.stretch ?? 0) + 1;
  const tired = stretch >= PAUSE_AFTER;
  return [{ ...kept, seconds: (kept.seconds ?? 0) + 1, stretch: tired ? 0 : stretch }, tired];
}

export class Session {
  constructor() {
    this.lastSign = Date.now();
  }

  /** @returns {Kept} */
  read() {
    return tab.get("session") ?? {};
  }

  /** @param {Kept} kept */
  write(kept) {
    tab.set("session", kept);
  }

  /** Another ranking is done. */
  count() {
    const kept = this.read();
    this.write({ ...kept, done: (kept.done ?? 0) + 1 });
  }

  show() {
    const { done, seconds = 0 } = this.read();
    const total = done ? ` · ${say("session", { count: done, time: formatClock(seconds) })}` : "";
    if (total) get("#session-total").textContent = total;
  }

  /** Count the seconds of whoever is at work.
   * @param {() => { sent: boolean, seconds: number } | null} getTask
   */
  start(getTask) {
    for (const sign of SIGNS) {
      document.addEventListener(sign, () => this.noteSign(), { passive: true, capture: true });
    }
    setInterval(() => this.tick(getTask()), 1000);
  }

  noteSign() {
    if (Date.now() - this.lastSign > RESTED_AFTER) this.write({ ...this.read(), stretch: 0 });
    this.lastSign = Date.now();
  }

  /** @param {{ sent: boolean, seconds: number } | null} task */
  tick(task) {
    if (!task || task.sent || document.hidden || Date.now() - this.lastSign >= IDLE_AFTER) return;
    task.seconds += 1;
    get("#timer").textContent = formatClock(task.seconds);
    const [kept, tired] = addSecond(this.read());
    this.write(kept);
    if (tired) suggestPause(Math.round(PAUSE_AFTER / 60));
  }
}
