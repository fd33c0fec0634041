// @ts-check
// A run's curves, drawn while it runs.
import { at, create, find, get } from "../shared/dom.js";

/** @typedef {{ step: number } & Record<string, number | null>} Row */
/**
 * @typedef {object} Plot what is used of uPlot's
 * @property {(size: { width: number, height: number }) => void} setSize
 * @property {(columns: (number | null)[][]) => void} setData
 */
/** @typedef {new (options: object, columns: number[][], parent: HTMLElement) => Plot} PlotKind */
/** @typedef {{ plot: Plot, keys: string[], figure: HTMLElement }} Curve */
/** @typedef {{ title: string, unit: string, metrics: string[] }} CurveEntry what the run's config.json says */

const HEIGHT = 190; // pixels of a plot
const PADDING = 32; // pixels of a figure beside its plot
const FOLLOW_EVERY = 1500; // milliseconds

/** A colour of the theme.
 * @param {string} name
 */
function readColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The curves of a run that says none (one of an earlier version): one for each figure.
 * @param {Row | undefined} row
 * @returns {CurveEntry[]}
 */
function listFigures(row) {
  const names = Object.keys(row ?? {}).filter((name) => name !== "step");
  return names.map((name) => ({ title: name, unit: "", metrics: [name] }));
}

/** An empty plot for each curve.
 * @param {PlotKind} uPlot
 * @param {CurveEntry[]} entries
 * @returns {Curve[]}
 */
function createCurves(uPlot, entries) {
  const strokes = [readColour("--accent"), readColour("--warn"), readColour("--good")];
  const line = readColour("--line");
  const axis = { stroke: readColour("--ink-soft"), grid: { stroke: line, width: 1 }, ticks: { stroke: line } };
  // All figures first: the grid gives each its width only when it is whole.
  const figures = entries.map(({ title, unit }) => {
    const caption = unit ? `${title}, ${unit}` : title;
    return create("figure", {}, create("figcaption", { textContent: caption }));
  });
  get("#curves").append(...figures);
  return entries.map(({ metrics: keys }, index) => {
    const figure = figures[index];
    const series = keys.map((label, own) => ({ label, stroke: strokes[own], width: 1.6, spanGaps: true }));
    const options = {
      width: figure.clientWidth - PADDING,
      height: HEIGHT,
      scales: { x: { time: false } },
      axes: [axis, { ...axis, size: 56 }],
      series: [{ label: "step" }, ...series],
    };
    return { plot: new uPlot(options, [[], ...keys.map(() => [])], figure), keys, figure };
  });
}

/**
 * @param {Curve[]} curves
 * @param {Row[]} rows
 */
function draw(curves, rows) {
  const steps = rows.map((row) => row.step);
  for (const { plot, keys } of curves) {
    plot.setData([steps, ...keys.map((key) => rows.map((row) => row[key] ?? null))]);
  }
  const latest = Object.entries(rows.at(-1) ?? {}).map(([name, value]) => {
    const head = create("th", { scope: "row", textContent: name });
    return create("tr", {}, head, create("td", { textContent: Number(value).toPrecision(5) }));
  });
  get("#latest").replaceChildren(...latest);
}

/** Where the run stands.
 * @param {{ state: string, step: number, total_steps: number | null }} run
 */
function showProgress({ state, step, total_steps: total }) {
  const progress = get("#run-progress", document, HTMLProgressElement);
  get("#run-state").textContent = state;
  if (total) progress.max = total;
  progress.value = step;
  if (state === "running") get("#run-step").textContent = `Step ${step}${total ? ` of ${total}` : ""}`;
}

/** Fetch what is new, draw it, and look again while the run goes on.
 * @param {HTMLElement} root
 * @param {PlotKind} uPlot
 * @param {CurveEntry[]} entries
 * @param {Curve[]} curves
 * @param {Row[]} rows
 */
async function follow(root, uPlot, entries, curves, rows) {
  const address = at(`/api/v1/runs/${root.dataset.id}`);
  try {
    const metrics = await (await fetch(`${address}/metrics?after=${rows.length - 1}`)).json();
    rows.push(...metrics);
    // A run that waited when the page was opened says its curves once it has begun.
    if (metrics.length && !curves.length) {
      const run = entries.length ? null : await (await fetch(address)).json();
      const said = run?.catalogue.curves ?? entries;
      curves.push(...createCurves(uPlot, said.length ? said : listFigures(rows.at(-1))));
    }
    if (metrics.length) draw(curves, rows);
    if (root.dataset.live !== "true") return;
    const run = await (await fetch(address)).json();
    showProgress(run);
    if (!["queued", "running"].includes(run.state)) {
      location.reload();
      return;
    }
  } catch {
    // The line is lost for a moment: look again later.
  }
  setTimeout(() => follow(root, uPlot, entries, curves, rows), FOLLOW_EVERY);
}

const root = find("#run");
const uPlot = /** @type {{ uPlot?: PlotKind }} */ (/** @type {unknown} */ (window)).uPlot;
if (root && uPlot) {
  /** @type {CurveEntry[]} */
  const entries = JSON.parse(root.dataset.curves || "[]");
  const curves = createCurves(uPlot, entries);
  // The grid's width also changes without the window's: when a scroll bar comes.
  new ResizeObserver(() => {
    for (const { plot, figure } of curves) plot.setSize({ width: figure.clientWidth - PADDING, height: HEIGHT });
  }).observe(get("#curves"));
  follow(root, uPlot, entries, curves, []);
}
