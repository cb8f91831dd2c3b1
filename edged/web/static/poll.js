// Keeps every [data-poll] fragment fresh: asks with If-None-Match, swaps only what changed, and only when its pictures
// are decoded, so that nothing flickers. Open <details> and the focus survive a swap. Ages tick by themselves.
"use strict";

let behind = 0; // the server's clock minus ours, ms
let failed = 0;

function fresh(response) {
  const date = Date.parse(response.headers.get("Date") || "");
  if (!Number.isNaN(date)) behind = date - Date.now();
  failed = 0;
  document.getElementById("lost").hidden = true;
}

async function swap(element, html) {
  const next = document.createElement("div");
  next.innerHTML = html;
  const known = new Map([...element.querySelectorAll("img")].map((i) => [i.getAttribute("src"), i]));
  for (const image of next.querySelectorAll("img")) {
    const same = known.get(image.getAttribute("src"));
    if (same) image.replaceWith(same.cloneNode());
  }
  await Promise.all([...next.querySelectorAll("img")].map((i) => i.decode().catch(() => null)));
  for (const details of element.querySelectorAll("details[open][id]")) {
    const same = next.querySelector("#" + CSS.escape(details.id));
    if (same) same.open = true;
  }
  const pressed = element.contains(document.activeElement) && document.activeElement.closest("button[formaction]");
  const holder = document.activeElement?.closest?.("details[id]");
  const focused = element.contains(holder) && document.activeElement.matches("summary") ? holder.id : null;
  element.replaceChildren(...next.childNodes);
  if (focused) document.querySelector("#" + CSS.escape(focused) + " > summary")?.focus({ preventScroll: true });
  for (const button of pressed ? element.querySelectorAll("button[formaction]") : []) {
    const same = button.value === pressed.value && button.formAction === pressed.formAction;
    if (same) button.focus({ preventScroll: true });
  }
  const title = element.querySelector("[data-title]");
  if (title) document.title = title.dataset.title;
  tick();
}

async function poll(element) {
  const every = Number(element.dataset.every || 2000);
  try {
    if (!document.hidden) {
      const headers = element.dataset.etag ? { "If-None-Match": element.dataset.etag } : {};
      const response = await fetch(element.dataset.poll, { headers, cache: "no-store" });
      if (!response.ok && response.status !== 304) throw new Error(String(response.status));
      const html = await response.text(); // of a 304 too: a body left unread counts as an aborted request
      fresh(response);
      if (response.status === 200) {
        element.dataset.etag = response.headers.get("ETag");
        await swap(element, html);
      }
    }
  } catch {
    failed += 1;
    if (failed > 3) document.getElementById("lost").hidden = false;
  }
  setTimeout(poll, every, element);
}

function ago(seconds) {
  if (seconds < 1) return "just now";
  if (seconds < 120) return `${Math.round(seconds)} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

function tick() {
  for (const time of document.querySelectorAll("time[data-age]")) {
    const text = ago((Date.now() + behind - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

for (const element of document.querySelectorAll("[data-poll]")) setTimeout(poll, 500, element);
setInterval(tick, 1000);
