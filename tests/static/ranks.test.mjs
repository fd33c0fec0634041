// The model of a ranking: what is stored and what is read out, without a page.
import assert from "node:assert/strict";
import { test } from "node:test";

import { closeGaps, moveStep, moveTier, rankPair, writeOrder } from "../../static/ranking/ranks.js";

test("ranks are the tiers without gaps, and no tier is no rank", () => {
  assert.deepEqual(closeGaps([1, 3, 3, 0]), [1, 2, 2, 0]);
  assert.deepEqual(closeGaps([9, 9, 9]), [1, 1, 1]);
  assert.deepEqual(closeGaps([0, 0]), [0, 0]);
  // Numbers are sorted as numbers: 10 comes after 9.
  assert.deepEqual(closeGaps([10, 9, 2]), [3, 2, 1]);
});

test("a preference ranks two, and its middle is a tie", () => {
  assert.deepEqual([3, 0, -1, null].map(rankPair), [
    [1, 2],
    [1, 1],
    [2, 1],
    [0, 0],
  ]);
});

test("an order is read best first, equals by letter, and what has no rank is left out", () => {
  assert.equal(writeOrder(["A", "B", "C", "D"], [2, 1, 2, 0]), "B > A = C");
  assert.equal(writeOrder(["D", "A"], [1, 1]), "A = D");
  assert.equal(writeOrder(["A", "B"], [0, 0]), "");
});

test("a move stays within the tiers, and begins at the first", () => {
  assert.deepEqual([moveTier(0, -1, 4), moveTier(0, 1, 4), moveTier(1, -1, 4), moveTier(4, 1, 4)], [1, 1, 1, 4]);
});

test("a move on the scale begins beside its middle and ends at its ends", () => {
  assert.deepEqual([moveStep(-1, 1, 7), moveStep(-1, -1, 7)], [4, 2]);
  assert.deepEqual([moveStep(6, 1, 7), moveStep(0, -1, 7), moveStep(3, -1, 7)], [6, 0, 2]);
});
