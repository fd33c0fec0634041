// @ts-check
// The ranking page. A submitted form goes through an outbox that outlives the page, and the task after it is
// already here.
import "../app/main.js";
import { openDialog, switchView, switchViews, unfold } from "./cards.js";
import { find, findAll } from "../shared/dom.js";
import { isDragging } from "./drag.js";
import { readKey } from "./keys.js";
import { Tasks } from "./tasks.js";
import { Session } from "./timing.js";

/** @import { Action } from "./keys.js" */
/** @import { Task } from "./task.js" */

const TEXTS = "input:not([type=radio], [type=checkbox]), textarea, select";
const CONTROLS = "button, a, summary, input[type=checkbox], select";

/** Do what a key asks for.
 * @param {Action} action
 * @param {Task} task
 */
function act({ name, by = 0 }, task) {
  /** @type {Record<string, () => void>} */
  const actions = {
    submit: () => submit(task),
    digit: () => task.choose(by, document.activeElement?.closest(".scale") ?? null),
    step: () => task.step(by),
    move: () => task.move(by),
    sideways: () => (task.form.isPair ? task.move(by) : task.step(by)),
    undo: () => task.undo(),
    unfold: () => {
      task.touched = true;
      unfold(task.marked);
    },
    view: () => switchView(task.marked),
    views: () => switchViews(),
    none: () => task.toggleNone(),
    back: () => find("#back")?.click(),
    difference: () => openDialog("difference-dialog", task),
    later: () => find("#later", document, HTMLFormElement)?.requestSubmit(),
    note: () => openDialog("note-dialog", task),
    skip: () => openDialog("skip-dialog", task),
    guidelines: () => openDialog("guidelines-dialog", task),
    one: () => task.desk.choose("one"),
    two: () => task.desk.choose("two"),
    keep: () => task.desk.keep(task.marked),
    prompt: () => task.desk.togglePrompt(),
    keys: () => openDialog("keys-dialog", task),
  };
  actions[name]();
}

/** From anywhere: a dialog that asks something is answered, any other makes way.
 * @param {Task} task
 */
function submit(task) {
  const dialog = find("dialog[open]", document, HTMLDialogElement);
  const form = dialog && find("form[method=post]", dialog, HTMLFormElement);
  if (form) {
    form.requestSubmit();
  } else {
    dialog?.close();
    task.submit();
  }
}

const session = new Session();
const tasks = new Tasks(session);

// Whoever came to a control by the mouse is done with it: Enter submits. By Tab, Enter presses it.
let byPointer = false;
document.addEventListener("click", ({ detail }) => (byPointer = detail > 0), { capture: true });
document.addEventListener("keydown", ({ key }) => (byPointer &&= key !== "Tab"), { capture: true });

document.addEventListener("keydown", (event) => {
  if (!tasks.current || isDragging()) return;
  const target = /** @type {Element} */ (event.target);
  const action = readKey(event, {
    typing: target.matches(TEXTS),
    onControl: target.closest(byPointer ? "select" : CONTROLS) !== null,
    onRadio: target.matches("input[type=radio]"),
    inDialog: find("dialog[open]") !== null,
  });
  if (!action) return;
  event.preventDefault();
  act(action, tasks.current);
});
for (const button of findAll(".rate-head [data-dialog]")) {
  button.addEventListener("click", () => openDialog(button.dataset.dialog ?? "", tasks.current));
}
/** The small forms of the page are the present task's.
 * @type {[string, (task: Task, form: HTMLFormElement) => Promise<void>][]}
 */
const answers = [
  ["skip", (task, form) => task.giveBack(form)],
  ["later", (task, form) => task.putOff(form)],
  ["note", (task, form) => task.tellAdmins(form)],
];
for (const [id, send] of answers) {
  const form = find(`#${id}`, document, HTMLFormElement);
  if (!form) continue; // a stored ranking is changed or left, never given back
  find("[data-close]", form)?.addEventListener("click", () => form.closest("dialog")?.close());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (tasks.current) send(tasks.current, form);
  });
}
document.addEventListener("click", ({ target }) => {
  const menu = find(".menu[open]", document, HTMLDetailsElement);
  if (menu && !menu.contains(/** @type {Node} */ (target))) menu.open = false;
});
document.documentElement.classList.replace("no-js", "js");
session.show();
session.start(() => tasks.current);
tasks.start();
