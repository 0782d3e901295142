// The page of the Sync Data button: it requests syncs, and shows the HTML that the backend renders for each sync.
"use strict";

const MAX_FOLLOWED = 50; // the backend takes no more names
const NOTICE_AFTER_MS = 3000;
const RECONNECT_MS = 5000; // the Retry-After of the backend, which EventSource does not tell

const connection = document.getElementById("connection");
let source = null;
let noticeTimer = 0;

/** Whole seconds as text, in the same form as in the backend. */
function inWords(seconds) {
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  const two = (number) => String(number).padStart(2, "0");
  return minutes < 60
    ? `${minutes} min ${two(seconds % 60)} s`
    : `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}

/** The distance of a point in time from now: "2 h ago", "in 5 min". */
function distance(time) {
  const minutes = Math.floor(Math.abs(time - Date.now()) / 60_000);
  const isPast = time < Date.now();
  if (minutes < 1) return isPast ? "just now" : "in a moment";
  const days = Math.floor(minutes / 1440);
  const words = minutes < 60 ? `${minutes} min` : days < 1 ? `${Math.floor(minutes / 60)} h` : `${days} ${days > 1 ? "days" : "day"}`;
  return isPast ? `${words} ago` : `in ${words}`;
}

/** A point in time in the reader's time zone: of today without the date, of this year without the year. */
function moment(time) {
  const now = new Date();
  if (time.toDateString() === now.toDateString()) return time.toLocaleString([], { timeStyle: "short" });
  const withYear = time.getFullYear() === now.getFullYear() ? {} : { year: "numeric" };
  return time.toLocaleString([], { ...withYear, month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
}

const FORMS = {
  age: (time) => `${moment(time)}, ${distance(time)}`,
  next: (time) => (time < Date.now() ? "due now" : `${distance(time)} (${moment(time)})`),
};

/** Starts the elapsed times. */
function setElapsed(piece) {
  for (const elapsed of piece.querySelectorAll(".elapsed")) {
    elapsed.began = performance.now() - 1000 * Number(elapsed.dataset.seconds);
  }
}

/** Shows points in time, and whether data are stale; they change while the page is open. */
function setTimes(piece) {
  for (const node of piece.querySelectorAll("time")) {
    const time = new Date(node.dateTime);
    const words = (FORMS[node.dataset.form] ?? moment)(time);
    if (node.textContent !== words) node.textContent = words;
    node.title = time.toLocaleString([], { dateStyle: "full", timeStyle: "long" });
    if (node.dataset.maxAge) {
      node.closest(".about").classList.toggle("is-stale", Date.now() - time > 1000 * Number(node.dataset.maxAge));
    }
  }
}

function tick() {
  for (const elapsed of document.querySelectorAll(".elapsed")) {
    elapsed.textContent = inWords(Math.floor((performance.now() - elapsed.began) / 1000));
  }
}

function parsed(html) {
  const made = document.createElement("template");
  made.innerHTML = html;
  return made.content.firstElementChild;
}

const cardOf = (dataset) => document.getElementById(dataset);

/** Shows the current state of a sync. It keeps the button elements, so that the keyboard focus stays on them. */
function show(fresh) {
  setElapsed(fresh);
  setTimes(fresh);
  const headline = fresh.querySelector(".headline").textContent;
  const old = document.getElementById(fresh.id);
  if (old) {
    if (old.querySelector(".headline").textContent !== headline) say(old, headline);
    old.querySelector(".headline").textContent = headline;
    showDetails(old, fresh);
    showCancel(old, fresh);
    old.className = fresh.className;
    old.toggleAttribute("data-active", fresh.hasAttribute("data-active"));
  } else {
    const card = cardOf(fresh.dataset.dataset);
    // A dataset that is newer than the page.
    if (!card) return;
    // Remove finished syncs. A queued sync goes below a running one.
    for (const over of card.querySelectorAll(".syncs > :not([data-active])")) {
      if (over.contains(document.activeElement)) card.querySelector(".request").focus();
      over.remove();
    }
    card.querySelector(".syncs")[fresh.classList.contains("queued") ? "append" : "prepend"](fresh);
    say(fresh, headline);
  }
}

function showDetails(old, fresh) {
  const [now, next] = [old, fresh].map((sync) => sync.querySelector(".details"));
  next.querySelector(".more").open = now.querySelector(".more").open;
  if (now.contains(document.activeElement)) old.querySelector(".headline").focus();
  now.replaceWith(next);
}

function showCancel(old, fresh) {
  const button = old.querySelector(".cancel");
  const { hidden } = fresh.querySelector(".cancel");
  // A hidden button would lose the focus to the page: whoever has cancelled reads on at the end of the sync.
  if (hidden && button === document.activeElement) old.querySelector(".headline").focus();
  button.hidden = hidden;
}

/** Shows how old a dataset's data are, and reads its last syncs again if they are open. */
function showAbout(fresh) {
  setTimes(fresh);
  const card = cardOf(fresh.dataset.dataset);
  const old = card?.querySelector(".about");
  if (!card) return;
  if (old) old.replaceWith(fresh);
  else card.querySelector(".top").after(fresh);
  const history = card.querySelector(".history");
  if (history.open) showHistory(history);
}

async function showHistory(history) {
  const list = history.querySelector(".list");
  try {
    const fresh = parsed((await answerTo(history.dataset.get)).html);
    setTimes(fresh);
    list.replaceChildren(fresh);
  } catch (error) {
    list.textContent = inSentence(error);
  }
}

/** Announces a headline to screen readers. */
function say(sync, headline) {
  const title = document.getElementById(`${sync.dataset.dataset}-title`)?.textContent;
  document.getElementById("said").textContent = `${title}: ${headline}`;
}

function complain(message) {
  connection.textContent = message;
  connection.hidden = false;
}

/**
 * Follows all syncs in one stream, also those that others start: a browser opens only a few connections to one host.
 * The active ones are named, so that their state is known at once.
 */
function follow() {
  source?.close();
  source = null;
  const active = [...document.querySelectorAll(".sync[data-active]")].slice(0, MAX_FOLLOWED);
  if (!document.hidden) listen(new URLSearchParams([["others", "true"], ...active.map((sync) => ["sync", sync.id])]));
}

function listen(query) {
  source = new EventSource(`events?${query}`);
  source.addEventListener("sync", (event) => {
    const fresh = parsed(JSON.parse(event.data).html);
    if (document.getElementById(fresh.id) || fresh.hasAttribute("data-active")) show(fresh);
    connection.hidden = true;
  });
  source.addEventListener("about", (event) => showAbout(parsed(JSON.parse(event.data).html)));
  source.addEventListener("problem", (event) => complain(JSON.parse(event.data).message));
  source.onopen = () => {
    clearTimeout(noticeTimer);
    noticeTimer = 0;
    connection.hidden = true;
    if (source.isLost) refresh();
  };
  source.onerror = () => {
    if (source) source.isLost = true;
    noticeTimer ||= setTimeout(
      () => complain("The connection is lost. The sync goes on; this page tries to connect again."),
      NOTICE_AFTER_MS,
    );
    // Mostly the browser connects again by itself; after an HTTP error it does not.
    if (source?.readyState === EventSource.CLOSED) setTimeout(refresh, RECONNECT_MS);
  };
}

/** Shows what has happened while nobody listened: the page was hidden, or had no connection. */
async function refresh() {
  try {
    const answer = await fetch("");
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const about of fresh.querySelectorAll(".about")) showAbout(document.adoptNode(about));
    for (const sync of fresh.querySelectorAll(".sync")) show(document.adoptNode(sync));
  } catch {
    // The stream says that the connection is lost.
  }
  follow();
}

/** The answer of the backend; an error has a message for people. */
async function answerTo(path, method = "GET") {
  const response = await fetch(path, { method });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.message ?? `The backend refuses this (HTTP ${response.status}).`);
  return answer;
}

function inSentence(error) {
  return error instanceof TypeError || error instanceof SyntaxError
    ? "The backend does not answer. Try again in a moment."
    : error.message;
}

async function post(button) {
  const problem = button.closest(".card").querySelector(".problem");
  problem.hidden = true;
  button.setAttribute("aria-disabled", "true");
  const words = button.firstChild;
  const idle = words.textContent;
  if (button.dataset.doing) words.textContent = button.dataset.doing;
  try {
    show(parsed((await answerTo(button.dataset.post, "POST")).html));
    follow();
    // Keep the Cancel button disabled: the sync ends some seconds later.
    if (button.dataset.doing) return;
  } catch (error) {
    problem.textContent = inSentence(error);
    problem.hidden = false;
    words.textContent = idle;
  }
  button.removeAttribute("aria-disabled");
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-post]");
  // Ignore the second click of a double click.
  if (button && event.detail < 2 && button.getAttribute("aria-disabled") !== "true") post(button);
});
for (const history of document.querySelectorAll(".history")) {
  history.addEventListener("toggle", () => history.open && showHistory(history));
}
document.addEventListener("visibilitychange", () => (document.hidden ? follow() : refresh()));

setElapsed(document);
setTimes(document);
setInterval(tick, 250);
setInterval(() => setTimes(document), 5000);
follow();
