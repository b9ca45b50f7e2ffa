// Small helpers: elements, messages, dialogs, numbers, the colour theme.

export const $ = (id) => document.getElementById(id);

/** Make an element. `attributes` may hold `class`, `text`, event listeners (`onclick`) and attributes. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function toast(text, bad = false) {
  const note = el("p", { class: bad ? "toast bad" : "toast", text });
  $("toasts").append(note);
  setTimeout(() => note.remove(), bad ? 9000 : 4000);
}

/** A number with a fixed count of decimals, so that its width stays; a dash for none. */
export function number(value, decimals = 0, unit = "") {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toFixed(decimals) + unit;
}

/** Milliseconds, or seconds where there are many. */
export function duration(ms) {
  return ms !== null && ms >= 1000 ? number(ms / 1000, 1, " s") : number(ms, 0, " ms");
}

export function percent(value) {
  return value === null || value === undefined ? "–" : `${Math.round(100 * value)}%`;
}

/** Set a text only where it changes. */
export function say(id, text) {
  const node = $(id);
  if (node.textContent !== text) node.textContent = text;
}

/** Run after the next paint: what is drawn by now is on the screen first. */
export function afterPaint(run) {
  if (document.hidden) { run(); return; }
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => { channel.port1.close(); run(); };
    channel.port2.postMessage(null);
  });
}

export function openDialog(id) {
  const dialog = $(id);
  if (!dialog.open) dialog.showModal();
}

export function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
}

export const dialogOpen = () => document.querySelector("dialog[open]") !== null;

const THEME = "worldsim-theme";

export function startTheme() {
  const light = matchMedia("(prefers-color-scheme: light)");
  const apply = () => {
    const chosen = localStorage.getItem(THEME);
    document.documentElement.dataset.theme = chosen || (light.matches ? "light" : "dark");
    document.dispatchEvent(new Event("themechange"));
  };
  light.addEventListener("change", apply);
  $("theme").addEventListener("click", () => {
    localStorage.setItem(THEME, document.documentElement.dataset.theme === "light" ? "dark" : "light");
    apply();
  });
  apply();
}

export const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** One of several buttons with role=radio or role=tab: arrow keys move, as people expect. */
export function roving(group, selector, choose) {
  const buttons = () => [...group.querySelectorAll(selector)];
  const current = (button) =>
    button.getAttribute("aria-checked") === "true" || button.getAttribute("aria-selected") === "true";
  const settle = () => {
    const all = buttons();
    const chosen = all.find(current) || all[0];
    for (const button of all) button.tabIndex = button === chosen ? 0 : -1;
  };
  group.addEventListener("click", (event) => {
    const button = event.target.closest(selector);
    if (button) { choose(button); settle(); }
  });
  group.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const all = buttons();
    const at = all.indexOf(document.activeElement);
    if (!move || at < 0) return;
    event.preventDefault();
    event.stopPropagation();
    const next = all[(at + move + all.length) % all.length];
    next.focus();
    choose(next);
    settle();
  });
  settle();
  return settle;
}

/** Make a canvas as fine as the screen; returns its context and its size in CSS pixels. */
export function fitted(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const w = Math.max(1, Math.round(width * ratio)), h = Math.max(1, Math.round(height * ratio));
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height };
}
