// @ts-check
// From one task to the next: the one on the page, the one prefetched, and rankings on their way.
import { find, get, getField, getToken } from "../shared/dom.js";
import { Outbox } from "./outbox.js";
import { local } from "./store.js";
import { Task } from "./task.js";
import { announce, showRefused, tellNoneWaits, tellRefused, tellSending, tellStored, tellWaiting } from "./told.js";
import { formatClock, say } from "./words.js";

/** @import { Entry } from "./outbox.js" */
/** @import { Session } from "./timing.js" */

const RETRY_EVERY = 8000; // milliseconds between attempts to send what waits
const LOOK_AGAIN_EVERY = 2000; // milliseconds between looks for a next task, while there is no line

export class Tasks {
  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    /** @type {Task | null} the task on the page */
    this.current = null;
    /** @type {HTMLElement | null} the workspace of the task after it, not on the page yet */
    this.prefetched = null;
    this.outbox = new Outbox({
      owner: get("#told").dataset.rater ?? "",
      store: local,
      send: (address, options) => fetch(address, options),
      // The newest one: that of the task that came last.
      getToken: () =>
        (
          find("#workspace [name=csrf_token]", document, HTMLInputElement) ??
          find("[name=csrf_token]", document, HTMLInputElement)
        )?.value,
      listener: {
        onStored: (stored) => {
          tellStored(stored);
          session.show();
          if (!this.prefetched) this.prefetch();
        },
        onRefused: tellRefused,
        onChanged: () => this.showRefused(),
        onWaiting: tellWaiting,
        onEmpty: tellNoneWaits,
      },
    });
  }

  /** Begin with what the server put into the page, and with what an earlier page left to send. */
  start() {
    this.adopt();
    this.retry();
    window.addEventListener("online", () => this.retry());
    setInterval(() => this.outbox.list().length && this.retry(), RETRY_EVERY);
  }

  /** Show what the server has refused, but for the task on the page: that has its own words for it. */
  showRefused() {
    const elsewhere = this.outbox.listRefused().filter(({ id }) => id !== this.current?.id);
    showRefused(elsewhere, (entry) => this.outbox.forget(entry));
  }

  /** Make the task of the workspace that is on the page now. */
  adopt() {
    const root = get("#workspace");
    this.current?.desk.close();
    this.current = null;
    this.prefetched = null;
    if (!root.dataset.assignment) {
      this.showRefused();
      find("[autofocus]", root)?.focus();
      const form = find("#take", root, HTMLFormElement);
      if (form) this.takeFirst(root, form);
      return;
    }
    this.current = new Task(root, {
      onSubmit: (entry, task) => this.submit(entry, task),
      onSkip: (task) => this.advance(task),
      onOutdated: (task) => this.presentNext(task),
    });
    this.current.mark(this.current.marked);
    this.showRefused();
    get("#timer").textContent = formatClock(this.current.seconds);
    this.prefetch();
  }

  /** Put a workspace on the page.
   * @param {HTMLElement} workspace
   */
  present(workspace) {
    get("#workspace").replaceWith(document.importNode(workspace, true));
    window.scrollTo({ top: 0, behavior: "instant" });
    document.body.classList.remove("deep");
    this.adopt();
    // What became of the ranking before is told by #told, which is live itself.
    announce(this.current ? say("next_task", { count: this.current.count }) : say("nothing_left"));
    document.dispatchEvent(new CustomEvent("plackett:shown"));
  }

  /** Send a ranking. The next task need not wait for the answer where what is kept here cannot be lost; the page
   * says that it is stored when the server has said so.
   * @param {Entry} entry
   * @param {Task} task
   */
  async submit(entry, task) {
    this.session.count();
    const kept = this.outbox.keep(entry);
    if (kept && this.prefetched && !task.changing) {
      tellSending(entry.order);
      const sending = this.outbox.deliver(entry);
      this.present(this.prefetched);
      await sending;
    } else if ((await this.outbox.deliver(entry, () => task)) !== "refused") {
      await this.advance(task);
    }
  }

  async retry() {
    await this.outbox.retry(
      (entry) => (this.current?.id === entry.id ? this.current : null),
      (task) => {
        task.sent = true;
        this.advance(task);
      },
    );
  }

  /** Fetch the task after the one on the page. */
  async prefetch() {
    this.prefetched = null;
    const { current } = this;
    // Until the server has the ranking before it, the task on the page is still the prefetched one.
    if (!current || current.changing || this.outbox.list().length) return;
    const form = current.form.element;
    const body = new URLSearchParams({
      current: current.id,
      csrf_token: getToken(form),
      guideline_version: getField(form, "guideline_version").value,
      questions: getField(form, "questions").value,
    });
    const answer = await fetch(`${current.project}/prefetch`, { method: "POST", body }).catch(() => null);
    if (this.current !== current || current.sent) return;
    // No rater any more, or another one: the page itself says what is the matter.
    if (answer?.status === 403) location.assign(current.project);
    if (answer?.status !== 200 || answer.redirected) return;
    const workspace = readWorkspace(await answer.text());
    // The task on the page was fetched under other rules than those that hold by now: these come first.
    if (answer.headers.has("Plackett-Replaces") && workspace) this.present(workspace);
    else this.prefetched = workspace;
  }

  /** Go on from a task that is done.
   * @param {Task} task
   */
  async advance(task) {
    if (task !== this.current) return;
    if (task.changing) {
      location.assign(task.project);
    } else if (this.prefetched) {
      this.present(this.prefetched);
    } else if (!(await this.presentNext(task))) {
      task.note(say("kept_here"));
      this.waitForLine(task);
    }
  }

  /** The page has no task yet: take one as soon as somebody sees the page. Without a line its button stays.
   * @param {HTMLElement} root
   * @param {HTMLFormElement} form
   */
  async takeFirst(root, form) {
    await waitUntilSeen();
    const workspace = await takeNext(root.dataset.project ?? "", getToken(form));
    if (workspace && root.isConnected) this.present(workspace);
  }

  /** Ask the server for the next task; whether it came.
   * @param {Task} task
   */
  async presentNext(task) {
    const workspace = await takeNext(task.project, getToken(task.form.element));
    if (this.current !== task) return true; // another look was faster
    if (!workspace) return false;
    this.present(workspace);
    return true;
  }

  /** No line and nothing prefetched: the page says so, and goes on by itself.
   * @param {Task} task
   */
  waitForLine(task) {
    const timer = setInterval(async () => {
      if (task !== this.current) {
        clearInterval(timer);
      } else if (!this.outbox.list().some((entry) => entry.id === task.id)) {
        // First what is to be sent, then the next task.
        if (await this.presentNext(task)) clearInterval(timer);
      }
    }, LOOK_AGAIN_EVERY);
  }
}

/** The workspace in a page or fragment from the server.
 * @param {string} html
 */
function readWorkspace(html) {
  return find("#workspace", new DOMParser().parseFromString(html, "text/html"));
}

/** The workspace with the next task, or null where no answer came. Only a POST takes a task: what fetches pages
 * in advance takes none.
 * @param {string} project
 * @param {string} token
 */
async function takeNext(project, token) {
  const body = new URLSearchParams({ csrf_token: token });
  const answer = await fetch(`${project}/next`, { method: "POST", body }).catch(() => null);
  return answer?.ok && !answer.redirected ? readWorkspace(await answer.text()) : null;
}

/** At once, or when a page that was prerendered or hidden is turned to. */
async function waitUntilSeen() {
  if ("prerendering" in document && document.prerendering) await waitFor("prerenderingchange");
  while (document.hidden) await waitFor("visibilitychange");
}

/** @param {string} name */
function waitFor(name) {
  return new Promise((resolve) => document.addEventListener(name, resolve, { once: true }));
}
