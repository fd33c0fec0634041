// @ts-check
// In which words two responses differ, and a rewrite from the best one: the server finds them.
import { at, findAll, get, getField, getToken } from "../shared/dom.js";

/** @import { RankingForm } from "./form.js" */

const TYPING_DELAY = 700; // milliseconds after the last key in the rewrite

export class Differences {
  /**
   * @param {string} assignment
   * @param {HTMLElement} root
   * @param {RankingForm} form
   */
  constructor(assignment, root, form) {
    this.address = at(`/rate/assignments/${assignment}/difference`);
    this.root = root;
    this.form = form;
    /** @type {number | undefined} */
    this.timer = undefined;
    for (const select of this.listSelects(root)) select.addEventListener("change", () => this.compare());
    if (getField(form.element, "rewrite").value) this.compareRewrite();
  }

  /** @param {ParentNode} root */
  listSelects(root) {
    return findAll("#difference-dialog select", root, HTMLSelectElement);
  }

  /** Begin with this response and the one after it.
   * @param {HTMLDialogElement} dialog
   * @param {number} index
   */
  open(dialog, index) {
    const [one, other] = findAll("select", dialog, HTMLSelectElement);
    one.selectedIndex = index;
    other.selectedIndex = (index + 1) % other.options.length;
    this.compare();
  }

  async compare() {
    const [one, other] = this.listSelects(this.root).map((select) => select.value);
    const answer = await fetch(`${this.address}?${new URLSearchParams({ one, other })}`).catch(() => null);
    if (answer?.ok) get("#difference", this.root).innerHTML = await answer.text();
  }

  /** Compare the rewrite with the best response, when the hand rests. */
  compareRewrite() {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.showRewrite(), TYPING_DELAY);
  }

  async showRewrite() {
    const best = this.form.findBest();
    const text = getField(this.form.element, "rewrite").value;
    const shown = get("#rewrite-difference", this.root);
    if (!best || !text.trim()) {
      shown.replaceChildren();
      return;
    }
    const one = best.dataset.candidate ?? "";
    const body = new URLSearchParams({ one, text, csrf_token: getToken(this.form.element) });
    const answer = await fetch(this.address, { method: "POST", body }).catch(() => null);
    if (answer?.ok) shown.innerHTML = await answer.text();
  }
}
