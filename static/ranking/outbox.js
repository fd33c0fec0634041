// @ts-check
// What is submitted waits here until the server has it, through reloads and lost lines. A browser may be several
// people's: each sees and sends their own; what the server refuses stays until its owner discards it.
import { draftKey } from "./store.js";

/** @import { Store } from "./store.js" */
/** @import { Stored } from "./told.js" */

/**
 * @typedef {object} Entry a ranking on its way
 * @property {string} id of its assignment, or of the ranking that it changes
 * @property {string} address
 * @property {string} body the form, encoded
 * @property {string} order for people
 * @property {string} project the address of its project
 * @property {string} [owner] whose it is; entries of older pages do not say
 * @property {string} [refused] why the server will not have it
 */
/** @typedef {"stored" | "refused" | "waiting"} Outcome refused: the server's answer is final */
/** @typedef {{ refuse: (reason: string, field?: string) => void }} Asker */
/**
 * @typedef {object} Listener
 * @property {(stored: Stored) => void} onStored
 * @property {(entry: Entry, reason: string) => void} onRefused its task is not on the page any more
 * @property {() => void} onChanged what is kept here has changed
 * @property {(count: number, signedOut: boolean) => void} onWaiting
 * @property {() => void} onEmpty
 */

/** Why the server said no, and what it is about.
 * @param {Response} answer
 * @returns {Promise<{ reason: string, field?: string }>}
 */
export async function readProblem(answer) {
  const problem = await answer.json().catch(() => ({}));
  return { reason: problem.detail || problem.title || String(answer.status), field: problem.place };
}

export class Outbox {
  /**
   * @param {object} parts
   * @param {string} parts.owner who is signed in
   * @param {Store} parts.store
   * @param {(address: string, options: RequestInit) => Promise<Response>} parts.send
   * @param {() => string | undefined} parts.getToken
   * @param {Listener} parts.listener
   */
  constructor({ owner, store, send, getToken, listener }) {
    this.owner = owner;
    this.store = store;
    this.send = send;
    this.getToken = getToken;
    this.listener = listener;
    /** @type {Set<string>} */
    this.underway = new Set();
    this.isRetrying = false;
  }

  /** Everybody's.
   * @returns {Entry[]}
   */
  read() {
    return this.store.get("outbox") ?? [];
  }

  /** The owner's.
   * @returns {Entry[]}
   */
  listOwn() {
    return this.read().filter(({ owner }) => (owner ?? this.owner) === this.owner);
  }

  /** What the owner has to send. */
  list() {
    return this.listOwn().filter(({ refused }) => refused === undefined);
  }

  /** What the server has refused: the owner's to mend or discard. */
  listRefused() {
    return this.listOwn().filter(({ refused }) => refused !== undefined);
  }

  /** Keep an entry in the stead of the one of its task; whether this browser does.
   * @param {Entry} entry
   */
  keep(entry) {
    const others = this.read().filter((each) => each.id !== entry.id);
    return this.store.set("outbox", [...others, { ...entry, owner: this.owner }]);
  }

  /** @param {Entry} entry */
  forget(entry) {
    this.store.set(
      "outbox",
      this.read().filter((each) => each.id !== entry.id),
    );
    if (!this.list().length) this.listener.onEmpty();
    this.listener.onChanged();
  }

  /** Keep what the server refused, but send it no more.
   * @param {Entry} entry
   * @param {string} reason
   */
  setAside(entry, reason) {
    this.keep({ ...entry, refused: reason });
    if (!this.list().length) this.listener.onEmpty();
    this.listener.onChanged();
  }

  /** Send an entry, unless it is being sent.
   * @param {Entry} entry
   * @param {() => Asker | null} [findAsker] the task on the page that it is of, when the answer has come
   * @returns {Promise<Outcome>}
   */
  async deliver(entry, findAsker = () => null) {
    if (this.underway.has(entry.id)) return "waiting";
    this.underway.add(entry.id);
    const outcome = await this.attempt(entry, findAsker);
    this.underway.delete(entry.id);
    return outcome;
  }

  /**
   * @param {Entry} entry
   * @param {() => Asker | null} findAsker
   * @returns {Promise<Outcome>}
   */
  async attempt(entry, findAsker) {
    const token = this.getToken();
    /** @type {Record<string, string>} */
    const headers = { Accept: "application/json", "Content-Type": "application/x-www-form-urlencoded" };
    if (token) headers["X-CSRF-Token"] = token;
    const answer = await this.send(entry.address, { method: "POST", headers, body: entry.body }).catch(() => null);
    if (answer?.ok && !answer.redirected) {
      this.forget(entry);
      this.store.drop(draftKey(entry.id));
      this.listener.onStored(await answer.json());
      return "stored";
    }
    const asker = findAsker();
    // Signed out, in one of its three shapes: what waits is sent after the next sign-in.
    const signedOut = answer !== null && (answer.redirected || [401, 403].includes(answer.status));
    if (!answer || signedOut || answer.status >= 500 || answer.status === 429) {
      this.listener.onWaiting(this.list().length, signedOut);
      return "waiting";
    }
    const { reason, field } = await readProblem(answer);
    this.setAside(entry, reason);
    if (asker) asker.refuse(reason, field);
    else this.listener.onRefused(entry, reason);
    return "refused";
  }

  /** Send all that waits, in its order, until one has to go on waiting.
   * @template {Asker} T
   * @param {(entry: Entry) => T | null} findTask the page may show this very task again: it was loaded anew before
   *   the server had the ranking
   * @param {(task: T) => void} onDone
   */
  async retry(findTask, onDone) {
    if (this.isRetrying) return;
    this.isRetrying = true;
    for (const entry of this.list()) {
      const outcome = await this.deliver(entry, () => findTask(entry));
      if (outcome === "waiting") break;
      const task = findTask(entry);
      if (outcome === "stored" && task) onDone(task);
    }
    this.isRetrying = false;
  }
}
