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
/** @typedef {Pick<KeyboardEvent, "key" | "ctrlKey" | "altKey" | "metaKey" | "shiftKey">} Key */

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
  ["n", { name: "none" }],
  ["b", { name: "back" }],
  ["s", { name: "skip" }],
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
  if (event.altKey || event.metaKey || inDialog) return null;
  if (event.key === "Enter") {
    const isFree = !typing && !onControl;
    return event.ctrlKey || isFree ? { name: "submit" } : null;
  }
  if (typing || event.ctrlKey) return null;
  if (onRadio && event.key.startsWith("Arrow")) return null;
  return findAction(event);
}

/**
 * @param {Key} event
 * @returns {Action | null}
 */
function findAction({ key, shiftKey }) {
  if (/^[0-9]$/.test(key)) return { name: "digit", by: Number(key) };
  const name = key.length === 1 ? key.toLowerCase() : key;
  return (shiftKey && SHIFTED.get(name)) || ACTIONS.get(name) || null;
}
