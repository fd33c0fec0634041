// @ts-check
// One task on the page: what the rater does with it.
import { describeTier, openDialog, prepareCards, showMark, showRanks } from "./cards.js";
import { Desk } from "./desk.js";
import { Differences } from "./difference.js";
import { at, encodeForm, find, findAll, get, getField, getToken } from "../shared/dom.js";
import { DraftKeeper } from "./draft.js";
import { RankingForm } from "./form.js";
import { readProblem } from "./outbox.js";
import { moveStep, moveTier } from "./ranks.js";
import { Sight } from "./seen.js";
import { draftKey, local } from "./store.js";
import { announce } from "./told.js";
import { say } from "./words.js";

/** @import { Entry } from "./outbox.js" */
/**
 * @typedef {object} Listener
 * @property {(entry: Entry, task: Task) => void} onSubmit
 * @property {(task: Task) => void} onSkip
 * @property {(task: Task) => void} onOutdated the project asks other questions by now
 */

export class Task {
  /**
   * @param {HTMLElement} root
   * @param {Listener} listener
   */
  constructor(root, listener) {
    this.root = root;
    this.listener = listener;
    this.id = root.dataset.assignment ?? "";
    this.changing = root.dataset.changing; // the stored ranking that is being changed
    this.project = root.dataset.project ?? "";
    this.cards = findAll(".card", root);
    this.form = new RankingForm(get("#ranking", root, HTMLFormElement), this.cards);
    /** @type {(() => void)[]} */
    this.history = [];
    this.sent = false;
    this.touched = false;
    this.seconds = Number(getField(this.form.element, "seconds").value) || 0;
    this.draft = new DraftKeeper(this.id, this.form, {
      getSeconds: () => this.seconds,
      isSent: () => this.sent,
      onSaved: (note) => this.note(note && say(note)),
    });
    this.restoreDraft();
    /** @type {Map<HTMLElement, number>} what the rater chose last, before gaps closed */
    this.chosen = new Map(this.cards.map((card) => [card, this.form.getTier(card)]));
    this.form.closeGaps(); // a draft of an older page, or a stored ranking, may have some
    prepareCards(this);
    this.differences = new Differences(this.id, root, this.form);
    this.listen();
    this.marked = this.form.findUnranked() ?? this.cards[0];
    this.desk = new Desk(this);
    this.sight = new Sight(this.cards, (card) => this.noteSeen(card));
    showRanks(this);
    this.mark(this.marked, { focus: false });
  }

  get count() {
    return this.cards.length;
  }

  restoreDraft() {
    const draft = this.changing ? null : this.draft.read();
    if (!draft) return;
    this.form.restoreDraft(draft);
    this.seconds = Math.max(this.seconds, draft.seconds ?? 0);
  }

  listen() {
    const form = this.form.element;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    form.addEventListener("input", ({ target }) => {
      const name = /** @type {HTMLInputElement} */ (target).name;
      if (name === "preference") showRanks(this);
      if (name === "rewrite") this.differences.compareRewrite();
      this.keepDraft();
    });
    for (const button of findAll("[data-dialog]", this.root)) {
      button.addEventListener("click", () => openDialog(button.dataset.dialog ?? "", this));
    }
    get("#copy-best", this.root).addEventListener("click", () => this.copyBest());
  }

  /** What is stored stays so until a change of it is submitted: then there is no draft. */
  keepDraft() {
    if (!this.changing) this.draft.keep();
  }

  /** @param {string} text */
  note(text) {
    get("#saved", this.root).textContent = text;
  }

  /** Put a card into a tier; 0 takes it out.
   * @param {HTMLElement} card
   * @param {number} tier
   */
  setTier(card, tier, { remember = true } = {}) {
    this.chosen.set(card, tier);
    if (this.form.getTier(card) === tier || this.sent) return;
    if (remember) {
      // The others' places may change with it, where a gap closes.
      const tiers = this.cards.map((each) => this.form.getTier(each));
      this.history.push(() => {
        this.cards.forEach((each, index) => this.form.setTier(each, tiers[index]));
        this.showPlaces(card);
        this.mark(card);
      });
    }
    this.form.setTier(card, tier);
    this.form.closeGaps();
    this.showPlaces(card);
  }

