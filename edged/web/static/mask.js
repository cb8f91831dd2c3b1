// Paints the outline of a mask over the picture, by mouse, touch or keyboard. What is drawn is the field of numbers of the
// form and nothing else, so that what is saved is what is seen; without this script the field is filled in by hand.
"use strict";

const MOST = 32;
const stage = document.getElementById("stage");
const holder = document.getElementById("corners");
const form = document.getElementById("form");
const text = document.getElementById("corners-text");
const [under, over] = document.querySelectorAll("#draft path");
const canvas = stage.querySelector("svg").viewBox.baseVal;
const button = Object.fromEntries(["add", "close", "drop", "clear"].map((id) => [id, document.getElementById(id)]));

let corners = []; // {x, y}: shares of width and height
let closed = false;
let current = -1; // the corner that was focused last
let drag = null; // {at, id, from, x, y, dx, dy, moved}

const clamp = (v) => Math.min(1, Math.max(0, Math.round(v * 1e4) / 1e4));
const percent = (v) => `${(100 * v).toFixed(1)} %`;
const placed = (c) => `${percent(c.x)} across, ${percent(c.y)} down`;
const handles = () => holder.querySelectorAll("button");

function say(sentence) {
  document.getElementById("said").textContent = sentence;
}

function tell() {
  if (!corners.length) say("No corner yet.");
  else if (closed) say(`The outline is closed, ${corners.length} corners. Give it a name and save it, or move its corners.`);
  else if (corners.length < 3) say(`${corners.length} of at least 3 corners.`);
  else say(`${corners.length} corners. Close the outline at its first corner, or set more.`);
}

function draw() {
  const all = handles();
  for (let i = all.length; i < corners.length; i += 1) {
    const handle = document.createElement("button");
    handle.type = "button";
    handle.className = "corner";
    handle.dataset.n = i + 1;
    holder.append(handle);
  }
  for (let i = corners.length; i < all.length; i += 1) all[i].remove();
  handles().forEach((handle, i) => {
    handle.classList.toggle("first", i === 0 && !closed && corners.length > 2);
    handle.style.left = `${100 * corners[i].x}%`;
    handle.style.top = `${100 * corners[i].y}%`;
    handle.setAttribute("aria-label", `Corner ${i + 1} of ${corners.length}, ${placed(corners[i])}`);
  });
  const points = corners.map((c) => `${(c.x * canvas.width).toFixed(1)},${(c.y * canvas.height).toFixed(1)}`);
  const path = points.length ? `M${points.join("L")}${closed ? "Z" : ""}` : "";
  under.setAttribute("d", path);
  over.setAttribute("d", path);
  document.getElementById("draft").classList.toggle("closed", closed);
  text.value = corners.map((c) => `${c.x},${c.y}`).join(" ");
  button.add.disabled = corners.length >= MOST;
  button.close.disabled = closed || corners.length < 3;
  button.drop.disabled = button.clear.disabled = !corners.length;
}

function focus(i) {
  current = i;
  handles()[i]?.focus({ preventScroll: true });
}

function put(x, y, after = corners.length - 1) {
  if (corners.length >= MOST) return say(`A mask has at most ${MOST} corners.`);
  corners.splice(after + 1, 0, { x: clamp(x), y: clamp(y) });
  draw();
  focus(after + 1);
  tell();
}

// By keyboard a corner starts beside the one before it, or in the middle of a side once the outline is closed.
function next(after) {
  const a = corners[after];
  const b = corners[(after + 1) % corners.length];
  if (!a) put(0.5, 0.5);
  else if (closed) put((a.x + b.x) / 2, (a.y + b.y) / 2, after);
  else put(a.x + (a.x < 0.9 ? 0.05 : -0.05), a.y, after);
}

function close() {
  if (closed || corners.length < 3) return tell();
  closed = true;
  draw();
  tell();
  document.getElementById("name").focus();
}

