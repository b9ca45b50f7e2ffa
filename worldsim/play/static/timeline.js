// The walk as a strip of thumbnails to drag along, and its branches as a tree.

import { $, fitted, say } from "./ui.js";

const THUMB = 48;
const EVERY = 250; // ms from one drawing of the strip to the next while the walk grows
const LANES = ["#f3b453", "#5fc7b5", "#8fb8ff", "#ee8fbb", "#b6d56a", "#c9a6ff"];
export const laneColour = (branch) => LANES[branch % LANES.length];

export class Timeline {
  constructor(player, ask) {
    this.player = player;
    this.ask = ask;
    this.fetched = new Map();
    this.painted = 0;
    this.length = 0;
    const slider = $("moments");
    slider.addEventListener("input", () => {
      const { branch } = player.position;
      player.drag(branch, Number(slider.value));
    });
    // Arrow keys belong to the walk, except here, where they move along it.
    slider.addEventListener("keydown", (event) => event.stopPropagation());
    $("back").addEventListener("click", () => this.move(-1));
    $("forward").addEventListener("click", () => this.move(1));
    $("rename").addEventListener("click", () => this.rename());
    for (const name of ["shown", "rests", "jumped", "history", "opened"]) player.addEventListener(name, () => this.draw(name));
    document.addEventListener("themechange", () => this.draw("history"));
    new ResizeObserver(() => this.draw("history")).observe($("thumbs"));
  }

  move(by) {
    const at = this.player.position;
    if (!at) return;
    const step = Math.max(0, Math.min(this.player.lastOf(at.branch), at.step + by));
    if (step !== at.step) this.player.drag(at.branch, step);
  }

  async rename() {
    const at = this.player.position;
    if (!at) return;
    const known = this.nameOf(this.player.branches.get(at.branch));
    const name = await this.ask("Name of this branch", known);
    if (name) await this.player.name(at.branch, name);
  }

  nameOf(branch) {
    return branch?.name || (branch?.parent === null || branch === undefined ? "first walk" : `branch ${branch.branch}`);
  }

  draw(why) {
    const { player } = this, at = player.position;
    if (!at) return;
    const last = player.lastOf(at.branch);
    const slider = $("moments");
    slider.max = String(last);
    slider.value = String(at.step);
    slider.setAttribute("aria-valuetext", `moment ${at.step} of ${last}, ${this.nameOf(player.branches.get(at.branch))}`);
    say("moment-now", String(at.step));
    say("moment-last", String(last));
    if (why === "shown" && performance.now() - this.painted < EVERY && last > this.length) return;
    this.painted = performance.now();
    this.length = last;
    this.#strip(at, last);
    if (why !== "shown" || player.branches.size !== this.drawn || at.branch !== this.current) this.#tree(at);
    else this.#lengths();
  }

  #strip(at, last) {
    const { context, width, height } = fitted($("thumbs"));
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = true;
    const used = this.#used(last, width), wide = used / Math.min(last + 1, Math.floor(used / height));
    $("moments").style.setProperty("--used", `${used}px`);
    for (let x = 0; x + 1 < used; x += wide) {
      const thumb = this.#thumb(at.branch, Math.round((x / Math.max(1, used - wide)) * last));
      if (thumb) context.drawImage(thumb, x, 0, Math.ceil(wide), height);
    }
    // The slider's thumb is 4 pixels wide.
    const place = (step) => 2 + (step / Math.max(1, last)) * (used - 4);
    context.fillStyle = "rgb(8 9 12 / .6)";
    if (at.step < last) context.fillRect(place(at.step), 0, used - place(at.step), height);
    for (const branch of this.player.branches.values()) {
      if (branch.parent === null || this.player.ownerOf(at.branch, branch.at) !== branch.parent) continue;
      context.fillStyle = laneColour(branch.branch);
      context.fillRect(place(branch.at) - 1, height - 10, 3, 10);
    }
  }

  /** The strip grows with the walk, a thumbnail a moment, until it fills its width. */
  #used(last, width) {
    return Math.min(width, Math.max(THUMB, (last + 1) * THUMB));
  }

  /** A thumbnail that this page has seen, or the server's nearest one, which comes later. */
  #thumb(branch, step) {
    const moment = this.player.momentAt(branch, step);
    if (moment) return moment.thumb;
    const owner = this.player.ownerOf(branch, step), near = step - (step % 8);
    const key = `${this.player.session.info.id}/${owner}/${near}`;
    if (!this.fetched.has(key)) {
      const image = new Image();
      this.fetched.set(key, null);
      image.onload = () => { this.fetched.set(key, image); this.draw("history"); };
      image.src = `/api/v1/sessions/${this.player.session.info.id}/thumbnails/${owner}/${near}.webp`;
    }
    return this.fetched.get(key);
  }

  #tree(at) {
    const tree = $("tree"), { player } = this;
    this.drawn = player.branches.size;
    this.current = at.branch;
    const focus = document.activeElement?.dataset?.branch;
    tree.replaceChildren();
    for (const branch of player.branches.values()) {
      const row = document.createElement("div");
      row.className = "branch";
      row.setAttribute("role", "listitem");
      row.style.setProperty("--lane", laneColour(branch.branch));
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.branch = branch.branch;
      const steps = document.createElement("span");
      steps.className = "muted";
      button.append(this.nameOf(branch), " ", steps);
      if (branch.branch === at.branch) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => player.rewind(branch.branch, player.lastOf(branch.branch)));
      row.append(document.createElement("i"), button);
      if (branch.parent !== null) {
        const fork = document.createElement("i");
        fork.className = "fork";
        row.append(fork);
      }
      tree.append(row);
    }
    this.#lengths();
    if (focus !== undefined) tree.querySelector(`[data-branch="${focus}"]`)?.focus();
  }

  #lengths() {
    const { player } = this;
    const longest = Math.max(1, ...[...player.branches.values()].map((branch) => branch.steps));
    const width = $("thumbs").clientWidth || 1, full = 100 * this.#used(longest, width) / width;
    const share = (step) => `${(full * step) / longest}%`;
    const order = [...player.branches.keys()];
    [...$("tree").children].forEach((row, i) => {
      const branch = player.branches.get(order[i]);
      if (!branch) return;
      const from = branch.parent === null ? 0 : branch.at;
      const [lane, button] = row.children, fork = row.children[2];
      lane.style.left = share(from);
      lane.style.width = share(Math.max(0, branch.steps - from));
      if (fork) {
        fork.style.left = share(from);
        fork.style.height = `${26 * (i - order.indexOf(branch.parent))}px`;
      }
      button.style.setProperty("--at", `calc(${share(branch.steps)} + 6px)`);
      const text = `${branch.steps}`;
      if (button.lastChild.textContent !== text) button.lastChild.textContent = text;
      button.setAttribute("aria-label", `${this.nameOf(branch)} ${branch.steps} moments`);
    });
  }
}