  /** @param {HTMLElement} card the one that has a new place */
  showPlaces(card) {
    showRanks(this);
    this.keepDraft();
    announce(describeTier(this, card));
  }

  /** Choose how two responses compare.
   * @param {number | null} preference
   */
  setPreference(preference, { remember = true } = {}) {
    const before = this.form.getPreference();
    if (before === preference || this.sent) return;
    if (remember) this.history.push(() => this.setPreference(before, { remember: false }));
    this.form.setPreference(preference);
    showRanks(this);
    this.keepDraft();
    announce(get("#order", this.root).textContent ?? "");
  }

  undo() {
    const last = this.history.pop();
    if (last) last();
    else announce(say("nothing_to_undo"));
  }

  /** Mark the card that keys speak of.
   * @param {HTMLElement} card
   */
  mark(card, { focus = true } = {}) {
    this.marked = card;
    showMark(this.cards, card);
    this.desk.show();
    if (!focus) return;
    card.focus({ preventScroll: true });
    if (this.touched || this.desk.mode === "one") card.scrollIntoView({ block: "nearest", inline: "start" });
  }

  /** @param {number} index of the card that a button leads to */
  goTo(index) {
    this.touched = true;
    this.mark(this.cards[index]);
  }

  /** @param {HTMLElement} card its end has been on the screen */
  noteSeen(card) {
    get(`[data-jump="${this.cards.indexOf(card)}"]`, this.root).classList.add("seen");
  }

  /** Where the project asks for it, each response is seen to its end before a ranking goes; whether one is not.
   * @returns {boolean}
   */
  lookAtAll() {
    const unseen = this.cards.filter((card) => !this.sight.seen.has(card));
    // What a stored ranking saw is stored with it: to change it asks nothing again.
    if (this.changing || this.root.dataset.requireSeen === undefined || !unseen.length) return false;
    const reason = say("unseen", { letters: unseen.map((card) => card.dataset.letter).join(", ") });
    this.note(reason);
    announce(reason);
    this.touched = true;
    this.mark(unseen[0]);
    return true;
  }

  /** A key that judges what is not on the screen brings it there first; whether it did.
   * @returns {boolean}
   */
  lookFirst() {
    const card = this.form.isPair
      ? this.cards.find((each) => !this.sight.isKnown(each))
      : [this.marked].find((each) => !this.sight.isInView(each));
    if (!card) return false;
    this.touched = true;
    this.mark(card);
    announce(say("look_first", { letter: card.dataset.letter ?? "" }));
    return true;
  }

  /** Mark a card before or after.
   * @param {number} by
   */
  step(by) {
    this.touched = true;
    const index = this.cards.indexOf(this.marked) + by + this.count;
    this.mark(this.cards[index % this.count]);
  }

  /** A digit: a tier, or a step of the scale; 0 takes it back. It speaks to the field that has the focus.
   * @param {number} digit
   * @param {Element | null} scale the axis's scale that has it
   */
  choose(digit, scale) {
    if (scale) {
      find(`input[value="${digit}"]`, scale, HTMLInputElement)?.click();
      return;
    }
    if (this.lookFirst()) return;
    this.touched = true;
    const steps = this.form.listSteps();
    const count = this.form.isPair ? steps.length : this.count;
    if (digit > count) {
      announce(say("only_places", { count }));
    } else if (this.form.isPair) {
      this.setPreference(digit ? Number(steps[digit - 1].value) : null);
    } else {
      const card = this.marked;
      this.setTier(card, digit);
      this.mark((digit && this.form.findUnranked()) || card);
    }
  }

