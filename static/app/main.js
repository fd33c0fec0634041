// @ts-check
// What every page shares: moments in the reader's own time, confirmations, and forms that send themselves.

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

document.addEventListener("submit", confirmSubmit, true);
// A list that filters may send its form when another entry is taken. What changes something never does: one
// arrow key on a list is a slip, not a decision.
document.addEventListener("change", ({ target }) => {
  if (!(target instanceof HTMLSelectElement) || !target.matches("[data-submit-on-change]")) return;
  if (target.form?.method === "get") target.form.requestSubmit();
});
document.addEventListener("htmx:after:swap", localise);
localise();
