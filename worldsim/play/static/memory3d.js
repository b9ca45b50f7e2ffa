// The memory's points in WebGL2: a view that orbits and a map from above, from one set of buffers.

import {
  aheadOf, fromCamera, lookAt, multiply, orthographic, perspective, placeOf, project,
} from "./geometry.js";
import { laneColour } from "./timeline.js";
import { $, afterPaint, fitted, say, toast } from "./ui.js";

const FOV = 0.9;
const REACH = 9; // metres from the middle of the map to its side
const OVER = 0.5; // metres over the eye at which the view is cut, so that ceilings hide nothing
const EVERY = 900; // ms between two fetches of what is new
// Of the time, what fetching and drawing may take: without a GPU, the frames need the rest.
const SHARE = { walking: 0.015, resting: 0.5 };
const QUICK = 8; // ms of drawing that nobody notices
const PATIENCE = 250; // ms until the next drawing, where no frame comes

const VERTEX = `#version 300 es
in vec3 position; in vec3 colour; in float size; in float painted;
uniform mat4 matrix; uniform float scale, cut, tinted, perspective_;
out vec3 shade;
void main() {
  gl_Position = matrix * vec4(position, 1.0);
  if (size <= 0.0 || position.z > cut) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  float apart = perspective_ > 0.5 ? max(gl_Position.w, 0.05) : 1.0;
  gl_PointSize = clamp(scale * size / apart, 2.0, 48.0);
  shade = mix(colour, vec3(0.95, 0.47, 0.86), 0.6 * painted * tinted);
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 shade; out vec4 pixel;
void main() { pixel = vec4(shade, 1.0); }`;

function compile(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  return program;
}

/** Points by slot: what comes anew at a slot replaces what was there. */
class Points {
  constructor() { this.clear(); }

  clear() {
    this.used = 0;
    this.position = new Float32Array(0);
    this.colour = new Uint8Array(0);
    this.size = new Float32Array(0);
    this.painted = new Uint8Array(0);
  }

  #grow(slots) {
    if (slots <= this.size.length) return;
    const room = Math.max(slots, 2 * this.size.length, 4096);
    for (const [name, width] of [["position", 3], ["colour", 3], ["size", 1], ["painted", 1]]) {
      const larger = new this[name].constructor(room * width);
      larger.set(this[name]);
      this[name] = larger;
    }
  }

  take(parts) {
    const as = (part, Kind) => new Kind(part.bytes.slice().buffer);
    const slot = as(parts.slot, Uint32Array), position = as(parts.position, Float32Array);
    const colour = parts.colour.bytes, size = as(parts.size, Float32Array), painted = parts.painted.bytes;
    let top = this.used;
    for (const s of slot) top = Math.max(top, s + 1);
    this.#grow(top);
    this.used = top;
    slot.forEach((s, i) => {
      this.position.set(position.subarray(3 * i, 3 * i + 3), 3 * s);
      this.colour.set(colour.subarray(3 * i, 3 * i + 3), 3 * s);
      this.size[s] = size[i];
      this.painted[s] = painted[i];
    });
    if (parts.dropped) for (const s of as(parts.dropped, Uint32Array)) if (s < this.used) this.size[s] = 0;
  }
}

