// @ts-check
// What is submitted waits here until the server has it, through reloads and lost lines.
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
 */
/** @typedef {"stored" | "refused" | "waiting"} Outcome refused: the server's answer is final */
/** @typedef {{ refuse: (reason: string, field?: string) => void }} Asker */
/**
 * @typedef {object} Listener
 * @property {(stored: Stored) => void} onStored
 * @property {(entry: Entry, reason: string) => void} onRefused its task is not on the page any more
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
   * @param {Store} parts.store
   * @param {(address: string, options: RequestInit) => Promise<Response>} parts.send
   * @param {() => string | undefined} parts.getToken
   * @param {Listener} parts.listener
   */
  constructor({ store, send, getToken, listener }) {
    this.store = store;
    this.send = send;
    this.getToken = getToken;
    this.listener = listener;
    /** @type {Set<string>} */
    this.underway = new Set();
    this.isRetrying = false;
  }

  /** @returns {Entry[]} */
  list() {
    return this.store.get("outbox") ?? [];
  }

  /** Keep an entry; whether this browser does.
   * @param {Entry} entry
   */
  keep(entry) {
    return this.store.set("outbox", [...this.list().filter((each) => each.id !== entry.id), entry]);
  }

  /** @param {Entry} entry */
  forget(entry) {
    const rest = this.list().filter((each) => each.id !== entry.id);
    this.store.set("outbox", rest);
    if (!rest.length) this.listener.onEmpty();
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
    this.forget(entry);
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
