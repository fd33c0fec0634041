// A run's curves, drawn while it runs.
(() => {
  "use strict";
  const GROUPS = {
    reward: [["Loss", ["loss"]], ["Accuracy on the batch", ["accuracy"]], ["Gradient norm", ["grad_norm"]]],
    sft: [["Loss", ["loss"]], ["Gradient norm", ["grad_norm"]]],
    rloo: [
      ["Reward model's score", ["score", "rlhf_reward"]], ["KL from the reference, nats", ["kl", "kl_k3"]],
      ["Entropy, nats a token", ["entropy"]], ["Response length, tokens", ["response_length"]],
      ["Share that ended", ["ended_share"]], ["Tokens a second", ["tokens_per_second"]],
    ],
    dpo: [["Loss", ["loss"]], ["Accuracy", ["accuracy"]], ["Margin", ["margin"]]],
    ppo: [
      ["Reward model's score", ["score", "rlhf_reward"]], ["KL from the reference, nats", ["kl", "kl_k3"]],
      ["Entropy, nats a token", ["entropy"]], ["Response length, tokens", ["response_length"]],
      ["Share that ended", ["ended_share"]], ["Clipped share", ["clip_share", "value_clip_share"]],
      ["Value loss", ["value_loss"]], ["Tokens a second", ["tokens_per_second"]],
    ],
  };
  const root = document.getElementById("run");
  if (!root || !window.uPlot) return;
  const rows = [];
  const plots = [];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function build() {
    const strokes = [colour("--accent"), colour("--warn")];
    const axis = { stroke: colour("--ink-soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    for (const [title, keys] of GROUPS[root.dataset.stage] || []) {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      caption.textContent = title;
      figure.append(caption);
      document.getElementById("curves").append(figure);
      const plot = new uPlot({
        width: figure.clientWidth - 32, height: 190, scales: { x: { time: false } }, axes: [axis, { ...axis, size: 56 }],
        series: [{ label: "step" }, ...keys.map((key, at) => ({ label: key, stroke: strokes[at], width: 1.6, spanGaps: true }))],
      }, [[], ...keys.map(() => [])], figure);
      plots.push([plot, keys, figure]);
    }
    addEventListener("resize", () => plots.forEach(([plot, , figure]) => plot.setSize({ width: figure.clientWidth - 32, height: 190 })));
  }

  function draw() {
    const steps = rows.map((row) => row.step);
    for (const [plot, keys] of plots) plot.setData([steps, ...keys.map((key) => rows.map((row) => row[key] ?? null))]);
    const last = rows.at(-1);
    if (!last) return;
    document.getElementById("latest").replaceChildren(...Object.entries(last).map(([name, value]) => {
      const line = document.createElement("tr");
      const head = document.createElement("th");
      const cell = document.createElement("td");
      head.scope = "row";
      head.textContent = name;
      cell.textContent = Number(value).toPrecision(5);
      line.append(head, cell);
      return line;
    }));
  }

  async function follow() {
    try {
      const metrics = await fetch(`/api/v1/runs/${root.dataset.id}/metrics?after=${rows.length - 1}`).then((answer) => answer.json());
      if (metrics.length) { rows.push(...metrics); draw(); }
      if (root.dataset.live !== "true") return;
      const run = await fetch(`/api/v1/runs/${root.dataset.id}`).then((answer) => answer.json());
      document.getElementById("run-state").textContent = run.state;
      if (run.total_steps) document.getElementById("run-progress").max = run.total_steps;
      document.getElementById("run-progress").value = run.step;
      if (run.state === "running") document.getElementById("run-step").textContent = `Step ${run.step}${run.total_steps ? ` of ${run.total_steps}` : ""}`;
      if (!["queued", "running"].includes(run.state)) { location.reload(); return; }
    } catch { /* the line is lost for a moment: look again later */ }
    setTimeout(follow, 1500);
  }

  addEventListener("DOMContentLoaded", () => { build(); follow(); });
})();
