// Formats times, durations and numbers for people, in English and in the browser's time zone.

const numbers = new Intl.NumberFormat("en");
const moments = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });

const UNITS = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];

export const number = (value) => numbers.format(value);
export const rows = (value) => `${number(value)} ${value === 1 ? "row" : "rows"}`;
export function bytes(count) {
  if (count < 1000) return `${count} bytes`;
  const power = Math.min(Math.floor(Math.log10(count) / 3), 4);
  return `${(count / 1000 ** power).toFixed(1)} ${["kB", "MB", "GB", "TB"][power - 1]}`;
}
export const moment = (time) => moments.format(new Date(time));
export const exactly = (time) => exact.format(new Date(time));
export const clockTime = (time) => clock.format(time);

/** The distance from now: "3 min. ago", "in 2 hr.". */
export function distance(time, now) {
  const seconds = (new Date(time) - now) / 1000;
  for (const [unit, size] of UNITS) {
    if (Math.abs(seconds) >= size) return relative.format(Math.trunc(seconds / size), unit);
  }
  return seconds < 0 ? "just now" : "in a moment";
}

// A line never ends within a duration.
const unbroken = (text) => text.replaceAll(" ", "\u00a0");

/** How old data may be, from seconds: "90 min", "24 h", "3 days". */
export function limit(seconds) {
  const [unit, size] = [["days", 86_400], ["h", 3_600]].find(([, one]) => seconds >= 2 * one && seconds % one === 0) ?? ["min", 60];
  return unbroken(`${number(seconds / size)} ${unit}`);
}

export function duration(seconds) {
  if (seconds < 9.95) return unbroken(`${seconds.toFixed(1)} s`);
  const whole = Math.round(seconds);
  if (whole < 60) return unbroken(`${whole} s`);
  if (whole < 3_600) return unbroken(`${Math.floor(whole / 60)} min ${whole % 60} s`);
  return unbroken(`${Math.floor(whole / 3_600)} h ${Math.floor((whole % 3_600) / 60)} min`);
}
