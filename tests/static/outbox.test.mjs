// What is submitted waits until the server has it.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Outbox } from "../../static/ranking/outbox.js";
import { Store } from "../../static/ranking/store.js";

const ENTRY = { id: "a1", address: "/rate/assignments/a1", body: "x=1", order: "A > B", project: "/rate/p" };
const OTHER = { ...ENTRY, id: "a2", order: "B > A" };

function createShelf() {
  const kept = new Map();
  return {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, value),
    removeItem: (key) => kept.delete(key),
  };
}

function answerWith(status, body = {}, redirected = false) {
  return { ok: status < 300, status, redirected, json: async () => body };
}

/** An outbox, what it told, and what it sent; `answers` are taken one by one, an Error is a lost line. */
function createOutbox(answers, shelf = createShelf(), owner = "ann") {
  const told = [];
  const sent = [];
  const send = async (address, options) => {
    sent.push([address, options]);
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    return answer;
  };
  const listener = {
    onStored: (stored) => told.push(["stored", stored.order]),
    onRefused: (entry, reason) => told.push(["refused", entry.id, reason]),
    onWaiting: (count, signedOut) => told.push(["waiting", count, signedOut]),
    onEmpty: () => told.push(["empty"]),
    onChanged: () => {},
  };
  const outbox = new Outbox({ owner, store: new Store(() => shelf), send, getToken: () => "token", listener });
  return { outbox, told, sent, shelf };
}

test("what the server has is forgotten, with its draft", async () => {
  const { outbox, told, sent, shelf } = createOutbox([answerWith(200, { order: "A > B" })]);
  shelf.setItem("draft-a1", "{}");
  outbox.keep(ENTRY);
  assert.equal(await outbox.deliver(ENTRY), "stored");
  assert.deepEqual(outbox.list(), []);
  assert.equal(shelf.getItem("draft-a1"), null);
  assert.deepEqual(told, [["empty"], ["stored", "A > B"]]);
  assert.equal(sent[0][1].headers["X-CSRF-Token"], "token");
});

test("without a line, with a server in trouble and signed out, it waits", async () => {
  const troubles = [
    [new TypeError("no line"), false],
    [answerWith(503), false],
    [answerWith(429), false],
    [answerWith(401), true],
    [answerWith(403), true],
    [answerWith(200, {}, true), true],
  ];
  for (const [answer, signedOut] of troubles) {
    const { outbox, told } = createOutbox([answer]);
    outbox.keep(ENTRY);
    assert.equal(await outbox.deliver(ENTRY), "waiting");
    assert.deepEqual(outbox.list(), [{ ...ENTRY, owner: "ann" }]);
    assert.deepEqual(told, [["waiting", 1, signedOut]]);
  }
});

test("what the server refuses is told to its task, or on the page where that is gone", async () => {
  const { outbox, told } = createOutbox([answerWith(409, { detail: "too late" }), answerWith(404, { title: "gone" })]);
  const reasons = [];
  outbox.keep(ENTRY);
  const asker = { refuse: (reason) => reasons.push(reason) };
  assert.equal(await outbox.deliver(ENTRY, () => asker), "refused");
  assert.deepEqual(reasons, ["too late"]);
  outbox.keep(OTHER);
  assert.equal(await outbox.deliver(OTHER), "refused");
  assert.deepEqual(told, [["empty"], ["empty"], ["refused", "a2", "gone"]]);
  assert.deepEqual(outbox.list(), []);
});

test("what the server refused is kept and sent no more, until its owner mends or discards it", async () => {
  const refusal = answerWith(409, { detail: "others are asked" });
  const { outbox, sent, shelf } = createOutbox([refusal, refusal, answerWith(200, { order: "A > B" })]);
  outbox.keep(ENTRY);
  outbox.keep(OTHER);
  const nobody = () => null;
  await outbox.retry(nobody, assert.fail);
  await outbox.retry(nobody, assert.fail);
  assert.equal(sent.length, 2);
  const { outbox: later } = createOutbox([answerWith(200, { order: "A > B" })], shelf); // the page, loaded anew
  assert.deepEqual(
    later.listRefused().map(({ id, refused, body }) => [id, refused, body]),
    [
      ["a1", "others are asked", "x=1"],
      ["a2", "others are asked", "x=1"],
    ],
  );
  later.keep({ ...ENTRY, body: "x=2" }); // mended
  assert.equal(await later.deliver(later.list()[0]), "stored");
  later.forget(later.listRefused()[0]); // discarded
  assert.deepEqual(later.read(), []);
});

test("an entry is its owner's: another neither sees nor sends nor loses it", async () => {
  const shelf = createShelf();
  const ann = createOutbox([new TypeError("no line"), answerWith(200, { order: "A > B" })], shelf);
  ann.outbox.keep(ENTRY);
  await ann.outbox.deliver(ENTRY);
  const bob = createOutbox([answerWith(200, { order: "B > A" })], shelf, "bob");
  assert.deepEqual([bob.outbox.list(), bob.outbox.listRefused()], [[], []]);
  bob.outbox.keep(OTHER);
  await bob.outbox.retry(() => null, assert.fail);
  assert.deepEqual(
    bob.sent.map(([address]) => address),
    [OTHER.address],
  );
  assert.deepEqual(bob.told, [["empty"], ["stored", "B > A"]]);
  await ann.outbox.retry(() => null, assert.fail);
  assert.equal(ann.sent.length, 2);
  assert.deepEqual(bob.outbox.read(), []);
});

test("one entry is sent once at a time, and kept once", async () => {
  const { outbox, sent } = createOutbox([answerWith(200)]);
  outbox.keep(ENTRY);
  outbox.keep(ENTRY);
  assert.equal(outbox.list().length, 1);
  const both = await Promise.all([outbox.deliver(ENTRY), outbox.deliver(ENTRY)]);
  assert.deepEqual(both, ["stored", "waiting"]);
  assert.equal(sent.length, 1);
});

test("a retry goes in order, stops where the line does, and tells the task that is on the page again", async () => {
  const lost = new TypeError("no line");
  const { outbox, sent } = createOutbox([lost, answerWith(200), answerWith(200)]);
  outbox.keep(ENTRY);
  outbox.keep(OTHER);
  const done = [];
  const onPage = { id: "a2", refuse: assert.fail };
  const findTask = (entry) => (entry.id === onPage.id ? onPage : null);
  await outbox.retry(findTask, (task) => done.push(task.id));
  assert.equal(sent.length, 1);
  assert.equal(outbox.list().length, 2);
  await outbox.retry(findTask, (task) => done.push(task.id));
  assert.deepEqual([outbox.list(), done], [[], ["a2"]]);
});

test("where nothing can be kept, keeping says so and sending still works", async () => {
  const forbidden = {
    getItem: () => null,
    setItem: () => {
      throw new Error("full");
    },
    removeItem: () => {},
  };
  const { outbox } = createOutbox([answerWith(200)], forbidden);
  assert.equal(outbox.keep(ENTRY), false);
  assert.equal(await outbox.deliver(ENTRY), "stored");
});
