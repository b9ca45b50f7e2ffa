// Where a walk begins: a world and a scene of it, a new place from words or a picture, a file, a link.

import { getJson, postJson, request } from "./api.js";
import { needsSnapshot, readWalk } from "./walks.js";
import { $, closeDialogs, el, openDialog, roving, toast } from "./ui.js";

const TWIN = ""; // the scene that stands for a start where the real twin stands
const LARGEST_PICTURE = 20e6;
const POLL = 700;

export class Starts {
  constructor(player) {
    this.player = player;
    this.worlds = [];
    this.world = null;
    this.scene = TWIN;
    this.folder = null;
    const panels = { "pick-worlds": "tab-worlds", "pick-new": "tab-new", "pick-file": "tab-file" };
    roving($("start-dialog").querySelector("[role=tablist]"), "[role=tab]", (tab) => {
      for (const [name, panel] of Object.entries(panels)) {
        $(name).setAttribute("aria-selected", String(name === tab.id));
        $(panel).hidden = name !== tab.id;
      }
      this.#fail("");
      if (tab.id === "pick-file") this.#disk();
    });
    this.settleWorlds = roving($("worlds"), "[role=radio]", (card) => this.choose(card.dataset.world));
    this.settleScenes = roving($("scenes"), "[role=radio]", (card) => this.#pick(card.dataset.scene));
    $("begin").addEventListener("click", () => this.begin());
    $("paint").addEventListener("click", () => this.paint());
    $("upload").addEventListener("change", () => this.upload($("upload").files[0]));
    $("open-link").addEventListener("click", () => this.follow($("walk-link").value));
    $("with-twin").addEventListener("change", () => this.#drawScenes());
  }

  async load() {
    this.worlds = (await getJson("worlds")).filter((world) => !world.error && world.actions && world.keys.length);
    $("worlds").replaceChildren(...this.worlds.map((world) =>
      el("button", { type: "button", role: "radio", class: "card", "data-world": world.name, "aria-checked": "false" },
        el("b", { text: world.title || world.name }),
        el("small", { text: `${world.width}×${world.height}, ${world.megabytes} MB` }),
        el("small", { text: [world.memory && "memory", world.rewards && "rewards", world.twin && "real twin"].filter(Boolean).join(", ") }))));
    if (this.worlds.length === 0) throw new Error("no world is installed");
  }

  worldOf(name) {
    return this.worlds.find((world) => world.name === name);
  }

  choose(name) {
    this.world = this.worldOf(name) || this.worlds[0];
    for (const card of $("worlds").children) {
      card.setAttribute("aria-checked", String(card.dataset.world === this.world.name));
    }
    this.settleWorlds();
    $("world-summary").textContent = this.world.summary;
    $("with-twin").disabled = !this.world.twin;
    $("with-twin").checked = this.world.twin;
    $("with-paint").disabled = !this.world.memory;
    this.#drawScenes();
  }

  #drawScenes() {
    const { world } = this, path = encodeURIComponent(world.name);
    const twin = world.twin && $("with-twin").checked;
    const card = (scene, title, picture) =>
      el("button", { type: "button", role: "radio", class: "scene", "data-scene": scene, "aria-checked": "false" },
        picture, el("span", { text: title }));
    const cards = world.scenes.map((scene) => card(scene, scene, el("img", {
      src: `/api/v1/worlds/${path}/scenes/${encodeURIComponent(scene)}.webp`, alt: "", loading: "lazy" })));
    if (twin) {
      cards.unshift(card(TWIN, "with its twin", el("i", { class: "pair", "aria-hidden": "true" })));
    }
    $("scenes").replaceChildren(...cards);
    this.#pick(twin ? TWIN : world.scenes[0]);
    this.settleScenes();
  }

  #pick(scene) {
    this.scene = scene;
    for (const card of $("scenes").children) card.setAttribute("aria-checked", String(card.dataset.scene === scene));
  }

  settings() {
    const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
    return {
      seed: Math.max(0, Math.floor(number("seed") ?? 0)),
      settings: {
        num_inference_steps: number("inference-steps"),
        temperature: number("temperature"),
        uncertainty: $("with-uncertainty").checked,
        paint: $("with-paint").checked && this.world.memory ? "ahead" : undefined,
      },
    };
  }