function drop(i) {
  if (!corners[i]) return;
  corners.splice(i, 1);
  if (corners.length < 3) closed = false;
  draw();
  tell();
  if (corners.length) focus(Math.min(i, corners.length - 1));
  else button.add.focus();
}

function clear() {
  corners = [];
  closed = false;
  current = -1;
  draw();
  tell();
  button.add.focus();
}

function move(i, x, y) {
  corners[i] = { x: clamp(x), y: clamp(y) };
  draw();
  say(`Corner ${i + 1}: ${placed(corners[i])}.`);
}

function read() {
  const written = text.value;
  corners = written.trim().split(/\s+/).map((at) => at.split(",").map(Number))
    .filter((at) => at.length === 2 && at.every((v) => v >= 0 && v <= 1)).slice(0, MOST).map(([x, y]) => ({ x, y }));
  closed = corners.length > 2;
  draw();
  text.value = written; // what is not a corner yet, or never, is left to whoever writes it
  tell();
}

stage.addEventListener("click", (event) => {
  if (event.target.closest(".corner")) return;
  if (closed) return say("The outline is closed. Drag its corners, add one to a side, or start over.");
  const box = stage.getBoundingClientRect();
  put((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
});

holder.addEventListener("pointerdown", (event) => {
  const at = [...handles()].indexOf(event.target);
  if (at < 0 || event.button !== 0 || drag) return; // one finger at a time
  const box = stage.getBoundingClientRect();
  drag = {
    at, id: event.pointerId, from: corners[at], x: event.clientX, y: event.clientY, moved: false,
    dx: corners[at].x - event.clientX / box.width, dy: corners[at].y - event.clientY / box.height,
  };
  event.target.setPointerCapture(event.pointerId);
  focus(at);
});

holder.addEventListener("pointermove", (event) => {
  if (drag?.id !== event.pointerId) return;
  drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 3;
  if (!drag.moved) return;
  const box = stage.getBoundingClientRect();
  move(drag.at, drag.dx + event.clientX / box.width, drag.dy + event.clientY / box.height);
});

holder.addEventListener("pointerup", (event) => {
  if (drag?.id !== event.pointerId) return;
  const tapped = !drag.moved && drag.at === 0;
  drag = null;
  if (tapped && !closed && corners.length > 2) close();
});

holder.addEventListener("pointercancel", (event) => {
  if (drag?.id !== event.pointerId) return;
  move(drag.at, drag.from.x, drag.from.y);
  drag = null;
});

holder.addEventListener("focusin", (event) => {
  current = [...handles()].indexOf(event.target);
});

holder.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = event.shiftKey ? 0.001 : 0.01;
  const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (by) move(current, corners[current].x + by[0], corners[current].y + by[1]);
  else if (event.key === "Enter") close();
  else if (event.key === " ") next(current);
  else if (event.key === "Delete" || event.key === "Backspace") drop(current);
  else return;
  event.preventDefault();
});

holder.addEventListener("keyup", (event) => {
  if (event.key === " ") event.preventDefault(); // else it would press the button
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.target.matches("input, textarea")) return;
  if (drag) {
    move(drag.at, drag.from.x, drag.from.y);
    drag = null;
  } else if (corners.length) clear();
});

button.add.addEventListener("click", () => next(closed && current >= 0 ? current : corners.length - 1));
button.close.addEventListener("click", close);
button.drop.addEventListener("click", () => drop(corners[current] ? current : corners.length - 1));
button.clear.addEventListener("click", clear);

text.addEventListener("input", read);

form.addEventListener("submit", (event) => {
  if (text.value.trim() && corners.length > 2) return;
  event.preventDefault();
  say("Set at least 3 corners first.");
  button.add.focus();
});

for (const element of document.querySelectorAll("[data-scripted]")) element.hidden = false;
read();
document.getElementById("numbers").open = text.value.trim() !== "" && !closed;
document.querySelector(".ask a")?.focus();
