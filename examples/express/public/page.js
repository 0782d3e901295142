const POLL_MILLISECONDS = 1000;

/** The answer's JSON, or an error with the sentence that the app has for people. */
async function ask(path, method = "GET") {
  const response = await fetch(path, { method });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.message);
  return answer;
}

const of = ({ dataset, runId }) => `datasets/${dataset}/syncs/${encodeURIComponent(runId)}`;

function add({ dataset, sync, problem }) {
  const section = document.querySelector("template").content.cloneNode(true).querySelector("section");
  const [headline, text] = section.querySelectorAll("strong, span");
  const cancel = section.querySelector(".cancel");
  section.querySelector("h2").textContent = dataset;
  document.querySelector("#datasets").append(section);
  let followed = null;
  let timer = null;
  let attempts = 0;

  function show(now) {
    headline.textContent = now?.headline ?? "Not synced yet";
    text.textContent = now?.text ?? "";
    cancel.hidden = !now || now.finished;
    followed = now?.finished ? null : now;
    if (followed) lookAgain(POLL_MILLISECONDS);
  }

  function lookAgain(milliseconds) {
    timer = setTimeout(() => attempt(of(followed)), milliseconds);
  }

  async function attempt(path, method) {
    clearTimeout(timer);
    // A look may be under way when somebody presses a button: only the last attempt is shown.
    const number = ++attempts;
    try {
      const sync = await ask(path, method);
      if (number === attempts) show(sync);
    } catch (error) {
      if (number !== attempts) return;
      text.textContent = error.message;
      // What runs goes on in Airflow.
      if (followed) lookAgain(5 * POLL_MILLISECONDS);
    }
  }

  section.querySelector(".sync").addEventListener("click", () => attempt(`datasets/${dataset}/syncs`, "POST"));
  cancel.addEventListener("click", () => attempt(`${of(followed)}/cancel`, "POST"));
  show(sync);
  if (problem) [headline.textContent, text.textContent] = ["", problem];
}

try {
  for (const card of await ask("datasets")) add(card);
} catch (error) {
  document.querySelector("#problem").textContent = error.message;
}
