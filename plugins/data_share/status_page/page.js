// The page: one card for each dataset. Cards are updated in place, so that focus and open lists are kept.

import { AirflowError, FORBIDDEN, SIGNED_OUT, now, uiAddress } from "./airflow.js";
import { chart } from "./chart.js";
import { make, setLink, setText } from "./elements.js";
import { letLinksLeaveTheFrame } from "./links.js";
import { Shares, cancelOf, inWords, stateOf } from "./shares.js";
import { bytes, clockTime, distance, duration, exactly, limit, moment, number, rows } from "./words.js";

const IDLE_MILLISECONDS = 15_000;
const ACTIVE_MILLISECONDS = 3_000; // while a sync runs
const MAX_MILLISECONDS = 120_000; // between two attempts while Airflow does not answer

const STATES = {
  running: "Running",
  queued: "Queued",
  failed: "Failed",
  cancelled: "Cancelled",
  stale: "Stale",
  success: "Succeeded",
  never: "Never ran",
  paused: "Paused",
  invalid: "Invalid file",
};

const byId = (id) => document.getElementById(id);

function setTime(node, time) {
  if (node.dateTime === time) return;
  node.dateTime = time;
  node.title = exactly(time);
}

/** Duration of a run in seconds, until now if it is running; null before its start. */
function seconds(run) {
  if (run.start_date === null) return null;
  // Never negative: Airflow's clock is known only to the second, and the run may have just begun.
  return run.duration ?? Math.max(0, (now() - Date.parse(run.start_date)) / 1000);
}

/** What was exported, why, and what it has cost, in sentences; empty for a publish that an earlier version made. */
function exportOf({ mode, reason, isOfChanges, written, bytes: size, loaded, seconds: took }) {
  const sentences = [];
  if (mode !== null && reason !== null) sentences.push(`${isOfChanges ? "Only changes" : "All rows"} (${mode}): ${reason}.`);
  if (written !== null && size !== null) {
    const worked = took === null ? "" : `; Snowflake's statements before the publish took ${duration(took)}`;
    sentences.push(`Written to S3: ${rows(written)}, ${bytes(size)}. Loaded: ${rows(loaded)}${worked}.`);
  }
  return sentences.join(" ");
}

class Card {
  #shares;
  #refresh;
  #drawnRuns = null;
  #isStarting = false;

