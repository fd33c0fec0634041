// @ts-check
// What the page tells: to a screen reader's ear, and above the task what became of the rankings before it.
import { at, create, find, findAll, get } from "../shared/dom.js";
import { say } from "./words.js";

/** @import { Entry } from "./outbox.js" */
/**
 * @typedef {object} Stored the server's answer to a ranking
 * @property {string} id
 * @property {string} order
 * @property {boolean} changeable
 * @property {string | null} [feedback] HTML of ours: how an answer of the test compares
 */

/** Say it to whoever does not see the page.
 * @param {string} text
 */
export function announce(text) {
  get("#announcer").textContent = text;
}

/** @param {string} order */
function createOrder(order) {
  return create("span", { className: "order", textContent: order });
}

/** Put a line in the stead of what was told before.
 * @param {HTMLElement} line
 */
function replaceRecap(line) {
  const told = get("#told");
  find(".recap", told)?.remove();
  find(".feedback", told)?.remove();
  told.prepend(line);
}

/** The ranking is stored: its order, and the way back to it.
 * @param {Stored} stored
 */
export function tellStored(stored) {
  if (stored.feedback) {
    replaceRecap(create("div", { className: "feedback", innerHTML: stored.feedback }));
  } else {
    const address = at(`/rate/history/${stored.id}`);
    const link = stored.changeable
      ? create("a", { id: "back", href: `${address}/change`, textContent: say("change") })
      : create("a", { href: address, textContent: say("look") });
    const badge = create("span", { className: "badge good", textContent: say("stored") });
    replaceRecap(create("p", { className: "recap" }, badge, " ", createOrder(stored.order), " ", link));
  }
  const today = get("#today-count", document, HTMLDataElement);
  today.value = String(Number(today.value) + 1);
  today.textContent = today.value;
}

/** @param {string} order */
export function tellSending(order) {
  find("#told .recap")?.remove();
  get("#told").prepend(create("p", { className: "recap muted" }, say("sending"), " ", createOrder(order)));
}

/** What the server will not have, and whose task is not on the page: kept until its owner discards it.
 * @param {Entry[]} entries
 * @param {(entry: Entry) => void} onDiscard
 */
export function showRefused(entries, onDiscard) {
  for (const notice of findAll("#told .refused")) notice.remove();
  for (const entry of entries) {
    const link = create("a", { href: entry.project, textContent: say("back_to_it") });
    const button = create("button", { type: "button", className: "button small", textContent: say("discard") });
    button.addEventListener("click", () => onDiscard(entry));
    const text = `${entry.order}: ${say("refused", { reason: entry.refused ?? "" })} `;
    get("#told").append(create("p", { className: "notice bad refused" }, text, link, " ", button));
  }
}

/** It has just come back.
 * @param {Entry} entry
 * @param {string} reason
 */
export function tellRefused(entry, reason) {
  find("#told .recap")?.remove();
  announce(`${entry.order}: ${say("refused", { reason })}`);
}

/** Rankings wait: there is no line, or nobody is signed in.
 * @param {number} count
 * @param {boolean} signedOut
 */
export function tellWaiting(count, signedOut) {
  const notice = find("#told .waiting") ?? create("p", { className: "notice warn waiting" });
  notice.textContent = signedOut ? say("signed_out") : say("waiting_line", { count });
  if (!notice.isConnected) get("#told").append(notice);
}

/** Nothing waits any more. */
export function tellNoneWaits() {
  find("#told .waiting")?.remove();
}

/** @param {number} minutes */
export function suggestPause(minutes) {
  const button = create("button", { type: "button", className: "button small", textContent: say("dismiss") });
  const notice = create("p", { className: "notice" }, `${say("pause", { minutes })} `, button);
  button.addEventListener("click", () => notice.remove());
  get("#told").append(notice);
}
