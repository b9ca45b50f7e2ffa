// The walk of one session: its position, its branches, what each moment looked like, and the clock
// that steps it. Every picture and number comes from the server; this file only asks in time.

import { Session } from "./api.js";
import { decode } from "./pictures.js";
import { afterPaint } from "./ui.js";

const THUMB = 48;
const RECENT = 240;
const SLACK = 1.05; // periods that a tick may take before frames come less often

/** An upper share of what is observed: it rises fast and falls slowly. */
class Bound {
  constructor(rise, fall) { [this.rise, this.fall, this.value] = [rise, fall, 0]; }

  take(value) {
    this.value += (value > this.value ? this.rise : this.fall) * (value - this.value);
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Player extends EventTarget {
  #lane = Promise.resolve();
  #wake = () => {};
  #last = null; // when the newest frame was shown
  #wanted = null; // the newest moment that a drag asks for
  #twin = null; // the newest frame of the twin that is not shown yet
  #pending = 0; // frames whose figures are not drawn yet
  #busy = new Bound(0.3, 0.02); // ms that a tick takes, all in
  #usual = new Bound(0.06, 0.03); // ms from a tick to its frame
  #seen = false; // whether a frame has been shown since the page was opened

  constructor(controls) {
    super();
    this.controls = controls;
    this.session = null;
    this.world = null;
    this.header = null;
    this.track = null;
    this.branches = new Map();
    this.moments = new Map();
    this.playing = true;
    this.waits = true;
    this.speed = 1;
    this.driver = "";
    this.tints = false;
    this.times = []; // {interval, took, delay} in ms of the newest frames
    this.rests = true; // whether time stands still
    this.settings = {};
    controls.addEventListener("act", () => this.#wake());
    this.#clock();
  }

  /** Where the walk stands on the branch that is shown. An earlier moment may be its parent's. */
  get position() {
    if (!this.header) return null;
    const { branch, step } = this.header;
    if (this.track === null || this.ownerOf(this.track, step) !== this.ownerOf(branch, step)) this.track = branch;
    return { branch: this.track, step };
  }

  get ended() {
    return this.header !== null && (this.header.terminated || this.header.truncated) && this.atEnd;
  }

  get atEnd() {
    const { branch, step } = this.position;
    return step >= this.lastOf(branch);
  }

  // Sessions.

  /** Leave the present session, if any, and open one with `message`, of type create or attach. */
  async open(message, worldOf, progress) {
    const session = new Session();
    const first = await session.begin({ ...message, ...this.#views(true) }, progress);
    if (this.session) this.session.close();
    this.session = session;
    this.world = worldOf(session.info.world);
    this.header = null;
    this.track = null;
    this.branches.clear();
    this.moments.clear();
    this.times = [];
    this.#busy.value = this.#usual.value = 0;
    this.#last = null;
    this.driver = "";
    session.addEventListener("ended", (event) => this.#tell("ended", event.detail));
    session.addEventListener("lost", (event) => {
      if (session === this.session) this.#tell("lost", event.detail);
    });
    session.addEventListener("twin", (event) => {
      if (session === this.session) this.#takeTwin(event.detail).catch((error) => this.#fail(error));
    });
    this.controls.use(this.world);
    this.settings = session.info.settings;
    this.#tell("opened", session.info);
    this.#tell("settings");
    if (first.header.type !== "frame") return;
    await this.#take(first);
    await this.refresh();
    this.#tell("jumped");
  }

  /** Run one request after the ones before; its frame, if it has one, becomes the present. */
  run(message, options = {}) {
    const turn = this.#lane.then(async () => {
      const reply = await this.session.send({ ...message, ...this.#views() }, options);
      if (reply.header.type === "frame") await this.#take(reply, options);
      return reply;
    });
    this.#lane = turn.catch(() => {});
    return turn;
  }

  /** A request without a frame, in the same order. */
  ask(message, options) {
    const turn = this.#lane.then(() => this.session.send(message, options));
    this.#lane = turn.catch(() => {});
    return turn;
  }

  // Time.

  play(on = !this.playing) {
    this.playing = on;
    this.#last = null;
    this.#tell("changed");
    this.#wake();
  }

  async single() {
    this.play(false);
    await this.step(this.controls.sample());
  }

  drive(agent) {
    this.driver = agent;
    this.playing = this.playing || agent !== "";
    this.#tell("changed");
    this.#wake();
  }

  async step(action) {
    const began = performance.now();
    const chosen = this.driver ? { agent: this.driver } : { action: action ?? this.world.rest };
    await this.run({ type: "step", ...chosen, twin_later: this.session.info.twin }, { began, acted: !this.driver && action !== null });
  }

  async rewind(branch, step) {
    this.play(false);
    this.track = branch;
    await this.run({ type: "rewind", branch, step }, { jump: true });
    await this.refresh();
    this.#tell("jumped");
  }

  /** Rewind to the newest moment asked for; a drag asks faster than the server rewinds. */
  async drag(branch, step) {
    const busy = this.#wanted !== null;
    this.#wanted = { branch, step };
    this.track = branch;
    if (busy) return;
    this.play(false);
    let done = null;
    while (done !== this.#wanted) {
      done = this.#wanted;
      await this.run({ type: "rewind", ...done }, { jump: true }).catch((error) => this.#fail(error));
    }
    this.#wanted = null;
    this.#tell("jumped");
  }

  /** Show what the server holds, after something else has changed it. */
  async look() {
    this.track = null;
    await this.run({ type: "look" }, { jump: true });
    await this.refresh();
    this.#tell("jumped");
  }

  async edit(edit) {
    const reply = await this.run({ type: "edit", edit }, { jump: true });
    await this.refresh();
    this.#tell("edited");
    return reply;
  }

  /** Dream on with other settings; they belong to the walk from here on. */
  async change(settings) {
    await this.ask({ type: "settings", settings: { ...this.settings, ...settings } });
    await this.look();
  }

  async name(branch, name) {
    await this.ask({ type: "name", branch, name });
    await this.refresh();
  }

  // Branches.

  /** Fetch the tree of branches. */
  async refresh() {
    const { header } = await this.ask({ type: "history" });
    this.branches = new Map(header.branches.map((branch) => [branch.branch, branch]));
    this.#tell("history");
  }

  lastOf(branch) {
    return this.branches.get(branch)?.steps ?? 0;
  }

  /** The branch in which a step of a branch was made: steps up to the fork are its parent's. */
  ownerOf(branch, step) {
    let at = this.branches.get(branch);
    while (at && at.parent !== null && step <= at.at) at = this.branches.get(at.parent);
    return at ? at.branch : branch;
  }

  momentAt(branch, step) {
    return this.moments.get(`${this.ownerOf(branch, step)}:${step}`);
  }

  /** What is known of the moments 0 to `last` of a branch; holes are undefined. */
  pathOf(branch, last = this.lastOf(branch)) {
    return Array.from({ length: last + 1 }, (_, step) => this.momentAt(branch, step));
  }

  // Inside.

  #views(first = false) {
    if (first) return { views: ["rgb", "twin", "depth", "memory"], format: "raw" };
    const views = ["rgb"];
    if (this.session.info.twin) views.push("twin");
    if (this.world.geometry) views.push("depth");
    if (this.world.memory) views.push("memory");
    if (this.tints) views.push("painted");
    return { views, format: "raw" };
  }

  async #take({ header, parts }, { began = null, acted = false, jump = false } = {}) {
    const took = began === null ? null : performance.now() - began;
    const pictures = {};
    await Promise.all(Object.values(parts).map(async (part) => {
      if (part.name !== "painted" && part.name !== "map") pictures[part.name] = await decode(part);
    }));
    if (!this.branches.has(header.branch) && this.branches.size > 0) {
      await this.#learn();
      this.track = header.branch;
    }
    if (began !== null && this.#last !== null) {
      // A frame that is early waits a little, so that frames come evenly.
      this.#usual.take(performance.now() - began);
      const early = this.#usual.value - (performance.now() - began);
      if (early > 1) await sleep(early);
    }
    this.header = header;
    const branch = this.branches.get(header.branch);
    if (branch) branch.steps = Math.max(branch.steps, header.step);
    if (header.settings && JSON.stringify(header.settings) !== JSON.stringify(this.settings)) {
      this.settings = header.settings;
      this.#tell("settings");
    }
    const detail = { header, pictures, painted: parts.painted, jump, began, acted };
    this.#tell("frame", detail);
    this.#showTwin();
    if (!this.#seen) performance.mark("worldsim-first-frame");
    this.#seen = true;
    if (began === null) {
      this.#keep(header, pictures.rgb);
      this.#tell("shown", detail);
      return;
    }
    const shown = performance.now();
    this.times.push({ interval: this.#last === null ? null : shown - this.#last, took, delay: shown - began });
    if (this.times.length > RECENT) this.times.shift();
    this.#last = shown;
    this.#pending += 1;
    // Pictures first: all else may wait until they are on the screen.
    afterPaint(() => {
      this.#pending -= 1;
      this.#keep(header, pictures.rgb);
      this.#tell("shown", detail);
      this.#busy.take(performance.now() - began);
    });
  }

  /** The twin's frame, which comes after the dream's: where that one waits, this one does, too. */
  async #takeTwin({ header, parts }) {
    this.#twin = { header, picture: parts.twin && await decode(parts.twin) };
    this.#showTwin();
  }

  #showTwin() {
    const told = this.#twin?.header, { header } = this;
    if (!told || told.branch !== header?.branch || told.step !== header.step) return;
    header.twin = told.twin;
    const moment = this.momentAt(told.branch, told.step);
    if (moment) moment.psnr = told.twin?.psnr ?? null;
    this.#tell("twin", this.#twin.picture);
    this.#twin = null;
  }

  /** Whether everything is shown that belongs to the newest frame. */
  get settled() {
    return this.#pending === 0 && (!this.session?.info.twin || this.header?.twin !== null);
  }

  /** A step from an earlier moment has begun a branch: ask at once, this request is in the lane. */
  async #learn() {
    const { header } = await this.session.send({ type: "history" });
    this.branches = new Map(header.branches.map((branch) => [branch.branch, branch]));
    this.#tell("history");
  }

  #keep(header, rgb) {
    const thumb = new OffscreenCanvas(THUMB, THUMB);
    const small = new OffscreenCanvas(rgb.width, rgb.height);
    if (rgb instanceof ImageData) small.getContext("2d").putImageData(rgb, 0, 0);
    const context = thumb.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(rgb instanceof ImageData ? small : rgb, 0, 0, THUMB, THUMB);
    const owner = this.ownerOf(header.branch, header.step);
    this.moments.set(`${owner}:${header.step}`, {
      thumb, pose: header.pose ?? null, psnr: header.twin?.psnr ?? null, coverage: header.coverage ?? null,
      reward: header.reward ?? 0,
    });
  }

  async #clock() {
    let next = performance.now();
    for (;;) {
      const idle = !this.session || !this.header || !this.playing || this.ended || this.#wanted !== null
        || !this.session.open || document.hidden;
      const still = !idle && this.waits && !this.driver && !this.controls.active;
      const rested = this.rests;
      this.rests = idle || still;
      if (this.rests && !rested) this.#tell("rests");
      if (this.rests) {
        // A key wakes it at once, before its next tick.
        await Promise.race([sleep(250), new Promise((resolve) => { this.#wake = resolve; })]);
        if (still) this.#last = this.controls.active ? this.#last : null;
        next = Math.max(next, performance.now());
        continue;
      }
      const wait = next - performance.now();
      if (wait > 1) {
        await sleep(wait);
        continue;
      }
      const began = performance.now();
      try {
        await this.step(this.controls.sample());
      } catch (error) {
        this.#fail(error);
        this.play(false);
      }
      // A slow computer gets fewer frames, but steady ones.
      const period = this.speed ? Math.max(1000 / (this.session.info.fps * this.speed), SLACK * this.#busy.value) : 0;
      next = Math.max(began + period, next + period > performance.now() ? next + period : 0);
    }
  }

  #fail(error) {
    this.#tell("failed", error);
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