  constructor(dataset, shares, refresh) {
    this.dataset = dataset;
    this.#shares = shares;
    this.#refresh = refresh;
    const id = `share-${dataset.dagId}`;
    this.heading = make("h2", { id, textContent: dataset.name, tabIndex: -1 });
    this.badge = make("span", { className: "badge" });
    this.stale = make("span", { className: "badge stale", textContent: STATES.stale });
    this.paused = make("span", { className: "badge paused", textContent: STATES.paused });
    this.sync = make("button", { type: "button", className: "sync", textContent: "Sync" });
    this.sync.setAttribute("aria-label", `Sync ${dataset.name}`);
    this.sync.addEventListener("click", () => this.#start());
    this.description = make("p", { className: "quiet description" });
    this.activity = make("p", { className: "activity" });
    // One for each run that may be active: the one that runs, and the one that waits behind it.
    this.cancels = {
      running: this.#cancelButton("Cancel", `Cancel the running sync of ${dataset.name}`),
      queued: this.#cancelButton("Cancel the queued one", `Cancel the queued sync of ${dataset.name}`),
    };
    const cancels = make("p", { className: "cancels" }, ...Object.values(this.cancels));
    this.answer = make("p", { className: "answer" });
    this.answer.setAttribute("role", "status");
    this.sentence = make("p", { className: "sentence" });
    this.whatToDo = make("p");
    this.failedWhen = make("p", { className: "quiet" });
    this.more = make("div");
    this.details = make("details", { className: "more" }, make("summary", { textContent: "Details" }), this.more);
    this.failure = make("div", { className: "failure" }, this.failedWhen, this.sentence, this.whatToDo, this.details);
    this.age = make("time");
    this.source = make("span", { className: "source" });
    this.late = make("p", { className: "late" });
    this.rows = make("span");
    this.took = make("span");
    this.asOf = make("span");
    this.next = make("span");
    this.exported = make("p", { className: "quiet exported" });
    this.drawing = make("div", { className: "drawing" });
    this.runs = make("tbody");
    this.history = make("details", {}, make("summary", { textContent: "Last runs" }), this.#table());
    this.runLink = make("a", { textContent: "Last run" });
    this.databricksLink = make("a", { textContent: "Databricks run", target: "_blank" });
    const dagLink = make("a", { textContent: "DAG", href: uiAddress("dags", dataset.dagId) });
    const facts = make(
      "dl",
      {},
      ...Object.entries({
        "Last success": this.age,
        "Data as of": this.asOf,
        Source: this.source,
        Rows: this.rows,
        Took: this.took,
        "Next run": this.next,
      }).map(([term, value]) => make("div", {}, make("dt", { textContent: term }), make("dd", {}, value))),
    );
    this.node = make(
      "article",
      { className: "card" },
      make(
        "header",
        {},
        make("div", { className: "title" }, this.heading, this.badge, this.stale, this.paused),
        this.sync,
      ),
      this.description,
      this.activity,
      cancels,
      this.answer,
      this.failure,
      this.late,
      facts,
      this.exported,
      this.drawing,
      this.history,
      make("footer", {}, this.runLink, dagLink, this.databricksLink),
    );
    this.node.setAttribute("aria-labelledby", id);
  }

  #table() {
    const heads = ["Run", "State", "Took", "Rows"].map((textContent) => make("th", { textContent, scope: "col" }));
    // It scrolls, so people must reach it by the keyboard.
    const table = make("div", { className: "table", tabIndex: 0, role: "region", ariaLabel: `Last runs of ${this.dataset.name}` });
    table.append(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), this.runs));
    return table;
  }

  #cancelButton(textContent, label) {
    const node = make("button", { type: "button", className: "cancel", textContent, ariaLabel: label, hidden: true });
    node.addEventListener("click", () => this.#cancel(node));
    return node;
  }

  /** The groups of the filter that this card belongs to. */
  get groups() {
    const { state, isStale, dag } = this.dataset;
    return [...new Set([state, ...(isStale ? ["stale"] : []), ...(dag.is_paused ? ["paused"] : [])])];
  }

  update() {
    const { dataset } = this;
    const { dag, state } = dataset;
    this.node.dataset.state = state;
    this.badge.className = `badge ${state}`;
    setText(this.badge, STATES[state]);
    this.stale.hidden = !dataset.isStale || state === "stale";
    this.paused.hidden = !dag.is_paused;
    setText(this.description, dag.description ?? "");
    this.#updateActivity();
    this.#updateCancels();
    this.#updateFailure();
    this.#updateFacts();
    this.#updateRuns();
    const last = dataset.runs[0] ?? null;
    setLink(this.runLink, last && uiAddress("dags", dataset.dagId, "runs", last.dag_run_id));
    setLink(this.databricksLink, dataset.databricksUrl ?? dataset.failure?.databricksUrl ?? null);
    this.sync.disabled = this.#isStarting || dag.is_paused || dataset.queued !== null;
  }

  #updateActivity() {
    const { running, queued, task, dag } = this.dataset;
    const words = [];
    if (running && this.dataset.cancelled.has(running.dag_run_id)) words.push("The sync is being cancelled.");
    else if (running) {
      const doing = task ? inWords(task) : "Starting";
      const again = task?.state === "up_for_retry" ? "; an attempt failed, another follows" : "";
      words.push(`${doing}${again}. Running for ${duration(seconds(running))}.`);
    }
    if (queued && this.dataset.cancelled.has(queued.dag_run_id)) {
      words.push("The queued sync is cancelled; Airflow ends it when the one before it has ended.");
    } else if (queued && dag.is_paused) words.push("A sync is queued, and starts only when the DAG is no longer paused.");
    else if (queued && running) words.push("Another sync is queued; it starts when this one has ended.");
    else if (queued) words.push("A sync is queued; it starts in a moment.");
    else if (!running && this.dataset.lastEnded) words.push(...this.#foundBy(this.dataset.lastEnded));
    if (!queued && dag.is_paused) words.push("The DAG is paused: no sync starts. Unpause it on its page in Airflow.");
    setText(this.activity, words.join(" "));
    this.activity.hidden = words.length === 0;
  }

  #updateCancels() {
    for (const [state, button] of Object.entries(this.cancels)) {
      const run = this.dataset[state];
      const isCancelled = run !== null && this.dataset.cancelled.has(run.dag_run_id);
      // A button that is hidden or disabled would lose the keyboard's focus to the page.
      if ((run === null || isCancelled) && document.activeElement === button) this.heading.focus();
      button.hidden = run === null || isCancelled;
      button.run = run;
    }
  }

  /** What a run that published nothing has found, or who has ended it. */
  #foundBy(run) {
    const when = distance(run.end_date, now());
    if (stateOf(run) === "cancelled") {
      const { who, effect } = cancelOf(run);
      return [`The last sync was cancelled ${when}${who ? ` by ${who}` : ""}. ${effect}`];
    }
    if (this.dataset.isUnchanged(run)) return [`The last sync, ${when}, found nothing new at the source.`];
    if (this.dataset.isVerified(run)) return [`Verified ${when}: the target holds what was published last.`];
    return [];
  }

  #updateFailure() {
    const { failure, lastEnded } = this.dataset;
    this.failure.hidden = lastEnded === null || stateOf(lastEnded) !== "failed";
    if (this.failure.hidden) return;
    const isKnown = failure?.run.dag_run_id === lastEnded.dag_run_id;
    const what = this.dataset.kindOf(lastEnded) === "verification" ? "verification" : "sync";
    setText(this.failedWhen, `The last ${what} failed ${distance(lastEnded.end_date, now())}.`);
    const unknown = "It left no reason. Its tasks' logs are in Airflow: open the last run.";
    setText(this.sentence, isKnown ? (failure.sentence ?? unknown) : "Asking why …");
    setText(this.whatToDo, (isKnown && failure.whatToDo) || "");
    this.details.hidden = !isKnown;
    if (!isKnown || this.more.of === failure) return;
    this.more.of = failure;
    const ids = Object.entries(failure.ids).filter(([, id]) => id);
    this.more.replaceChildren(
      ...(failure.details ? [make("p", { className: "said", textContent: failure.details })] : []),
      make("dl", {}, ...ids.map(([name, id]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: id })))),
    );
  }

  #updateFacts() {
    const { dag, lastSuccess } = this.dataset;
    if (lastSuccess) {
      const published = this.dataset.rowsOf(lastSuccess);
      // If a person cleared a run and set it to success, it ended later than it published.
      const at = published?.at ?? lastSuccess.end_date;
      setTime(this.age, at);
      setText(this.age, distance(at, now()));
      const count = published && `${number(published.count)}${published.isOfChanges ? " changed" : ""}`;
      setText(this.rows, count ?? "–");
      setText(this.exported, published ? exportOf(published) : "");
      this.rows.title = published?.inTarget == null ? "" : `${rows(published.inTarget)} in the target then`;
      setText(this.took, duration(seconds(lastSuccess)));
      const isPinned = published?.version != null;
      // The ledger's times are in UTC, without saying so.
      const committed = isPinned && `${published.committedAt}Z`;
      setText(this.source, isPinned ? `${moment(committed)}, version ${published.version}` : "–");
      this.source.title = isPinned ? exactly(committed) : "";
    } else {
      setText(this.age, "never");
      setText(this.source, "–");
      setText(this.exported, "");
      for (const node of [this.rows, this.took]) setText(node, "–");
    }
    this.#updateAsOf();
    this.exported.hidden = this.exported.textContent === "";
    const next = dag.next_dagrun_run_after;
    if (dag.is_paused) setText(this.next, "paused");
    else if (next) setText(this.next, Date.parse(next) > now() ? distance(next, now()) : "due now");
    else setText(this.next, dag.timetable_summary ?? "on request");
    this.next.title = next && !dag.is_paused ? `${exactly(next)} (${dag.timetable_summary})` : "";
  }

  #updateAsOf() {
    const { asOf, maxAge, isStale } = this.dataset;
    setText(this.asOf, asOf === null ? "–" : distance(asOf, now()));
    this.late.hidden = !isStale;
    if (isStale) setText(this.late, `The data are stale: older than ${limit(maxAge)}, the most that the dataset file allows.`);
    this.asOf.classList.toggle("late", isStale);
    this.asOf.title = asOf === null ? "" : `${exactly(asOf)}${maxAge === null ? "" : `; stale after ${limit(maxAge)}`}`;
  }

  #updateRuns() {
    const runs = this.dataset.runs.map((run) => {
      const published = run.state === "success" ? this.dataset.rowsOf(run) : null;
      const kind = this.dataset.kindOf(run);
      const state = stateOf(run);
      return {
        id: run.dag_run_id,
        time: run.start_date ?? run.run_after,
        state,
        label: [STATES[state].toLowerCase(), kind && `(${kind})`].filter(Boolean).join(" "),
        seconds: run.state === "running" ? Math.round(seconds(run)) : seconds(run),
        rows: published?.count ?? null,
      };
    });
    const drawn = JSON.stringify(runs);
    if (drawn === this.#drawnRuns) return;
    this.#drawnRuns = drawn;
    this.history.hidden = runs.length === 0;
    if (runs.length === 0) {
      this.drawing.replaceChildren(
        make("p", { className: "quiet", textContent: "No run yet. The first sync fills the target." }),
      );
      return;
    }
    this.drawing.replaceChildren(chart([...runs].reverse()));
    this.runs.replaceChildren(...runs.map((run) => this.#row(run)));
  }

  #row({ id, time, state, label, seconds: took, rows: published }) {
    const link = make("a", { href: uiAddress("dags", this.dataset.dagId, "runs", id), title: id, textContent: moment(time) });
    return make(
      "tr",
      {},
      make("td", {}, link),
      make("td", {}, make("span", { className: `mark ${state}`, textContent: label })),
      make("td", { className: "number", textContent: took === null ? "–" : duration(took) }),
      make("td", { className: "number", textContent: published === null ? "–" : number(published) }),
    );
  }

  async #start() {
    // Disable the button at once, so that a second click starts nothing.
    this.#isStarting = true;
    this.sync.disabled = true;
    this.#say("Asking Airflow to start a sync …");
    try {
      await this.#shares.start(this.dataset);
      this.#say("");
    } catch (error) {
      const refusal = error.status === FORBIDDEN ? "You may not start syncs of this dataset." : "No sync was started.";
      this.#say(`${refusal} ${error.message}`, true);
    } finally {
      this.#isStarting = false;
      this.update();
    }
    this.#refresh();
  }

  async #cancel(button) {
    const { run } = button;
    this.#say("Asking Airflow to cancel the sync …");
    try {
      await this.#shares.cancel(this.dataset, run);
      this.#say("");
    } catch (error) {
      const refusal = error.status === FORBIDDEN ? "You may not cancel syncs of this dataset." : "No sync was cancelled.";
      this.#say(`${refusal} ${error.message}`, true);
    }
    this.update();
    this.#refresh();
  }

  #say(text, isRefusal = false) {
    setText(this.answer, text);
    this.answer.classList.toggle("refusal", isRefusal);
  }
}

