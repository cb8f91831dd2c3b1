// Labelling by keyboard: 1-9 a class, space accepts the guess, x bad crop, s skip, u undo. Every key presses a button
// that is there anyway; forms are sent in the background and work without this script too.
"use strict";

const question = document.getElementById("question");
let sending = false;

async function show(response) {
  if (response.status === 400) location.reload(); // an old token: the server was started anew
  else if (response.ok) await swap(question, await response.text());
}

// Why a button did nothing, in the server's words, until another one does something.
async function explain(response, act) {
  const said = document.getElementById("refused");
  const plain = response.headers.get("Content-Type")?.startsWith("text/plain");
  const why = response.ok || !plain ? "" : (await response.text()).trim();
  said.textContent = response.ok ? "" : `${act}: ${why || `the answer was ${response.status}`}`;
  said.hidden = response.ok;
  if (!response.ok) said.scrollIntoView({ block: "nearest" });
}

async function send(form, button) {
  if (sending) return;
  sending = true;
  const body = new URLSearchParams(new FormData(form, button));
  const url = button?.getAttribute("formaction") || form.getAttribute("action");
  try {
    const response = await fetch(url, { method: "POST", body, headers: { "X-Fragment": "1" } });
    if ("quiet" in form.dataset) {
      const was = button.textContent;
      button.textContent = response.ok ? "Asked for" : "Could not ask";
      await explain(response, was);
      button.disabled = true;
      setTimeout(() => { button.textContent = was; button.disabled = false; }, 3000);
    } else {
      await show(response);
    }
  } catch {
    document.getElementById("lost").hidden = false;
  } finally {
    sending = false;
  }
}

document.addEventListener("submit", (event) => {
  event.preventDefault();
  send(event.target, event.submitter);
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches("input, textarea, select, summary, a")) return;
  const wanted = event.key === " " ? "[data-accept]" : `[data-key="${CSS.escape(event.key)}"]`;
  if (event.key === " " && event.target.matches("button")) return; // the button's own key
  const button = question.querySelector(wanted);
  if (!button) return;
  event.preventDefault();
  send(button.form, button);
});

// Somebody points at one where teacher and camera disagree: it is asked next.
document.addEventListener("click", async (event) => {
  const link = event.target.closest?.("a[data-ask]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const url = `${question.dataset.url}?ask=${encodeURIComponent(link.dataset.ask)}`;
  const response = await fetch(url, { headers: { "X-Fragment": "1" } }).catch(() => null);
  if (!response) document.getElementById("lost").hidden = false;
  else if (!sending) await show(response);
});

// An empty queue fills by itself; a question that somebody looks at is left alone.
setInterval(async () => {
  if (document.hidden || sending || question.querySelector(".asking")) return;
  const response = await fetch(question.dataset.url, { headers: { "X-Fragment": "1" } }).catch(() => null);
  if (response?.ok && !sending) await swap(question, await response.text());
}, 3000);