  /** Move the marked card, or the preference, up or down.
   * @param {number} by
   */
  move(by) {
    if (this.lookFirst()) return;
    if (this.form.isPair) {
      const steps = this.form.listSteps();
      const chosen = steps.findIndex((step) => step.checked);
      this.setPreference(Number(steps[moveStep(chosen, by, steps.length)].value));
      return;
    }
    this.setTier(this.marked, moveTier(this.form.getTier(this.marked), by, this.count));
    this.mark(this.marked);
  }

  /** Say that no response is good enough, or take it back. */
  toggleNone() {
    const { box, label } = this.form.getNoneIsGood();
    box.checked = !box.checked;
    const details = box.closest("details");
    if (details && box.checked) details.open = true;
    this.keepDraft();
    announce(`${label}: ${box.checked ? "✓" : "–"}`);
  }

  /** Begin a better version from the best response. */
  copyBest() {
    const best = this.form.findBest();
    if (!best) {
      announce(say("best_first"));
      return;
    }
    const box = getField(this.form.element, "rewrite");
    // What was written, not what it looks like: it is stored, and exported as a demonstration.
    if (!box.value.trim()) box.value = get(".source", best).textContent ?? "";
    box.focus();
    this.differences.compareRewrite();
    this.keepDraft();
  }

  submit() {
    if (this.sent) return;
    if (!this.form.isComplete()) {
      const reason = say(this.form.isPair ? "no_preference" : "incomplete");
      announce(reason);
      this.note(reason);
      const unranked = this.form.findUnranked();
      if (unranked) this.mark(unranked);
      return;
    }
    if (this.lookAtAll()) return;
    this.sent = true;
    this.draft.stop();
    getField(this.form.element, "seconds").value = this.seconds.toFixed(1);
    const seen = this.cards.filter((card) => this.sight.seen.has(card));
    getField(this.form.element, "seen").value = seen.map((card) => card.dataset.candidate).join(" ");
    get("#submit", this.root, HTMLButtonElement).disabled = true;
    this.note(say("sending"));
    const entry = {
      id: this.changing ?? this.id,
      address: this.form.element.getAttribute("action") ?? "",
      body: encodeForm(this.form.element).toString(),
      order: this.form.describe(),
      project: this.project,
    };
    this.listener.onSubmit(entry, this);
  }

  /** The server said no: nothing is lost, the rater decides.
   * @param {string} reason
   * @param {string} [field] what it is about
   */
  refuse(reason, field) {
    this.sent = false;
    get("#submit", this.root, HTMLButtonElement).disabled = false;
    this.note(say("refused", { reason }));
    announce(say("refused", { reason }));
    if (field === "questions" && !this.changing) this.listener.onOutdated(this);
  }

  /** Post a small form; whether the server took it. Dialogs make way.
   * @param {HTMLFormElement} form
   */
  async post(form) {
    const body = encodeForm(form);
    body.set("csrf_token", getToken(this.form.element)); // the page's own may be older than the task
    const options = { method: "POST", headers: { Accept: "application/json" }, body };
    const answer = await fetch(at(`/rate/assignments/${this.id}/${form.id}`), options).catch(() => null);
    form.closest("dialog")?.close();
    if (answer?.ok && !answer.redirected) {
      form.reset();
      return true;
    }
    this.note(answer ? say("refused", await readProblem(answer)) : say("kept_here"));
    return false;
  }

  /** @param {HTMLFormElement} form */
  async giveBack(form) {
    if (!(await this.post(form))) return;
    this.sent = true;
    local.drop(draftKey(this.id));
    this.listener.onSkip(this);
  }

  /** Put the task off, with what was put down so far: that goes to the server first.
   * @param {HTMLFormElement} form
   */
  async putOff(form) {
    if (this.sent) return;
    find("dialog[open]", document, HTMLDialogElement)?.close();
    this.draft.stop();
    await this.draft.save();
    if (!(await this.post(form))) return;
    this.sent = true;
    this.listener.onSkip(this);
  }

  /** @param {HTMLFormElement} form */
  async tellAdmins(form) {
    if (!(await this.post(form))) return;
    this.note(say("noted"));
    announce(say("noted"));
  }
}
