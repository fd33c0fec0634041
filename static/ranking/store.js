// @ts-check
// What the browser keeps. Storage may be full or forbidden: then nothing is kept, and nothing breaks.

/** @typedef {Pick<Storage, "getItem" | "setItem" | "removeItem">} Shelf */

export class Store {
  /** @param {() => Shelf} open its storage; even naming it may be forbidden */
  constructor(open) {
    this.open = open;
  }

  /** What is kept under this key, or null.
   * @param {string} key
   * @returns {any}
   */
  get(key) {
    try {
      return JSON.parse(this.open().getItem(key) ?? "null");
    } catch {
      return null;
    }
  }

  /** Keep a value; whether it is kept.
   * @param {string} key
   * @param {unknown} value
   */
  set(key, value) {
    try {
      this.open().setItem(key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }

  /** @param {string} key */
  drop(key) {
    try {
      this.open().removeItem(key);
    } catch {
      // Forbidden: then it was never kept.
    }
  }
}

export const local = new Store(() => localStorage);
export const tab = new Store(() => sessionStorage);

/** Where the draft of an assignment is kept.
 * @param {string} assignment
 */
export function draftKey(assignment) {
  return `draft-${assignment}`;
}
