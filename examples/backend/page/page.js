// The page of the Sync Data button: it requests syncs, and shows the HTML that the backend renders for each sync.
"use strict";

const NOTICE_AFTER_MS = 3000;
const RECONNECT_MS = 3000;
const FOLLOWED = "followed syncs";

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

/** Starts the elapsed times, and shows points in time in the reader's time zone. */
function setTimes(piece) {
  for (const elapsed of piece.querySelectorAll(".elapsed")) {
    elapsed.began = performance.now() - 1000 * Number(elapsed.dataset.seconds);
  }
  for (const time of piece.querySelectorAll("time")) {
    time.textContent = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
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

/** Shows the current state of a sync. It keeps the button elements, so that the keyboard focus stays on them. */
function show(fresh) {
  setTimes(fresh);
  const headline = fresh.querySelector(".headline").textContent;
  const old = document.getElementById(fresh.id);
  if (old) {
    if (old.querySelector(".headline").textContent !== headline) say(old, headline);
    old.querySelector(".headline").textContent = headline;
    old.querySelector(".details").replaceWith(fresh.querySelector(".details"));
    old.querySelector(".cancel").hidden = fresh.querySelector(".cancel").hidden;
    old.className = fresh.className;
    old.toggleAttribute("data-active", fresh.hasAttribute("data-active"));
  } else {
    const syncs = document.getElementById(fresh.dataset.dataset)?.querySelector(".syncs");
    // Remove finished syncs. A queued sync goes below a running one.
    syncs?.querySelectorAll(":scope > :not([data-active])").forEach((over) => over.remove());
    syncs?.[fresh.classList.contains("queued") ? "append" : "prepend"](fresh);
    say(fresh, headline);
  }
  connection.hidden = true;
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
 * Follows all active syncs in one stream: a browser opens only a few connections to one host.
 *
 * before: the syncs that were followed before a reload. The page has only the newest sync of each dataset, while an
 * earlier one may still be running.
 */
function follow(before = []) {
  source?.close();
  source = null;
  const names = [...document.querySelectorAll(".sync[data-active]")].map((sync) => sync.id);
  sessionStorage.setItem(FOLLOWED, JSON.stringify(names));
  const unseen = before.filter((name) => !document.getElementById(name));
  if (names.length + unseen.length) listen([...names, ...unseen]);
}

function listen(names) {
  source = new EventSource(`events?${new URLSearchParams(names.map((name) => ["sync", name]))}`);
  source.addEventListener("sync", (event) => {
    const fresh = parsed(JSON.parse(event.data).html);
    if (document.getElementById(fresh.id) || fresh.hasAttribute("data-active")) show(fresh);
  });
  source.addEventListener("problem", (event) => {
    const { sync, message } = JSON.parse(event.data);
    if (document.getElementById(sync)) complain(message);
    else follow();
  });
  source.addEventListener("end", () => follow());
  source.onopen = () => {
    clearTimeout(noticeTimer);
    noticeTimer = 0;
  };
  source.onerror = () => {
    noticeTimer ||= setTimeout(
      () => complain("The connection is lost. The sync goes on; this page tries to connect again."),
      NOTICE_AFTER_MS,
    );
    // Mostly the browser connects again by itself; after an HTTP error it does not.
    if (source?.readyState === EventSource.CLOSED) setTimeout(() => follow(), RECONNECT_MS);
  };
}

async function post(button) {
  const problem = button.closest(".card").querySelector(".problem");
  problem.hidden = true;
  button.setAttribute("aria-disabled", "true");
  const words = button.firstChild;
  const idle = words.textContent;
  if (button.dataset.doing) words.textContent = button.dataset.doing;
  try {
    const response = await fetch(button.dataset.post, { method: "POST" });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.message ?? `The backend refuses this (HTTP ${response.status}).`);
    show(parsed(answer.html));
    follow();
    // Keep the Cancel button disabled: the sync ends some seconds later.
    if (button.dataset.doing) return;
  } catch (error) {
    problem.textContent = error instanceof TypeError || error instanceof SyntaxError
      ? "The backend does not answer. Try again in a moment."
      : error.message;
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

setTimes(document);
setInterval(tick, 250);
follow(JSON.parse(sessionStorage.getItem(FOLLOWED) ?? "[]"));
