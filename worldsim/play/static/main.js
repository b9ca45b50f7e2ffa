// The page: it connects its parts, and decides which key does what.

import { getJson, postJson, request } from "./api.js";
import { Controls } from "./controls.js";
import { Memory3d } from "./memory3d.js";
import { Player } from "./player.js";
import { Settings } from "./settings.js";
import { Stage } from "./stage.js";
import { Starts } from "./starts.js";
import { TakeAway } from "./takeaway.js";
import { Timeline } from "./timeline.js";
import { $, dialogOpen, el, openDialog, say, startTheme, toast } from "./ui.js";

const KEPT = "worldsim-session";
const AGENTS_LATER = 4000; // ms
const PATIENCE = 300000; // ms until a server that does not answer is given up
const LONGEST_WAIT = 8000; // ms from one try to the next

const controls = new Controls($("pad"), $("mouse-look"), $("hero"));
const player = new Player(controls);
const stage = new Stage(player);
const timeline = new Timeline(player, async (question, known) => window.prompt(question, known));
const memory = new Memory3d(player);
const starts = new Starts(player);
new Settings(player);
const takeAway = new TakeAway(player);

// For tests and for the curious: the walk, as the page knows it.
window.worldsim = { player, stage, starts, memory };

const SHORTCUTS = {
  " ": { does: "pause, or go on", shown: "Space", run: () => player.play() },
  ".": { does: "one step, then pause", run: () => player.single() },
  f: { does: "flip between dream and real twin", run: () => stage.flip() },
  g: { does: "side by side, difference, dream", run: () => stage.cycle() },
  "[": { does: "a moment back (with Shift: eight)", run: () => timeline.move(-1) },
  "]": { does: "a moment forward (with Shift: eight)", run: () => timeline.move(1) },
  "{": { run: () => timeline.move(-8) },
  "}": { run: () => timeline.move(8) },
  k: { does: "drop a crate at the mark, or ahead", run: () => memory.drop() },
  n: { does: "name this branch", run: () => timeline.rename() },
  "?": { does: "this list", run: () => help() },
};

function help() {
  const rows = [];
  const row = (keys, text) => rows.push(
    el("dt", {}, ...keys.map((key) => el("kbd", { text: key }))), el("dd", { text }));
  if (player.world) {
    for (const { keys, action } of player.world.keys.filter((one) => one.keys.length === 1)) {
      row([keys[0].toUpperCase()], controls.nameOf(action));
    }
    row(["← ↑ → ↓"], "the same as A, W, D, S");
  }
  for (const [key, { does, shown }] of Object.entries(SHORTCUTS)) if (does && !controlsTake(key)) row([shown || key.toUpperCase()], does);
  row(["Tab"], "to every other control");
  $("keys").replaceChildren(...rows);
  openDialog("help-dialog");
}

/** A world may use a letter of ours: then it is the world's. */
const controlsTake = (key) => player.world !== null && controls.knows(key);

const typing = (target) => target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]") !== null;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialogOpen() || typing(event.target) || !player.session) return;
  if (player.driver && event.key !== "Tab" && event.key !== "Shift") {
    player.drive("");
    toast("You have the controls.");
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (controlsTake(key)) {
    event.preventDefault();
    if (!event.repeat) {
      if (!player.playing) player.play(true);
      controls.press(key);
    }
    return;
  }
  // A focused button keeps its own space bar.
  if (key === " " && event.target.closest("button, summary, a")) return;
  const shortcut = SHORTCUTS[key];
  if (!shortcut) return;
  event.preventDefault();
  Promise.resolve(shortcut.run()).catch((error) => toast(error.message, true));
});
document.addEventListener("keyup", (event) => { if (player.world) controls.lift(event.key); });

for (const button of document.querySelectorAll("[data-dialog]")) {
  button.addEventListener("click", () => {
    controls.release();
    if (button.dataset.dialog === "help-dialog") help();
    else openDialog(button.dataset.dialog);
    if (button.dataset.dialog === "takeaway-dialog") takeAway.show();
  });
}
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

$("play").addEventListener("click", () => player.play());
$("single").addEventListener("click", () => player.single().catch((error) => toast(error.message, true)));
$("speed").addEventListener("change", () => { player.speed = Number($("speed").value); });
$("wait").addEventListener("change", () => { player.waits = $("wait").checked; });
$("driver").addEventListener("change", () => { player.drive($("driver").value); $("driver").blur(); });
// Letting a button go by key would press the next one; a control that was used by mouse gives the keys back.
document.addEventListener("pointerup", (event) => {
  const used = event.target.closest?.("button, input[type=checkbox], label:has(input[type=checkbox])");
  if (used && !dialogOpen() && !used.closest("#tree")) setTimeout(() => document.activeElement?.blur?.(), 0);
});

