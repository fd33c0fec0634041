// Which key does what, and when a key is the browser's.
import assert from "node:assert/strict";
import { test } from "node:test";

import { readKey } from "../../static/ranking/keys.js";

const NOWHERE = { typing: false, onControl: false, onRadio: false, inDialog: false };

function press(key, moment = {}, modifiers = {}) {
  const plain = { ctrlKey: false, altKey: false, metaKey: false, shiftKey: false };
  return readKey({ key, ...plain, ...modifiers }, { ...NOWHERE, ...moment });
}

test("digits choose, letters act whatever their case, and others are the browser's", () => {
  assert.deepEqual(press("4"), { name: "digit", by: 4 });
  assert.deepEqual(press("Backspace"), { name: "digit", by: 0 });
  assert.deepEqual([press("u"), press("U", {}, { shiftKey: true })], [{ name: "undo" }, { name: "undo" }]);
  for (const key of ["z", "Tab", "F5", "constructor", "٣"]) assert.equal(press(key), null, key);
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

test("no key is a command in a dialog, nor with Alt or Meta, nor with Ctrl but for Enter", () => {
  for (const key of ["1", "Enter", "s"]) {
    assert.equal(press(key, { inDialog: true }), null, key);
    assert.equal(press(key, {}, { altKey: true }), null, key);
    assert.equal(press(key, {}, { metaKey: true }), null, key);
  }
  assert.equal(press("u", {}, { ctrlKey: true }), null);
});