/** The card of a dataset file that Airflow cannot read; it shows only the reasons. */
class InvalidFileCard {
  groups = ["invalid"];

  constructor({ file, name, problems }) {
    this.node = make(
      "article",
      { className: "card", ariaLabel: name },
      make(
        "header",
        {},
        make(
          "div",
          { className: "title" },
          make("h2", { textContent: name }),
          make("span", { className: "badge invalid", textContent: STATES.invalid }),
        ),
      ),
      make(
        "div",
        { className: "failure" },
        make("p", { className: "sentence", textContent: `Airflow cannot read ${file}, so this dataset is not synced:` }),
        make("ul", {}, ...problems.map((textContent) => make("li", { textContent }))),
      ),
    );
    this.node.dataset.state = "invalid";
  }
}

class Page {
  #shares = new Shares();
  #cards = new Map();
  #invalidCards = [];
  #drawnInvalid = "[]";
  #filter = null;
  #timer = null;
  #isRefreshing = false;
  #isWanted = false;
  #failures = 0;
  #screen = new IntersectionObserver((entries) => this.#onScreen(entries));

  start() {
    letLinksLeaveTheFrame();
    document.addEventListener("visibilitychange", () => this.#onVisibility());
    this.refresh();
  }

  /** Refresh now, and again after the time from #pace(); never twice at once, never while the page is hidden. */
  refresh = async () => {
    clearTimeout(this.#timer);
    this.#isWanted = true;
    if (this.#isRefreshing || document.hidden) return;
    this.#isRefreshing = true;
    try {
      while (this.#isWanted) {
        this.#isWanted = false;
        await this.#refreshOnce();
      }
    } finally {
      this.#isRefreshing = false;
      if (!document.hidden) this.#timer = setTimeout(this.refresh, this.#pace());
    }
  };

  async #refreshOnce() {
    try {
      await this.#shares.refresh();
      this.#failures = 0;
      this.#showError(null);
    } catch (error) {
      this.#failures += 1;
      this.#showError(error);
    }
    this.#show();
  }

  #pace() {
    if (this.#failures > 0) return Math.min(ACTIVE_MILLISECONDS * 2 ** this.#failures, MAX_MILLISECONDS);
    return this.#shares.isActive ? ACTIVE_MILLISECONDS : IDLE_MILLISECONDS;
  }

  #onVisibility() {
    if (document.hidden) clearTimeout(this.#timer);
    else this.refresh();
  }

  async #onScreen(entries) {
    for (const { target, isIntersecting } of entries) {
      const dataset = this.#shares.datasets.get(target.dataset.dagId);
      if (dataset) dataset.isOnScreen = isIntersecting;
    }
    if (this.#failures > 0) return; // the next refresh reads the details
    await this.#shares.complete().catch((error) => this.#showError(error));
    this.#show();
  }

  #showError(error) {
    const problem = byId("problem");
    problem.hidden = error === null;
    if (error === null) return;
    if (!(error instanceof AirflowError)) console.error(error);
    const age = this.#shares.refreshedAt === null ? "" : ` The page shows the state of ${clockTime(this.#shares.refreshedAt)}.`;
    const next = error.status === SIGNED_OUT ? "" : " It tries again by itself.";
    setText(problem, `${error.message}${age}${next}`);
  }

  #show() {
    this.#showCards();
    this.#showFilters();
    const { refreshedAt } = this.#shares;
    setText(byId("updated"), refreshedAt === null ? "" : `As of ${clockTime(refreshedAt)}`);
    document.body.classList.toggle("old", this.#failures > 0);
    const empty = byId("empty");
    empty.hidden = refreshedAt === null || this.#cards.size + this.#invalidCards.length > 0;
    setText(empty, "There is no dataset that you may see. A dataset is a file in include/datasets/; a new one appears within a minute or so.");
  }

  #showCards() {
    const { datasets, invalidFiles } = this.#shares;
    for (const [dagId, card] of this.#cards) {
      if (datasets.get(dagId) === card.dataset) continue;
      this.#screen.unobserve(card.node);
      card.node.remove();
      this.#cards.delete(dagId);
    }
    const main = byId("shares");
    let before = null;
    for (const dataset of datasets.values()) {
      let card = this.#cards.get(dataset.dagId);
      if (!card) {
        card = new Card(dataset, this.#shares, this.refresh);
        card.node.dataset.dagId = dataset.dagId;
        this.#cards.set(dataset.dagId, card);
        if (before) before.after(card.node);
        else main.prepend(card.node);
        this.#screen.observe(card.node);
      }
      card.update();
      before = card.node;
    }
    const drawn = JSON.stringify(invalidFiles);
    if (drawn === this.#drawnInvalid) return;
    this.#drawnInvalid = drawn;
    for (const { node } of this.#invalidCards) node.remove();
    this.#invalidCards = invalidFiles.map((file) => new InvalidFileCard(file));
    main.append(...this.#invalidCards.map(({ node }) => node));
  }

  #showFilters() {
    const cards = [...this.#cards.values(), ...this.#invalidCards];
    const counts = Object.keys(STATES)
      .map((group) => [group, cards.filter((card) => card.groups.includes(group)).length])
      .filter(([group, count]) => count > 0 || group === this.#filter);
    for (const card of cards) card.node.hidden = this.#filter !== null && !card.groups.includes(this.#filter);
    const filters = byId("filters");
    filters.hidden = cards.length < 2;
    const shown = new Map([...filters.children].map((node) => [node.dataset.group, node]));
    const nodes = counts.map(([group, count]) => {
      const node = shown.get(group) ?? this.#filterButton(group);
      setText(node.lastChild, `${count} ${STATES[group].toLowerCase()}`);
      node.setAttribute("aria-pressed", String(this.#filter === group));
      return node;
    });
    if (nodes.length !== shown.size || nodes.some((node) => node.parentNode === null)) filters.replaceChildren(...nodes);
  }

  #filterButton(group) {
    const node = make("button", { type: "button", className: "filter" }, make("span", { className: `mark ${group}` }), make("span"));
    node.dataset.group = group;
    node.addEventListener("click", () => {
      this.#filter = this.#filter === group ? null : group;
      this.#show();
    });
    return node;
  }
}

async function showVersion() {
  // Without the version, the page is as useful.
  const answer = await fetch(new URL("version.json", import.meta.url)).catch(() => null);
  if (answer?.ok) setText(byId("version"), `data_share ${(await answer.json()).version}`);
}

new Page().start();
showVersion();
