// @ts-check
// The form's own fields hold what is submitted: selects for tiers, radios for a preference between two. Cards,
// chips and keys only change those, and a draft is what they say.
import { find, findAll, get, getField } from "../shared/dom.js";
import { closeGaps, rankPair, writeOrder } from "./ranks.js";

/**
 * @typedef {object} Draft
 * @property {Record<string, number>} ranks tiers by candidate
 * @property {number | null} preference
 * @property {Record<string, number | Record<string, number>>} axes
 * @property {string[]} flags
 * @property {string} rationale
 * @property {string} rewrite
 * @property {number} seconds
 */

export class RankingForm {
  /**
   * @param {HTMLFormElement} element
   * @param {HTMLElement[]} cards
   */
  constructor(element, cards) {
    this.element = element;
    this.cards = cards;
    this.isPair = cards.length === 2;
    this.letters = cards.map((card) => card.dataset.letter ?? "");
  }

  /** @param {HTMLElement} card */
  getTier(card) {
    return this.isPair ? 0 : Number(get("select", card, HTMLSelectElement).value);
  }

  /**
   * @param {HTMLElement} card
   * @param {number} tier
   */
  setTier(card, tier) {
    get("select", card, HTMLSelectElement).value = tier ? String(tier) : "";
  }

  /** The steps of the scale between two, from left to right. */
  listSteps() {
    return findAll("input[name=preference]", this.element, HTMLInputElement);
  }

  getPreference() {
    const chosen = this.listSteps().find((step) => step.checked);
    return chosen ? Number(chosen.value) : null;
  }

  /** @param {number | null} preference */
  setPreference(preference) {
    for (const step of this.listSteps()) step.checked = preference !== null && Number(step.value) === preference;
  }

  /** Ranks in the order of the cards; 0 is none yet. */
  listRanks() {
    return this.isPair ? rankPair(this.getPreference()) : closeGaps(this.cards.map((card) => this.getTier(card)));
  }

  /** The card in the first rank, if there is one. */
  findBest() {
    return this.cards[this.listRanks().indexOf(1)] ?? null;
  }

  findUnranked() {
    return this.isPair ? null : (this.cards.find((card) => !this.getTier(card)) ?? null);
  }

  /** Once every card has a place, places are without gaps: what is shown is what is stored. */
  closeGaps() {
    if (this.isPair || !this.isComplete()) return;
    const ranks = this.listRanks();
    this.cards.forEach((card, index) => this.setTier(card, ranks[index]));
  }

  isComplete() {
    return this.listRanks().every(Boolean);
  }

  /** The ranking in the rater's words: "B > A = D", or the step that they chose. Empty where there is none. */
  describe() {
    if (!this.isPair) return writeOrder(this.letters, this.listRanks());
    const chosen = this.listSteps().find((step) => step.checked);
    return chosen?.closest("label")?.textContent?.trim() ?? "";
  }

  /**
   * @param {number} seconds
   * @returns {Draft}
   */
  readDraft(seconds) {
    /** @type {Draft["axes"]} */
    const axes = {};
    for (const { dataset, value } of this.listScores().filter((input) => input.checked)) {
      const axis = /** @type {string} */ (dataset.axis);
      if (dataset.candidate === undefined) axes[axis] = Number(value);
      else axes[axis] = { .../** @type {object} */ (axes[axis]), [dataset.candidate]: Number(value) };
    }
    const tiers = this.cards.map((card) => /** @type {const} */ ([card.dataset.candidate ?? "", this.getTier(card)]));
    return {
      ranks: Object.fromEntries(tiers.filter(([, tier]) => tier)),
      preference: this.getPreference(),
      axes,
      flags: this.listFlags()
        .filter((input) => input.checked)
        .map((input) => input.value),
      rationale: getField(this.element, "rationale").value,
      rewrite: getField(this.element, "rewrite").value,
      seconds: Math.round(seconds * 10) / 10,
    };
  }

  /** Put a draft back. One from an older page may lack anything.
   * @param {Partial<Draft>} draft
   */
  restoreDraft({ ranks = {}, preference = null, axes = {}, flags = [], ...texts }) {
    for (const card of this.isPair ? [] : this.cards) {
      const tier = ranks[card.dataset.candidate ?? ""];
      if (tier) this.setTier(card, tier);
    }
    if (preference !== null) this.setPreference(preference);
    for (const input of this.listScores()) input.checked ||= readScore(axes, input) === Number(input.value);
    for (const input of this.listFlags()) input.checked = flags.includes(input.value);
    for (const name of /** @type {const} */ (["rationale", "rewrite"])) {
      const text = texts[name];
      if (text) getField(this.element, name).value = text;
    }
  }

  /** The radio buttons of the axes' scales; those of an axis for each response name their candidate. */
  listScores() {
    return findAll("input[data-axis]", this.element, HTMLInputElement);
  }

  listFlags() {
    return findAll("input[name=flags]", this.element, HTMLInputElement);
  }

  /** The box that says that no response is good enough, and what it says. */
  getNoneIsGood() {
    const box = get("#none-is-good", this.element, HTMLInputElement);
    return { box, label: find("[data-name]", box.closest("label") ?? box)?.textContent ?? "" };
  }
}

/** What a draft gives the scale that a radio button is of: an axis may ask once, or for each response.
 * @param {Draft["axes"]} axes
 * @param {HTMLInputElement} input
 */
function readScore(axes, { dataset: { axis = "", candidate } }) {
  const score = axes[axis];
  if (candidate === undefined) return typeof score === "number" ? score : undefined;
  return typeof score === "object" ? score[candidate] : undefined;
}