  /** Begin what is chosen. Only a start where the real twin stands has a twin beside it. */
  async begin() {
    const { world, scene } = this, settings = this.settings();
    const start = scene === TWIN ? { kind: "twin", seed: settings.seed } : { kind: "scene", name: scene };
    return this.open({ type: "create", world: world.name, start, twin: scene === TWIN, ...settings });
  }

  async open(message) {
    this.#fail("");
    $("begin").disabled = true;
    try {
      await this.player.open(message, (name) => this.worldOf(name), ({ done, total, message: told }) => {
        this.#fail("");
        $("paint-hint").textContent = told || `${done} of ${total}`;
      });
      closeDialogs();
      $("hero").focus();
      return true;
    } catch (error) {
      this.#fail(error.message);
      if (!$("start-dialog").open) { toast(error.message, true); openDialog("start-dialog"); }
      return false;
    } finally {
      $("begin").disabled = false;
    }
  }

  #fail(message) {
    $("start-error").textContent = message;
  }

  // A new place.

  async paint() {
    const prompt = $("prompt").value.trim(), picture = $("picture").files[0];
    this.#fail("");
    if (picture && picture.size > LARGEST_PICTURE) {
      this.#fail(`${picture.name} has ${Math.round(picture.size / 1e6)} MB: give a picture of at most 20 MB.`);
      return;
    }
    const world = this.world?.memory ? this.world : this.worlds.find((one) => one.memory);
    $("paint").disabled = true;
    $("paint-progress").hidden = false;
    $("paint-progress").value = 0;
    $("painted").replaceChildren();
    try {
      const query = new URLSearchParams({ prompt, seed: String(this.settings().seed) });
      if ($("paint-steps").value) query.set("steps", $("paint-steps").value);
      const response = picture
        ? await request(`/play/paint?${query}`, { method: "POST", body: picture, type: picture.type || "application/octet-stream" })
        : await request(`/play/paint?${query}`, { method: "POST", body: {} });
      const { job } = await response.json();
      $("paint-cancel").hidden = false;
      $("paint-cancel").onclick = () => request(`/play/paint/${job}`, { method: "DELETE" });
      const folder = await this.#watch(job);
      await this.open({ type: "create", world: world.name, start: { kind: "folder", name: folder }, ...this.settings() });
    } catch (error) {
      this.#fail(error.message);
    } finally {
      $("paint").disabled = false;
      $("paint-cancel").hidden = true;
      $("paint-progress").hidden = true;
    }
  }

  async #watch(job) {
    let shown = 0;
    for (;;) {
      const state = await getJson(`/play/paint/${job}`);
      $("paint-progress").value = state.share;
      $("paint-hint").textContent = state.message;
      if (state.version !== shown) {
        shown = state.version;
        const views = Array.from({ length: state.views }, (_, i) => el("figure", { class: "scene" },
          el("img", { src: `/play/paint/${job}/views/${i}.webp?${shown}`, alt: `painted view ${i + 1}` })));
        await Promise.all(views.map((view) => view.firstChild.decode().catch(() => {})));
        $("painted").replaceChildren(...views);
      }
      if (state.error) throw new Error(state.error);
      if (state.folder) return state.folder;
      await new Promise((resolve) => setTimeout(resolve, POLL));
    }
  }

  // Files.

  async #disk() {
    const [places, saved] = await Promise.all([getJson("/play/places"), getJson("saved").catch(() => [])]);
    const rows = places.map((place) => el("button", { type: "button", class: "scene", onclick: () => this.open({
      type: "create", world: (this.worldOf(this.world.name)?.memory ? this.world : this.worlds.find((one) => one.memory)).name,
      start: { kind: "folder", name: place.name }, ...this.settings() }) },
    el("img", { src: `/play/places/${encodeURIComponent(place.name)}.webp`, alt: "" }), el("span", { text: place.title || place.name })));
    const kept = saved.map((one) => el("button", { type: "button", onclick: () => this.resume(one.id) },
      `${one.world} · ${one.title || one.scene || "walk"} · ${one.steps} moments`));
    $("disk").replaceChildren(
      ...(kept.length ? [el("h3", { text: "Sessions that were left open" }), el("div", { class: "row" }, ...kept)] : []),
      ...(rows.length ? [el("h3", { text: "Places on this server" }), el("div", { class: "scenes" }, ...rows)] : []));
  }

  async resume(id) {
    try {
      const info = await postJson(`saved/${id}/resume`, {});
      await this.open({ type: "attach", session: info.id ?? id });
    } catch (error) {
      this.#fail(error.message);
    }
  }

  async upload(file) {
    if (!file) return;
    this.#fail("");
    try {
      if (file.name.endsWith(".walk") || file.type === "application/json") {
        await this.replay(await readWalk(await file.arrayBuffer()));
      } else {
        await this.#snapshot(file);
      }
    } catch (error) {
      this.#fail(error.message);
    }
    $("upload").value = "";
  }

  async #replayFrom(snapshot, walk) {
    const { engine, bucket, settings, title } = walk;
    if (!await this.open({ type: "create", world: walk.world, start: { kind: "snapshot" }, engine, bucket, settings, title })) return;
    const { id } = this.player.session.info;
    await request(`sessions/${id}/snapshot`, { method: "PUT", body: snapshot.buffer, type: "application/octet-stream" });
    await postJson(`/play/sessions/${id}/walk`, walk);
    await this.player.look();
  }

  async #snapshot(file) {
    const name = await worldInSnapshot(file);
    // A world may have another name here: the server compares weights and settings.
    const world = this.worldOf(name) || this.world;
    const opened = await this.open({ type: "create", world: world.name, start: { kind: "snapshot" }, seed: this.settings().seed });
    if (!opened) return;
    try {
      await request(`sessions/${this.player.session.info.id}/snapshot`, { method: "PUT", body: await file.arrayBuffer(), type: "application/octet-stream" });
      await this.player.look();
    } catch (error) {
      openDialog("start-dialog");
      throw error;
    }
  }

  async follow(link) {
    try {
      const at = link.indexOf("#walk=");
      if (at < 0) throw new Error("This is no link of a walk: one has #walk= in it.");
      await this.replay(await readWalk(link.slice(at + 6)));
    } catch (error) {
      this.#fail(error.message);
      if (!$("start-dialog").open) openDialog("start-dialog");
    }
  }

  /** Replay a walk from its start; tells where the pixels may differ. */
  async replay({ walk, snapshot }) {
    const world = this.worldOf(walk.world);
    if (!world) throw new Error(`The walk is in the world “${walk.world}”, which is not installed here.`);
    if (needsSnapshot(walk) && snapshot) await this.#replayFrom(snapshot, walk);
    else if (!await this.open({ type: "create", world: walk.world, walk, twin: walk.start?.kind === "twin" })) return;
    const { info } = this.player.session;
    const other = [["weights", walk.weights_id, info.weights_id], ["engine", walk.engine, info.engine],
      ["device", String(walk.device).split(":")[0], String(info.device).split(":")[0]],
      ["number format or threads", walk.arithmetic, info.arithmetic]].filter(([, then, now]) => then && then !== now);
    if (other.length) toast(`Other ${other.map(([what]) => what).join(" and ")} than when it was walked: the pixels may differ.`, true);
    else toast("Replayed with the same weights, engine and device: the same pixels.");
  }
}

/** The name of the world in a snapshot's header, a safetensors file. */
async function worldInSnapshot(file) {
  const bad = () => new Error(`${file.name} is no snapshot: give a file that an environment's save wrote.`);
  if (file.size < 16) throw bad();
  const length = Number(new DataView(await file.slice(0, 8).arrayBuffer()).getBigUint64(0, true));
  if (length > 1e7 || length + 8 > file.size) throw bad();
  try {
    const meta = JSON.parse(await file.slice(8, 8 + length).text()).__metadata__;
    if (meta.format !== "worldsim-snapshot") throw bad();
    return meta.name;
  } catch {
    throw bad();
  }
}
