// @ts-check
// Nothing typed is lost: a draft is kept in this browser at once, and at the server when the hand rests.
import { at, getToken } from "../shared/dom.js";
import { draftKey, local } from "./store.js";

/** @import { Draft, RankingForm } from "./form.js" */

const DRAFT_DELAY = 700; // milliseconds after the last change

export class DraftKeeper {
  /**
   * @param {string} assignment
   * @param {RankingForm} form
   * @param {object} task
   * @param {() => number} task.getSeconds
   * @param {() => boolean} task.isSent
   * @param {(note: "" | "saved" | "kept_here") => void} task.onSaved
   */
  constructor(assignment, form, { getSeconds, isSent, onSaved }) {
    this.assignment = assignment;
    this.form = form;
    this.getSeconds = getSeconds;
    this.isSent = isSent;
    this.onSaved = onSaved;
    /** @type {number | undefined} */
    this.timer = undefined;
  }

  /** What this browser kept, if it did.
   * @returns {Partial<Draft> | null}
   */
  read() {
    return local.get(draftKey(this.assignment));
  }

  /** Something has changed. */
  keep() {
    local.set(draftKey(this.assignment), this.form.readDraft(this.getSeconds()));
    this.stop();
    this.onSaved("");
    this.timer = window.setTimeout(() => this.save(), DRAFT_DELAY);
  }

  stop() {
    clearTimeout(this.timer);
  }

  async save() {
    if (this.isSent()) return;
    const answer = await fetch(at(`/api/v1/assignments/${this.assignment}/draft`), {
      method: "PUT",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": getToken(this.form.element) },
      body: JSON.stringify(this.form.readDraft(this.getSeconds())),
    }).catch(() => null);
    if (!this.isSent()) this.onSaved(answer?.ok ? "saved" : "kept_here");
  }
}
