// Sentences, the clock, and the time at work.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Store } from "../../static/ranking/store.js";
import { addSecond } from "../../static/ranking/timing.js";
import { fill, formatClock } from "../../static/ranking/words.js";

test("places in a sentence are filled, each by its name", () => {
  assert.equal(
    fill("{letter} is now in place {place}, {letter}!", { letter: "A", place: 2 }),
    "A is now in place 2, A!",
  );
});

test("a clock shows minutes and two digits of seconds", () => {
  assert.deepEqual([0, 59.9, 75, 3600].map(formatClock), ["0:00", "0:59", "1:15", "60:00"]);
});

test("a break is suggested after 45 minutes, and then the stretch begins anew", () => {
  const [before, early] = addSecond({ seconds: 10, stretch: 45 * 60 - 2, done: 3 });
  assert.equal(early, false);
  const [after, tired] = addSecond(before);
  assert.deepEqual([after, tired], [{ seconds: 12, stretch: 0, done: 3 }, true]);
  assert.deepEqual(addSecond({}), [{ seconds: 1, stretch: 1 }, false]);
});

test("a shelf that is forbidden or holds nonsense is an empty one", () => {
  const forbidden = new Store(() => {
    throw new DOMException("denied", "SecurityError");
  });
  assert.deepEqual([forbidden.get("x"), forbidden.set("x", 1), forbidden.drop("x")], [null, false, undefined]);
  const nonsense = new Store(() => ({ getItem: () => "{", setItem: () => {}, removeItem: () => {} }));
  assert.equal(nonsense.get("x"), null);
});