export class Memory3d {
  constructor(player) {
    this.player = player;
    this.points = new Points();
    this.canvas = $("memory3d");
    this.map = $("map");
    this.marked = null;
    this.orbit = { yaw: 0, pitch: 0.75, distance: 7, target: [0, 0, 0] };
    this.since = null;
    this.asked = 0;
    this.pending = false;
    this.due = Infinity; // ms at which the next drawing begins
    this.drawn = 0; // ms at which the newest drawing was done
    this.cost = 0; // ms that its longest piece takes
    this.drawing = false; // whether one is under way
    this.redraw = false; // whether another one is wanted after it
    this.fetching = 0; // ms that a fetch takes
    this.stale = false; // whether frames were shown since the newest fetch
    this.surface = new OffscreenCanvas(1, 1);
    this.gl = this.surface.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
    if (this.gl) this.#prepare();
    else say("memory-hint", "This browser has no WebGL2.");
    player.addEventListener("opened", () => {
      this.marked = null;
      if (this.gl) say("memory-hint", "Click a point to mark it.");
      this.#renew();
    });
    player.addEventListener("shown", (event) => this.#frame(event.detail));
    player.addEventListener("rests", () => { if (this.stale) this.#fetch(); else this.draw(true); });
    player.addEventListener("jumped", () => this.#renew());
    player.addEventListener("edited", () => this.#renew());
    this.#listen();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  // What is fetched.

  #renew() {
    this.since = null;
    this.#fetch();
  }

  async #fetch() {
    const { player } = this;
    if (!player.session || !player.world.memory || !player.header) return;
    if (this.pending) { this.again = true; return; }
    this.pending = true;
    this.again = this.stale = false;
    const began = performance.now();
    const session = player.session;
    try {
      const since = this.since;
      const { header, parts } = await player.ask(since === null ? { type: "points" } : { type: "points", since });
      if (session !== player.session) return;
      if (since === null) this.points.clear();
      this.points.take(parts);
      this.since = header.step;
      say("memory-count", `${header.total.toLocaleString("en")} points`);
      $("memory3d").dataset.points = header.total;
      this.#upload();
      this.draw(player.rests);
    } catch (error) {
      say("memory-hint", error.message);
    } finally {
      this.pending = false;
      this.asked = performance.now();
      this.fetching = this.asked - began;
      if (this.again) this.#fetch();
    }
  }

  #frame({ header, jump }) {
    if (!header.pose) return;
    this.stale = true;
    const pause = Math.max(EVERY, this.fetching / SHARE.walking);
    if (!jump && performance.now() - this.asked > pause) this.#fetch();
    if ($("follow").checked) {
      this.orbit.target = placeOf(header.pose);
      const [x, y] = aheadOf(header.pose);
      const heading = Math.atan2(y, x);
      if (this.heading !== undefined) this.orbit.yaw += Math.atan2(Math.sin(heading - this.heading), Math.cos(heading - this.heading));
      else this.orbit.yaw = heading;
      this.heading = heading;
    }
    this.draw(jump);
  }

  // Drawing.

  #prepare() {
    const { gl } = this;
    this.program = compile(gl);
    this.buffers = {};
    this.array = gl.createVertexArray();
    gl.bindVertexArray(this.array);
    for (const [name, width, kind, scaled] of [["position", 3, gl.FLOAT, false], ["colour", 3, gl.UNSIGNED_BYTE, true],
      ["size", 1, gl.FLOAT, false], ["painted", 1, gl.UNSIGNED_BYTE, false]]) {
      const at = gl.getAttribLocation(this.program, name);
      this.buffers[name] = gl.createBuffer();
      if (at < 0) continue;
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, width, kind, scaled, 0, 0);
    }
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(0.028, 0.031, 0.04, 1);
  }

  #upload() {
    const { gl, points } = this;
    if (!gl) return;
    for (const [name, width] of [["position", 3], ["colour", 3], ["size", 1], ["painted", 1]]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, points[name].subarray(0, width * points.used), gl.DYNAMIC_DRAW);
    }
  }

  /** Draw after the next paint, while one walks no more often than drawing is cheap. */
  draw(now = true) {
    if (this.drawing) { this.redraw = true; return; }
    const share = now ? SHARE.resting : SHARE.walking;
    const at = Math.max(performance.now(), this.drawn + Math.max(0, this.cost - QUICK) / share);
    if (this.due <= at) return;
    this.due = at;
    setTimeout(() => afterPaint(() => { if (this.due === at) this.#draw(); }), at - performance.now());
  }

  async #draw() {
    this.due = Infinity;
    if (!this.gl || !this.player.header?.pose || this.drawing) return;
    this.drawing = true;
    this.redraw = false;
    this.longest = 0;
    const { header } = this.player;
    await this.#drawOrbit(header);
    if (this.longest > QUICK && !this.player.rests) await this.#afterFrame();
    await this.#drawMap(header);
    this.drawing = false;
    this.drawn = performance.now();
    this.cost = 0.5 * this.cost + 0.5 * this.longest;
    if (this.redraw) this.draw(this.player.rests);
  }

  /** Wait until all commands are done; the script itself does not stand still for them. */
  #done() {
    const { gl } = this, fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    return new Promise((resolve) => {
      const look = () => {
        if (!gl.isContextLost() && gl.clientWaitSync(fence, 0, 0) === gl.TIMEOUT_EXPIRED) {
          setTimeout(look, 2);
          return;
        }
        gl.deleteSync(fence);
        resolve();
      };
      setTimeout(look);
    });
  }

  /** The moment after the next frame: until its successor is due, the processor is free. */
  #afterFrame() {
    return new Promise((resolve) => {
      this.player.addEventListener("shown", resolve, { once: true });
      setTimeout(resolve, PATIENCE);
    });
  }

  #cut() {
    return placeOf(this.player.header.pose)[2];
  }

  async #points(matrix, canvas, scale, isPerspective, cut) {
    const { gl, surface, program } = this;
    const { width, height } = canvas;
    if (surface.width < width) surface.width = width;
    if (surface.height < height) surface.height = height;
    gl.viewport(0, surface.height - height, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(program);
    gl.bindVertexArray(this.array);
    const set = (name, value) => gl.uniform1f(gl.getUniformLocation(program, name), value);
    gl.uniformMatrix4fv(gl.getUniformLocation(program, "matrix"), false, matrix);
    set("scale", scale);
    set("perspective_", isPerspective ? 1 : 0);
    set("cut", cut);
    set("tinted", this.player.tints ? 1 : 0);
    const began = performance.now();
    gl.drawArrays(gl.POINTS, 0, this.points.used);
    await this.#done();
    this.longest = Math.max(this.longest, performance.now() - began);
  }

  #eye() {
    const { yaw, pitch, distance, target } = this.orbit;
    const flat = distance * Math.cos(pitch);
    return [target[0] - flat * Math.cos(yaw), target[1] - flat * Math.sin(yaw), target[2] + distance * Math.sin(pitch)];
  }

  #matrix(width, height) {
    const view = lookAt(this.#eye(), this.orbit.target, [0, 0, 1]);
    return multiply(perspective(FOV, width / height, 0.05, 400), view);
  }

  async #drawOrbit(header) {
    const { context, width, height } = fitted(this.canvas);
    const matrix = this.#matrix(width, height);
    const scale = this.canvas.height / (2 * Math.tan(FOV / 2));
    await this.#points(matrix, this.canvas, 1.5 * scale, true, this.orbit.pitch > 0.2 ? this.#cut() + OVER : 1e9);
    context.drawImage(this.surface, 0, 0, this.canvas.width, this.canvas.height, 0, 0, width, height);
    const to = (place) => project(matrix, place, width, height);
    this.#drawWalk(context, to);
    this.#drawCamera(context, to, header);
    if (this.marked) this.#ring(context, to(this.marked), "#ffffff");
  }

  async #drawMap({ pose, intrinsics }) {
    const { map } = this, size = Math.round(map.clientWidth * (window.devicePixelRatio || 1)) || 160;
    if (map.width !== size) { map.width = size; map.height = size; }
    const context = map.getContext("2d");
    const [x, y, z] = placeOf(pose);
    const view = lookAt([x, y, z + 100], [x, y, z], [0, 1, 0]);
    const matrix = multiply(orthographic(REACH, REACH, 1, 200), view);
    await this.#points(matrix, map, 1.3 * size / (2 * REACH), false, z + 0.25);
    context.drawImage(this.surface, 0, 0, size, size, 0, 0, size, size);
    const to = (place) => project(matrix, place, size, size);
    this.#drawWalk(context, to);
    const half = intrinsics ? Math.atan2(intrinsics[2], intrinsics[0]) : 0.6;
    const [ax, ay] = aheadOf(pose), heading = Math.atan2(-ay, ax), [u, v] = [size / 2, size / 2];
    context.fillStyle = "rgb(143 184 255 / .4)";
    context.beginPath();
    context.moveTo(u, v);
    context.arc(u, v, size / 5, heading - half, heading + half);
    context.fill();
    context.fillStyle = "#ffffff";
    context.beginPath();
    context.arc(u, v, size / 50, 0, 7);
    context.fill();
  }

  /** The walked path, each branch in its colour, the present one on top. */
  #drawWalk(context, to) {
    const { player } = this, present = player.position?.branch;
    const order = [...player.branches.values()].sort((a, b) => (a.branch === present) - (b.branch === present));
    context.lineJoin = "round";
    context.lineWidth = 2;
    for (const branch of order) {
      context.strokeStyle = laneColour(branch.branch);
      context.globalAlpha = branch.branch === present ? 1 : 0.6;
      context.beginPath();
      let drawing = false;
      const path = player.pathOf(branch.branch);
      for (const moment of path.slice(branch.parent === null ? 0 : branch.at)) {
        const at = moment?.pose ? to(placeOf(moment.pose)) : null;
        if (!at) { drawing = false; continue; }
        if (drawing) context.lineTo(at[0], at[1]);
        else context.moveTo(at[0], at[1]);
        drawing = true;
      }
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  #drawCamera(context, to, { pose, intrinsics }) {
    const deep = 0.6, [fx, fy, cx, cy] = intrinsics || [1, 1, 0.6, 0.6];
    const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([i, j]) =>
      to(fromCamera(pose, [i * deep * cx / fx, j * deep * cy / fy, deep])));
    const tip = to(placeOf(pose));
    if (!tip || corners.some((corner) => !corner)) return;
    context.strokeStyle = "#ffffff";
    context.lineWidth = 1.5;
    context.beginPath();
    corners.forEach((corner, i) => {
      const next = corners[(i + 1) % 4];
      context.moveTo(tip[0], tip[1]);
      context.lineTo(corner[0], corner[1]);
      context.lineTo(next[0], next[1]);
    });
    context.stroke();
  }

  #ring(context, at, paint) {
    if (!at) return;
    context.strokeStyle = paint;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(at[0], at[1], 6, 0, 7);
    context.stroke();
  }

  // Hands.

  #listen() {
    const { canvas, orbit } = this;
    let from = null, travelled = 0;
    const free = () => { if (travelled > 4) $("follow").checked = $("follow").checked && !this.moved; };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      from = [event.clientX, event.clientY];
      travelled = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const dx = event.clientX - from[0], dy = event.clientY - from[1];
      travelled += Math.abs(dx) + Math.abs(dy);
      from = [event.clientX, event.clientY];
      if (event.shiftKey) this.#pan(dx, dy);
      else this.#turn(-0.008 * dx, 0.008 * dy);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (from && travelled < 4) this.#mark(event.offsetX, event.offsetY);
      from = null;
      free();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoom(Math.exp(0.001 * event.deltaY));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const turns = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
      if (turns[event.key]) this.#turn(...turns[event.key]);
      else if (event.key === "+" || event.key === "=") this.#zoom(0.85);
      else if (event.key === "-") this.#zoom(1.18);
      else if (event.key === "Enter") this.#mark(canvas.clientWidth / 2, canvas.clientHeight / 2);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    $("follow").addEventListener("change", () => {
      this.heading = undefined;
      if (this.player.header) this.#frame({ header: this.player.header, jump: true });
    });
    $("tint").addEventListener("change", () => {
      this.player.tints = $("tint").checked;
      if (this.player.session) this.player.run({ type: "look" }, { jump: true }).catch((error) => toast(error.message, true));
    });
    $("crate").addEventListener("click", () => this.drop());
    $("erase").addEventListener("click", () => this.erase());
    this.orbit = orbit;
  }

  #turn(yaw, pitch) {
    this.orbit.yaw += yaw;
    this.orbit.pitch = Math.max(-0.4, Math.min(1.54, this.orbit.pitch + pitch));
    this.draw();
  }

  #zoom(factor) {
    this.orbit.distance = Math.max(0.5, Math.min(80, this.orbit.distance * factor));
    this.draw();
  }

  #pan(dx, dy) {
    this.moved = true;
    const { yaw, distance, target } = this.orbit, scale = distance / this.canvas.clientHeight;
    target[0] += scale * (dx * -Math.sin(yaw) * -1 + dy * Math.cos(yaw));
    target[1] += scale * (dx * -Math.cos(yaw) + dy * Math.sin(yaw));
    $("follow").checked = false;
    this.draw();
  }

  /** Mark the nearest point under a pixel. */
  #mark(u, v) {
    if (!this.player.header?.pose) return;
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    const matrix = this.#matrix(width, height), cut = this.orbit.pitch > 0.2 ? this.#cut() + OVER : 1e9;
    const { position, size, used } = this.points;
    let best = null, score = Infinity;
    for (let i = 0; i < used; i++) {
      if (size[i] <= 0 || position[3 * i + 2] > cut) continue;
      const at = project(matrix, position.subarray(3 * i, 3 * i + 3), width, height);
      if (!at) continue;
      const apart = Math.hypot(at[0] - u, at[1] - v);
      if (apart < 14 && at[2] + 0.25 * apart < score) [best, score] = [i, at[2] + 0.25 * apart];
    }
    this.marked = best === null ? null : [...position.slice(3 * best, 3 * best + 3)];
    say("memory-hint", this.marked
      ? `Marked ${this.marked.map((x) => x.toFixed(1)).join(", ")} m` : "Click a point to mark it.");
    this.draw();
  }

  async #change(edit, told) {
    try {
      await this.player.edit(edit);
      toast(told);
    } catch (error) {
      toast(error.message, true);
    }
  }

  drop() {
    return this.#change({ kind: "crate", position: this.marked, size: 0.8 },
      this.marked ? "A crate stands at the mark." : "A crate stands ahead.");
  }

  erase() {
    const radius = Number($("radius").value);
    if (!this.marked) {
      toast("Mark a point first: click it in the memory, or press Enter there.", true);
      return null;
    }
    return this.#change({ kind: "erase", position: this.marked, radius }, `Erased within ${radius} m of the mark.`);
  }
}
