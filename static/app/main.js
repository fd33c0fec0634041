// @ts-check
// What every page shares: moments in the reader's own time, confirmations, forms that send themselves, and the two
// views of a text: as it reads, and as it was written.

const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

function localise() {
  for (const element of document.querySelectorAll("time[data-local]")) {
    const time = /** @type {HTMLTimeElement} */ (element);
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    time.title = time.textContent ?? "";
    time.textContent = format.format(moment);
    time.removeAttribute("data-local");
  }
}

/** Ask before a form that says so is sent.
 * @param {SubmitEvent} event
 */
function confirmSubmit(event) {
  const question = /** @type {HTMLFormElement} */ (event.target).getAttribute("data-confirm");
  if (question && !window.confirm(question)) {
    event.preventDefault();
    event.stopImmediatePropagation();
  }
}

/** Switch one text's view.
 * @param {Element} view
 * @param {boolean} isSource
 */
function showView(view, isSource) {
  // A text that can be shown only as its source stays so.
  if (!view.querySelector(":scope > .prose")) return;
  view.setAttribute("data-view", isSource ? "source" : "rendered");
  const button = view.closest("article")?.querySelector(".view-button");
  button?.setAttribute("aria-pressed", String(isSource));
}

/** @param {Element} button */
function press(button) {
  const isPressed = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(isPressed));
  return isPressed;
}

/** @type {boolean | null} what was chosen for all texts, here and in the tasks that follow */
let allAsSource = null;

function showAll() {
  if (allAsSource === null) return;
  for (const view of document.querySelectorAll(".view")) showView(view, allAsSource);
}

document.addEventListener("click", ({ target }) => {
  const button = target instanceof Element ? target.closest(".view-button, .view-all") : null;
  if (!button) return;
  if (button.matches(".view-all")) {
    allAsSource = press(button);
    showAll();
  } else {
    const view = button.closest("article")?.querySelector(".view");
    if (view) showView(view, press(button));
  }
});
document.addEventListener("plackett:shown", showAll);
document.addEventListener("submit", confirmSubmit, true);
// A list that filters may send its form when another entry is taken. What changes something never does: one
// arrow key on a list is a slip, not a decision.
document.addEventListener("change", ({ target }) => {
  if (!(target instanceof HTMLSelectElement) || !target.matches("[data-submit-on-change]")) return;
  if (target.form?.method === "get") target.form.requestSubmit();
});
// The project switcher closes as menus do: by Escape, and when the reader goes elsewhere.
const switcher = document.querySelector("details.switcher");
document.addEventListener("keydown", ({ key }) => {
  if (key !== "Escape" || !switcher?.hasAttribute("open")) return;
  switcher.removeAttribute("open");
  switcher.querySelector("summary")?.focus();
});
for (const event of ["click", "focusin"]) {
  document.addEventListener(event, ({ target }) => {
    if (target instanceof Node && !switcher?.contains(target)) switcher?.removeAttribute("open");
  });
}
// Where the navigation is one line that scrolls, the present page's link is in it.
const here = document.querySelector(".side-nav [aria-current]");
const line = here?.closest(".side-nav");
if (here instanceof HTMLElement && line && line.scrollWidth > line.clientWidth) {
  line.scrollLeft = here.offsetLeft - line.clientWidth / 2;
}
document.addEventListener("htmx:after:swap", localise);
localise();
