// @ts-check
// Which responses were seen: the end of a text has been on the screen. What is not known is not sent.
import { get } from "../shared/dom.js";

const ENOUGH = 24; // pixels of a response on the screen: about a line

export class Sight {
  /**
   * @param {HTMLElement[]} cards
   * @param {(card: HTMLElement) => void} onSeen
   */
  constructor(cards, onSeen) {
    this.cards = cards;
    /** @type {Set<HTMLElement>} */
    this.seen = new Set();
    /** @type {Set<HTMLElement>} at least its beginning, or some part of it */
    this.glimpsed = new Set();
    const owners = new Map(cards.flatMap((card) => [get(".text-end", card), get(".text", card)].map((e) => [e, card])));
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const card = owners.get(/** @type {HTMLElement} */ (target));
        if (!card || !isIntersecting || document.hidden) continue;
        this.glimpsed.add(card);
        if (!target.matches(".text-end") || this.seen.has(card)) continue;
        this.seen.add(card);
        onSeen(card);
      }
    });
    for (const element of owners.keys()) this.observer.observe(element);
  }

  /** Whether some of a response is on the screen now, or was.
   * @param {HTMLElement} card
   */
  isKnown(card) {
    return this.glimpsed.has(card) || this.isInView(card);
  }

  /** @param {HTMLElement} card */
  isInView(card) {
    const text = get(".text", card).getBoundingClientRect();
    const desk = card.closest(".responses")?.getBoundingClientRect() ?? text;
    const high = Math.min(text.bottom, desk.bottom, innerHeight) - Math.max(text.top, desk.top, 0);
    const wide = Math.min(text.right, desk.right) - Math.max(text.left, desk.left);
    return high >= Math.min(ENOUGH, text.height) && wide > text.width / 2;
  }
}
