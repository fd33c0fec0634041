// @ts-check
// Which key does what. The list that raters see is templates/rating/task.html's.

/** @typedef {{ name: string, by?: number }} Action */
/**
 * @typedef {object} Moment what a key's meaning depends on
 * @property {boolean} typing the key goes into a text
 * @property {boolean} onControl the key presses a button, a link or a box
 * @property {boolean} onRadio the arrows choose among radio buttons
 * @property {boolean} inDialog a dialog is open
 */
/** @typedef {Pick<KeyboardEvent, "key" | "code" | "ctrlKey" | "altKey" | "metaKey" | "shiftKey">} Key */

/** @type {Map<string, Action>} */
const ACTIONS = new Map([
  ["ArrowRight", { name: "sideways", by: 1 }],
  ["ArrowLeft", { name: "sideways", by: -1 }],
  ["ArrowDown", { name: "step", by: 1 }],
  ["ArrowUp", { name: "step", by: -1 }],
  ["j", { name: "step", by: 1 }],
  ["k", { name: "step", by: -1 }],
  ["Backspace", { name: "digit", by: 0 }],
  ["u", { name: "undo" }],
  ["x", { name: "unfold" }],
  ["v", { name: "view" }],
  ["d", { name: "difference" }],
  ["r", { name: "one" }],
  ["c", { name: "two" }],
  ["p", { name: "keep" }],
  ["t", { name: "prompt" }],
  ["n", { name: "none" }],
  ["b", { name: "back" }],
  ["s", { name: "skip" }],
  ["l", { name: "later" }],
  ["m", { name: "note" }],
  ["g", { name: "guidelines" }],
  ["?", { name: "keys" }],
]);
/** @type {Map<string, Action>} */
const SHIFTED = new Map([
  ["ArrowDown", { name: "move", by: 1 }],
  ["ArrowUp", { name: "move", by: -1 }],
  ["v", { name: "views" }],
]);

/** What a key does now, or null where it is the browser's.
 * @param {Key} event
 * @param {Moment} moment
 * @returns {Action | null}
 */
export function readKey(event, { typing, onControl, onRadio, inDialog }) {
  if (event.altKey) return null;
  const withControl = event.ctrlKey || event.metaKey; // Meta is what a Mac has for it
  if (event.key === "Enter") {
    const isFree = !typing && !onControl && !inDialog;
    return withControl || isFree ? { name: "submit" } : null;
  }
  if (typing || withControl || inDialog) return null;
  if (onRadio && event.key.startsWith("Arrow")) return null;
  return findAction(event);
}

/**
 * @param {Key} event
 * @returns {Action | null}
 */
function findAction({ key, code, shiftKey }) {
  const digit = readDigit(key) ?? (isForeign(key) ? readDigit(code.replace(/^(Digit|Numpad)/, "")) : null);
  if (digit !== null) return { name: "digit", by: digit };
  const name = nameKey(key, code);
  return (shiftKey && SHIFTED.get(name)) || ACTIONS.get(name) || null;
}

/** A digit of any script: Arabic, Persian, Devanagari or full-width ones too. Null for anything else.
 * @param {string} key
 */
function readDigit(key) {
  if (!/^\p{Nd}$/u.test(key)) return null;
  // Unicode keeps the ten digits of a script together: before the zero of this one there is none.
  const point = /** @type {number} */ (key.codePointAt(0));
  for (let value = 0; value < 10; value++) {
    if (!/^\p{Nd}$/u.test(String.fromCodePoint(point - value - 1))) return value;
  }
  return null;
}

/** Whether a character does nothing by itself, so that the key counts by its place on the keyboard: on AZERTY the
 * digits need Shift, and Cyrillic or Greek letters are none of ours.
 * @param {string} key
 */
function isForeign(key) {
  return [...key].length === 1 && !ACTIONS.has(key.toLowerCase()) && !/^[a-z]$/i.test(key);
}

/** The key by what it writes, or by its place where that is no letter of ours.
 * @param {string} key
 * @param {string} code
 */
function nameKey(key, code) {
  if ([...key].length !== 1) return key;
  const letter = /^Key([A-Z])$/.exec(code)?.[1];
  // A letter of another script: what Latin keyboards have at its place. Not where a sign is written there.
  return (/^\p{L}$/u.test(key) && !/^\p{Script=Latin}$/u.test(key) && letter ? letter : key).toLowerCase();
}