player.addEventListener("changed", () => {
  $("play").setAttribute("aria-pressed", String(player.playing));
  $("play").querySelector(".label").textContent = player.playing ? "Pause" : "Play";
  $("driver").value = player.driver;
});
player.addEventListener("failed", (event) => toast(event.detail.message, true));
player.addEventListener("ended", (event) => {
  player.play(false);
  toast(event.detail, true);
});
player.addEventListener("lost", ({ detail }) => {
  player.play(false);
  if (detail.code === 4409) toast("Another page has taken this walk over.", true);
  else if (detail.code !== 1000) { toast("The connection was lost. It is tried again.", true); reconnect(); }
});
player.addEventListener("opened", async ({ detail: info }) => {
  const { world } = player;
  say("world-name", world.title || world.name);
  say("scene-name", describe(info));
  document.title = `${world.name} – worldsim play`;
  localStorage.setItem(KEPT, info.id);
  // In a world where things move by themselves, time goes on.
  player.waits = !(world.rewards || world.terminations || world.actions.kind === "box");
  $("wait").checked = player.waits;
  player.playing = true;
  $("tint-field").hidden = !world.memory;
  document.querySelector(".memory").hidden = !world.memory;
  document.querySelector(".shell").classList.toggle("plain", !world.memory);
  document.querySelector(".trio").closest(".panel").hidden = !world.geometry;
  $("driver").replaceChildren(el("option", { value: "", text: "you" }));
  $("driver").dataset.session = "";
  setTimeout(() => hireAgents(info.id), AGENTS_LATER);
});
$("driver").addEventListener("focus", () => { if (player.session) hireAgents(player.session.info.id); });

/** Offer the agents that fit this world. The server makes each one to see, so not at once. */
async function hireAgents(id) {
  const driver = $("driver");
  if (driver.dataset.session === id || id !== player.session?.info.id) return;
  driver.dataset.session = id;
  const agents = await getJson(`sessions/${id}/agents`).catch(() => []);
  if (id !== player.session?.info.id) return;
  driver.replaceChildren(el("option", { value: "", text: "you" }),
    ...agents.map((agent) => el("option", { value: agent.name, text: agent.name, title: agent.summary || "" })));
  driver.value = player.driver;
}

function describe({ start, seed }) {
  const where = !start || start.kind === "scene" ? start?.name || "a start scene"
    : start.kind === "twin" ? "beside the real twin" : start.kind === "folder" ? start.name : "a snapshot";
  return `${where} · seed ${seed}`;
}

/** Go on with a session; one that a crash has ended is read from where it was saved. */
async function returnTo(id) {
  try {
    await request(`sessions/${id}`);
  } catch (error) {
    if (error.code !== "not_found") throw error;
    await postJson(`saved/${id}/resume`, {});
  }
  await player.open({ type: "attach", session: id }, (name) => starts.worldOf(name));
}

async function reconnect() {
  const id = player.session?.info?.id, until = performance.now() + PATIENCE;
  for (let wait = 500; id && performance.now() < until; wait = Math.min(LONGEST_WAIT, 1.6 * wait)) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    try {
      await returnTo(id);
      toast("Connected again.");
      return;
    } catch (error) {
      if (error.code === "offline") continue;
      if (error.code !== "not_found") toast(error.message, true);
      break;
    }
  }
  toast("The walk is gone. Start again, or look for it among the sessions that were left open.", true);
  openDialog("start-dialog");
}

async function login() {
  openDialog("token-dialog");
  await new Promise((resolve) => $("token-dialog").addEventListener("close", resolve, { once: true }));
  await postJson("login", { token: $("token").value });
  $("token").value = "";
}

async function begin() {
  startTheme();
  stage.show("dream");
  for (let tries = 0; ; tries++) {
    try {
      await starts.load();
      break;
    } catch (error) {
      if (error.code !== "unauthorized" || tries > 4) throw error;
      await login().catch((refused) => toast(refused.message, true));
    }
  }
  const chosen = await getJson("/play/start");
  starts.choose(chosen.world);
  if (location.hash.startsWith("#walk=")) {
    const link = location.hash;
    history.replaceState(null, "", location.pathname);
    await starts.follow(link);
    if (player.session) return;
  }
  const kept = localStorage.getItem(KEPT);
  if (kept && !chosen.fresh) {
    try {
      await returnTo(kept);
      return;
    } catch {
      localStorage.removeItem(KEPT);
    }
  }
  if (!await starts.begin() && starts.scene === "") {
    // The engine of the twin may not be installed: the dream alone needs none.
    $("with-twin").checked = false;
    $("with-twin").dispatchEvent(new Event("change"));
    toast("The real twin cannot start here, so the dream walks alone.", true);
    await starts.begin();
  }
}

begin().catch((error) => {
  say("empty", error.message);
  toast(error.message, true);
});
