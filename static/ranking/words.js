// @ts-check
// What the page says, in the rater's language: the server puts the sentences into the page.

/** Fill the places in braces of a sentence.
 * @param {string} sentence
 * @param {Record<string, string | number>} values
 */
export function fill(sentence, values) {
  return sentence.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** @type {Record<string, string> | undefined} */
let sentences;

/** A sentence by its name, with its values.
 * @param {string} name
 * @param {Record<string, string | number>} [values]
 */
export function say(name, values = {}) {
  sentences ??= /** @type {Record<string, string>} */ (
    JSON.parse(document.getElementById("words")?.dataset.words ?? "{}")
  );
  return fill(sentences[name], values);
}

/** Seconds as minutes and seconds: 75 is 1:15.
 * @param {number} seconds
 */
export function formatClock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}
