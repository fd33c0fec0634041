// Which key does what, and when a key is the browser's.
import assert from "node:assert/strict";
import { test } from "node:test";

import { readKey } from "../../static/ranking/keys.js";

const NOWHERE = { typing: false, onControl: false, onRadio: false, inDialog: false };

function press(key, moment = {}, { code = "", ...modifiers } = {}) {
  const plain = { ctrlKey: false, altKey: false, metaKey: false, shiftKey: false };
  return readKey({ key, code, ...plain, ...modifiers }, { ...NOWHERE, ...moment });
}

test("digits choose, letters act whatever their case, and others are the browser's", () => {
  assert.deepEqual(press("4"), { name: "digit", by: 4 });
  assert.deepEqual(press("Backspace"), { name: "digit", by: 0 });
  assert.deepEqual([press("u"), press("U", {}, { shiftKey: true })], [{ name: "undo" }, { name: "undo" }]);
  for (const key of ["z", "Tab", "F5", "constructor", "½", "²"]) assert.equal(press(key), null, key);
});

test("V switches one response, with Shift all of them", () => {
  assert.deepEqual(press("v"), { name: "view" });
  assert.deepEqual(press("V", {}, { shiftKey: true }), { name: "views" });
  assert.equal(press("v", { typing: true }), null);
});

test("arrows mark, and with Shift they move", () => {
  assert.deepEqual(press("ArrowDown"), { name: "step", by: 1 });
  assert.deepEqual(press("ArrowDown", {}, { shiftKey: true }), { name: "move", by: 1 });
  assert.deepEqual(press("ArrowUp", {}, { shiftKey: true }), { name: "move", by: -1 });
  assert.deepEqual(press("ArrowLeft", {}, { shiftKey: true }), { name: "sideways", by: -1 });
});

test("arrows among radio buttons are the browser's, digits there are not", () => {
  assert.equal(press("ArrowRight", { onRadio: true }), null);
  assert.deepEqual(press("2", { onRadio: true }), { name: "digit", by: 2 });
});

test("nothing but Ctrl and Enter is a command while one types", () => {
  for (const key of ["1", "u", "?", "Enter", "Backspace"]) assert.equal(press(key, { typing: true }), null, key);
  assert.deepEqual(press("Enter", { typing: true }, { ctrlKey: true }), { name: "submit" });
});

test("Enter submits, but on a control it presses that", () => {
  assert.deepEqual(press("Enter"), { name: "submit" });
  assert.equal(press("Enter", { onControl: true }), null);
  assert.deepEqual(press("Enter", { onControl: true }, { ctrlKey: true }), { name: "submit" });
});

test("no key is a command in a dialog, nor with Alt, nor with Ctrl or Meta but for Enter, which submits from anywhere", () => {
  for (const key of ["1", "Enter", "s"]) {
    assert.equal(press(key, { inDialog: true }), null, key);
    assert.equal(press(key, {}, { altKey: true }), null, key);
  }
  for (const modifier of [{ ctrlKey: true }, { metaKey: true }]) {
    for (const moment of [{}, { typing: true }, { onControl: true }, { inDialog: true }]) {
      assert.deepEqual(press("Enter", moment, modifier), { name: "submit" });
    }
    assert.equal(press("u", {}, modifier), null);
    assert.equal(press("1", {}, modifier), null);
  }
});

test("digits of every script are digits", () => {
  const scripts = { Arabic: "٣", Persian: "۳", fullWidth: "３", Devanagari: "३", mathematical: "𝟛" };
  for (const [script, key] of Object.entries(scripts)) {
    assert.deepEqual(press(key, {}, { code: "Digit3" }), { name: "digit", by: 3 }, script);
  }
  assert.deepEqual(
    [press("٠"), press("٩")],
    [
      { name: "digit", by: 0 },
      { name: "digit", by: 9 },
    ],
  );
});

test("where digits need Shift, the key counts by its place", () => {
  const azerty = ["à", "&", "é", '"', "'", "(", "-", "è", "_", "ç"];
  azerty.forEach((key, digit) => {
    assert.deepEqual(press(key, {}, { code: `Digit${digit}` }), { name: "digit", by: digit }, key);
  });
  assert.deepEqual(press("1", {}, { code: "Digit1", shiftKey: true }), { name: "digit", by: 1 });
  assert.deepEqual(press("+", {}, { code: "Digit1" }), { name: "digit", by: 1 }); // Czech
});

test("a sign of ours is a command wherever it stands, and a Latin letter is what it writes", () => {
  assert.deepEqual(press("?", {}, { code: "Minus", shiftKey: true }), { name: "keys" });
  assert.deepEqual(press("?", {}, { code: "Digit7", shiftKey: true }), { name: "keys" });
  // On Dvorak the key at the place of J writes h: no command. The one that writes j is.
  assert.equal(press("h", {}, { code: "KeyJ" }), null);
  assert.deepEqual(press("j", {}, { code: "KeyC" }), { name: "step", by: 1 });
});

test("Cyrillic, Greek, Arabic and Hebrew letters count by their key's place", () => {
  const letters = [
    ["о", "KeyJ", { name: "step", by: 1 }],
    ["Л", "KeyK", { name: "step", by: -1 }],
    ["γ", "KeyG", { name: "guidelines" }],
    ["σ", "KeyS", { name: "skip" }],
    ["ع", "KeyU", { name: "undo" }],
    ["ד", "KeyS", { name: "skip" }],
  ];
  for (const [key, code, action] of letters) assert.deepEqual(press(key, {}, { code }), action, key);
  assert.equal(press("ж", {}, { code: "Semicolon" }), null);
  assert.equal(press("о", { typing: true }, { code: "KeyJ" }), null);
});
