// The large pictures, the small ones, and the figures beside them.

import { bars, line } from "./charts.js";
import { difference, draw, markHoles, tint } from "./pictures.js";
import { $, colour, duration, number, percent, roving, say } from "./ui.js";

const VIEWS = ["dream", "twin", "both", "diff"];

export class Stage {
  constructor(player) {
    this.player = player;
    this.view = "dream";
    this.total = 0;
    player.addEventListener("opened", (event) => this.#opened(event.detail));
    player.addEventListener("frame", (event) => this.#frame(event.detail));
    player.addEventListener("shown", () => this.figures());
    player.addEventListener("twin", (event) => this.#twin(event.detail));
    player.addEventListener("settings", () => this.#rows());
    player.addEventListener("jumped", () => this.figures());
    document.addEventListener("themechange", () => this.figures());
    this.settle = roving($("view-switch"), "[role=radio]", (button) => this.show(button.dataset.view));
  }

  show(view) {
    const twin = this.player.session?.info?.twin ?? false;
    if (!VIEWS.includes(view) || (view !== "dream" && !twin)) return;
    this.view = view;
    $("views").dataset.view = view;
    for (const button of $("view-switch").children) {
      button.setAttribute("aria-checked", String(button.dataset.view === view));
    }
    this.settle();
    $("generated").style.visibility = view === "twin" ? "hidden" : "";
    if (view === "diff") this.#difference();
  }

  flip() {
    this.show(this.view === "twin" ? "dream" : "twin");
  }

  cycle() {
    this.show(this.view === "both" ? "diff" : this.view === "diff" ? "dream" : "both");
  }

  #opened(info) {
    for (const button of $("view-switch").children) button.disabled = button.dataset.view !== "dream" && !info.twin;
    $("view-switch").title = info.twin ? "" : "This start has no real twin: start from one that has.";
    if (!info.twin) this.show("dream");
    $("empty").hidden = true;
  }

  #rows() {
    const { world, settings } = this.player;
    for (const row of document.querySelectorAll("[data-has]")) {
      row.hidden = !(row.dataset.has === "uncertainty" ? settings.uncertainty : world[row.dataset.has]);
    }
  }

  #twin(picture) {
    if (picture) draw($("twin"), picture);
    if (picture && this.view === "diff") this.#difference();
    this.figures();
  }

  #frame({ header, pictures, painted }) {
    draw($("dream"), pictures.rgb);
    if (painted && this.player.tints) tint($("dream"), painted);
    if (pictures.twin) draw($("twin"), pictures.twin);
    if (pictures.twin && this.view === "diff") this.#difference();
    if (pictures.memory) { draw($("memory-view"), pictures.memory); markHoles($("memory-view")); }
    if (pictures.depth) draw($("depth"), pictures.depth);
    const ended = header.terminated || header.truncated;
    $("banner").hidden = !ended;
    if (ended) $("banner").textContent = "The episode ends here. Go back a moment, or start again.";
    $("dream").dataset.branch = header.branch;
    $("dream").dataset.step = header.step;
  }

  #difference() {
    difference($("diff"), $("dream"), $("twin"));
  }

  figures() {
    const { player } = this, { header, times } = player;
    if (!header) return;
    say("now-step", String(header.step));
    const mean = (name) => {
      const known = times.map((time) => time[name]).filter((value) => value !== null).slice(-12);
      return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
    };
    const interval = mean("interval");
    say("now-fps", number(interval && 1000 / interval, 1));
    say("now-delay", duration(mean("delay")));
    const path = player.pathOf(player.position.branch);
    const twin = header.twin;
    if (twin || !player.session.info.twin) say("psnr", !twin ? "no twin" : !twin.alive ? "twin ended" : twin.psnr === null ? "equal" : number(twin.psnr, 1, " dB"));
    line($("psnr-line"), path.map((moment) => moment?.psnr ?? null),
      { low: 8, high: 40, paint: colour("dream"), at: header.step });
    say("frame-time", duration(interval));
    bars($("time-line"), times, 1000 / (player.session.info.fps * (player.speed || 1)));
    say("coverage", percent(header.coverage));
    say("uncertainty", number(header.uncertainty, 3));
    const sum = path.slice(0, header.step + 1).reduce((total, moment) => total + (moment?.reward ?? 0), 0);
    say("reward", number(sum, 2));
    say("termination", percent(header.termination_prob));
  }
}
