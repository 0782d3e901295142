// Draws the last runs as two rows of bars with scales: the duration of each run, and the number of rows it published.

import { HISTORY } from "./shares.js";
import { make } from "./elements.js";
import { duration, moment, number, rows } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const SLOT = 10;
const BAR = 7;
const WIDTH = HISTORY * SLOT; // HISTORY is the number of runs that the chart shows
const TIME_HEIGHT = 40;
const ROWS_HEIGHT = 30;
const MIN_HEIGHT = 1.5; // of a bar, so that a small value is visible

// In the order of the legend.
const KINDS = { success: "succeeded", failed: "failed", cancelled: "cancelled", running: "running" };

function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}

const maxOf = (values) => Math.max(0, ...values.filter((value) => value !== null));
const scaled = (value, max, height) => Math.min(height, Math.max(MIN_HEIGHT, max > 0 ? (value / max) * height : 0));

function bar(kind, x, bottom, height) {
  return svg("rect", { class: kind, x, y: bottom - height, width: BAR, height, rx: 1 });
}

/** A cross, so that a failure is visible without colours. */
function cross(x, y) {
  const arm = BAR / 2;
  return svg("path", {
    class: "cross",
    d: `M${x} ${y - arm}l${BAR} ${BAR}M${x + BAR} ${y - arm}l${-BAR} ${BAR}`,
  });
}

/** A run in words: "29 Nov, 13:41: succeeded, 8 s, 1,461 rows". */
function inWords(run) {
  const values = [run.seconds === null ? null : duration(run.seconds), run.rows === null ? null : rows(run.rows)];
  return [`${moment(run.time)}: ${run.label}`, ...values.filter(Boolean)].join(", ");
}

/** A row of bars between its largest value and 0; `draw` makes the bars of a run at a place. */
function plot(title, max, height, runs, { label, draw, show }) {
  const first = HISTORY - runs.length;
  const slots = runs.map((run, index) => {
    const left = (first + index) * SLOT;
    const slot = svg("rect", { class: "slot", x: left, y: 0, width: SLOT, height: height + 1 });
    const group = svg("g", { "data-run": run.id }, slot, ...draw(run, left + (SLOT - BAR) / 2));
    group.addEventListener("pointerenter", () => show(run));
    return group;
  });
  const ground = svg("line", { class: "ground", x1: 0, x2: WIDTH, y1: height + 0.5, y2: height + 0.5 });
  const top = svg("line", { class: "top", x1: 0, x2: WIDTH, y1: 0.5, y2: 0.5 });
  const named = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${height + 1}`, ...named }, top, ground, ...slots);
  const scale = make("span", { className: "scale", ariaHidden: "true" }, make("span", { textContent: max }), make("span", { textContent: "0" }));
  return make("div", { className: "plot" }, make("p", { className: "quiet plot-title", textContent: title, ariaHidden: "true" }), scale, drawing);
}

/** Draw runs, given oldest first as `{id, time, state, label, seconds, rows}`; `seconds` and `rows` may be null. */
export function chart(runs) {
  // Scale by ended runs only: a run that hangs would flatten all other bars. One that is queued has no bar.
  const ended = runs.filter((run) => !["running", "queued"].includes(run.state));
  const maxSeconds = maxOf((ended.length > 0 ? ended : runs).map((run) => run.seconds));
  const maxRows = maxOf(runs.map((run) => run.rows));
  const reading = make("p", { className: "reading", ariaHidden: "true" });
  const show = (run) => {
    reading.textContent = inWords(run);
  };
  show(runs.at(-1));
  const count = (state) => runs.filter((run) => run.state === state).length;
  const cancelled = count("cancelled") > 0 ? `, ${count("cancelled")} cancelled` : "";
  const label = `The last ${runs.length} runs, ${count("failed")} of them failed${cancelled}. The longest took ${duration(maxSeconds)}; at most ${rows(maxRows)}.`;
  const times = plot("Duration", duration(maxSeconds), TIME_HEIGHT, runs, {
    label,
    show,
    draw: (run, x) => [
      ...(run.seconds === null ? [] : [bar(run.state, x, TIME_HEIGHT, scaled(run.seconds, maxSeconds, TIME_HEIGHT))]),
    ],
  });
  const counts = plot("Rows", maxRows > 0 ? number(maxRows) : "", ROWS_HEIGHT, runs, {
    show,
    draw: (run, x) => {
      if (run.state === "failed") return [cross(x, ROWS_HEIGHT - BAR)];
      return run.rows === null ? [] : [bar("rows", x, ROWS_HEIGHT, scaled(run.rows, maxRows, ROWS_HEIGHT))];
    },
  });
  const marks = Object.entries(KINDS)
    .filter(([state]) => count(state) > 0)
    .map(([state, textContent]) => make("span", { className: `mark ${state}`, textContent }));
  const legend = make("div", { className: "legend", ariaHidden: "true" }, ...marks, make("span", { className: "mark rows", textContent: "rows" }));
  const span = make(
    "div",
    { className: "span", ariaHidden: "true" },
    make("span", { textContent: moment(runs[0].time) }),
    ...(runs.length > 1 ? [make("span", { textContent: moment(runs.at(-1).time) })] : []),
  );
  // What the bars show, for those who hear the page.
  const heard = make("ul", { className: "unseen" }, ...runs.map((run) => make("li", { textContent: inWords(run) })));
  const node = make("div", { className: "chart" }, times, counts, span, legend, reading, heard);
  node.addEventListener("pointerleave", () => show(runs.at(-1)));
  return node;
}
