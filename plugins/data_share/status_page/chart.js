// Draws the last runs as two rows of bars: the duration of each run, and the number of rows that it published.

import { HISTORY } from "./shares.js";
import { duration, moment, number } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const SLOT = 10;
const BAR = 7;
const WIDTH = HISTORY * SLOT; // HISTORY is the number of runs that the chart shows
const TIME_HEIGHT = 34;
const ROWS_TOP = 42;
const ROWS_HEIGHT = 22;
const HEIGHT = ROWS_TOP + ROWS_HEIGHT + 1;
const MIN_HEIGHT = 1.5; // of a bar, so that a small value is visible

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

/**
 * Draw runs, given oldest first as `{time, state, label, seconds, rows}`; `seconds` and `rows` may be null.
 * Returns the drawing, and the max. seconds and rows.
 */
export function chart(runs) {
  // Scale by ended runs only: a run that hangs would flatten all other bars.
  const ended = runs.filter((run) => run.state !== "running");
  const maxSeconds = maxOf((ended.length > 0 ? ended : runs).map((run) => run.seconds));
  const maxRows = maxOf(runs.map((run) => run.rows));
  const first = HISTORY - runs.length;
  const drawn = runs.map((run, index) => {
    const x = (first + index) * SLOT + (SLOT - BAR) / 2;
    const words = [
      `${moment(run.time)}: ${run.label}`,
      run.seconds === null ? null : duration(run.seconds),
      run.rows === null ? null : `${number(run.rows)} rows`,
    ];
    const group = svg("g", {}, svg("title", {}, words.filter(Boolean).join(", ")));
    group.append(svg("rect", { class: "slot", x: x - (SLOT - BAR) / 2, y: 0, width: SLOT, height: HEIGHT }));
    if (run.seconds !== null) group.append(bar(run.state, x, TIME_HEIGHT, scaled(run.seconds, maxSeconds, TIME_HEIGHT)));
    if (run.state === "failed") group.append(cross(x, ROWS_TOP + ROWS_HEIGHT - BAR));
    else if (run.rows !== null) group.append(bar("rows", x, ROWS_TOP + ROWS_HEIGHT, scaled(run.rows, maxRows, ROWS_HEIGHT)));
    return group;
  });
  const lines = [TIME_HEIGHT + 0.5, ROWS_TOP + ROWS_HEIGHT + 0.5].map((y) =>
    svg("line", { class: "ground", x1: 0, x2: WIDTH, y1: y, y2: y }),
  );
  const failed = runs.filter((run) => run.state === "failed").length;
  const label = `The last ${runs.length} runs, ${failed} of them failed. The longest took ${duration(maxSeconds)}; at most ${number(maxRows)} rows.`;
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, ...lines, ...drawn);
  return { drawing, maxSeconds, maxRows };
}
