// @ts-check
// The model of a ranking, without a page. A tier is what the rater chose, 1 for best and 0 for none yet, and may
// leave gaps; ranks are the tiers without gaps, which is what the server stores.

/** Ranks of these tiers: 1, 3, 3, 0 is 1, 2, 2, 0.
 * @param {number[]} tiers
 */
export function closeGaps(tiers) {
  const used = [...new Set(tiers.filter(Boolean))].sort((a, b) => a - b);
  return tiers.map((tier) => used.indexOf(tier) + 1);
}

/** Ranks of two responses compared on the scale: above 0 the first is better.
 * @param {number | null} preference
 */
export function rankPair(preference) {
  if (preference === null) return [0, 0];
  return [preference < 0 ? 2 : 1, preference > 0 ? 2 : 1];
}

/** The order in letters, best first: "B > A = D". What has no rank yet is left out.
 * @param {string[]} letters
 * @param {number[]} ranks
 */
export function writeOrder(letters, ranks) {
  const ranked = letters.map((letter, index) => ({ letter, rank: ranks[index] })).filter(({ rank }) => rank);
  ranked.sort((a, b) => a.rank - b.rank || a.letter.localeCompare(b.letter));
  return ranked
    .map(({ letter, rank }, index) => {
      if (!index) return letter;
      return (rank === ranked[index - 1].rank ? " = " : " > ") + letter;
    })
    .join("");
}

/** The tier after a move up or down; one without a tier begins at the first.
 * @param {number} tier
 * @param {number} by
 * @param {number} count
 */
export function moveTier(tier, by, count) {
  return Math.min(count, Math.max(1, tier + by));
}

/** The step of a scale after a move; with none chosen, the one beside the middle.
 * @param {number} chosen its index, or -1
 * @param {number} by
 * @param {number} count
 */
export function moveStep(chosen, by, count) {
  if (chosen < 0) return (count - 1) / 2 + Math.sign(by);
  return Math.min(count - 1, Math.max(0, chosen + by));
}
