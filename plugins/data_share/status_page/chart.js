// The last runs as two rows of bars: how long each took, and how many rows it published.

import { HISTORY } from "./shares.js";
import { duration, moment, number } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const SLOT = 10;
const BAR = 7;
const WIDTH = HISTORY * SLOT;
const TIME_HEIGHT = 34;
const ROWS_TOP = 42;
const ROWS_HEIGHT = 22;
const HEIGHT = ROWS_TOP + ROWS_HEIGHT + 1;
const LEAST = 1.5; // of a bar: a small value is not nothing

function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}

const highest = (values) => Math.max(0, ...values.filter((value) => value !== null));
const scaled = (value, most, height) => Math.min(height, Math.max(LEAST, most > 0 ? (value / most) * height : 0));

function bar(kind, x, bottom, height) {
  return svg("rect", { class: kind, x, y: bottom - height, width: BAR, height, rx: 1 });
}

/** A cross, so that a failure is seen without its colour. */
function cross(x, y) {
  const arm = BAR / 2;
  return svg("path", {
    class: "cross",
    d: `M${x} ${y - arm}l${BAR} ${BAR}M${x + BAR} ${y - arm}l${-BAR} ${BAR}`,
  });
}

/**
 * Draw runs, given with the oldest first as `{time, state, seconds, rows}`; `seconds` and `rows` may be null.
 * Returns the drawing and the highest of both values.
 */
export function chart(runs) {
  // Of those that ended: one that hangs would make all others flat.
  const ended = runs.filter((run) => run.state !== "running");
  const mostSeconds = highest((ended.length > 0 ? ended : runs).map((run) => run.seconds));
  const mostRows = highest(runs.map((run) => run.rows));
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
    if (run.seconds !== null) group.append(bar(run.state, x, TIME_HEIGHT, scaled(run.seconds, mostSeconds, TIME_HEIGHT)));
    if (run.state === "failed") group.append(cross(x, ROWS_TOP + ROWS_HEIGHT - BAR));
    else if (run.rows !== null) group.append(bar("rows", x, ROWS_TOP + ROWS_HEIGHT, scaled(run.rows, mostRows, ROWS_HEIGHT)));
    return group;
  });
  const lines = [TIME_HEIGHT + 0.5, ROWS_TOP + ROWS_HEIGHT + 0.5].map((y) =>
    svg("line", { class: "ground", x1: 0, x2: WIDTH, y1: y, y2: y }),
  );
  const failed = runs.filter((run) => run.state === "failed").length;
  const label = `The last ${runs.length} runs, ${failed} of them failed. The longest took ${duration(mostSeconds)}; at most ${number(mostRows)} rows.`;
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, ...lines, ...drawn);
  return { drawing, mostSeconds, mostRows };
}
