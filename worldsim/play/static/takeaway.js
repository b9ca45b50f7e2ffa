// What can be taken away: files of the session, and the walk as a link or a file.

import { request } from "./api.js";
import { needsSnapshot, toFile, toText } from "./walks.js";
import { $, el, toast } from "./ui.js";

const LONGEST_LINK = 30000;

const FILES = [
  { key: "png", name: "Picture", told: "the newest frame, PNG", path: (id) => `/play/sessions/${id}/frame.png` },
  { key: "mp4", name: "Video", told: "the walk to here, MP4", path: (id) => `/play/sessions/${id}/walk.mp4` },
  { key: "snapshot", name: "Snapshot", told: "the whole state, to start from again", path: (id) => `sessions/${id}/snapshot`, file: "walk.safetensors" },
  { key: "ply", name: "Points", told: "the memory as a point cloud, PLY", path: (id) => `/play/sessions/${id}/memory.ply`, memory: true },
  { key: "glb", name: "Mesh", told: "the walk's depth fused, GLB", path: (id) => `/play/sessions/${id}/memory.glb`, memory: true },
  { key: "nerfstudio", name: "nerfstudio dataset", told: "pictures, depth, poses and points, ZIP", path: (id) => `/play/sessions/${id}/nerfstudio.zip`, memory: true },
];

function save(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

export class TakeAway {
  constructor(player) {
    this.player = player;
    $("copy-link").addEventListener("click", async () => {
      $("link").select();
      try { await navigator.clipboard.writeText($("link").value); } catch { document.execCommand("copy"); }
      toast("The link is copied.");
    });
  }

  /** Fill the dialog for the present walk. */
  async show() {
    const { session, world } = this.player;
    $("takeaway-error").textContent = "";
    $("link").value = "";
    if (!session) {
      $("files").replaceChildren();
      $("takeaway-error").textContent = "Begin a walk first.";
      return;
    }
    const rows = FILES.filter((file) => !file.memory || world.memory).map((file) => this.#row(file.name, file.told, file.key,
      async () => {
        const response = await request(file.path(session.info.id));
        const ending = file.file || file.path("").split("/").pop();
        await this.#saveSigned(session, await response.blob(), `${world.name}-${ending}`);
      }));
    rows.push(this.#row("Walk", "every action, edit and branch, to replay, .walk", "walk", async () => {
      const walk = await this.#walk();
      const start = needsSnapshot(walk)
        ? await (await request(`/play/sessions/${session.info.id}/start.safetensors`)).arrayBuffer() : null;
      await this.#saveSigned(session, await toFile(walk, start), `${world.name}.walk`);
    }));
    $("files").replaceChildren(...rows);
    try {
      const walk = await this.#walk();
      const link = `${location.origin}${location.pathname}#walk=${await toText(walk)}`;
      const whole = !needsSnapshot(walk);
      const fits = link.length <= LONGEST_LINK && whole;
      $("link").value = fits ? link : "";
      $("copy-link").disabled = !fits;
      $("link-hint").textContent = fits
        ? `The same weights and engine (${session.info.engine}) on the same kind of device (${session.info.device}) replay it to the same pixels.`
        : whole ? "This walk is too long for a link: take the .walk file."
          : "This walk begins in a file, which a link does not hold: take the .walk file.";
    } catch (error) {
      $("takeaway-error").textContent = error.message;
    }
  }

  /** Save a file, and its signed sidecar beside it. */
  async #saveSigned(session, blob, name) {
    save(blob, name);
    const reply = await request(`/play/sessions/${session.info.id}/provenance/${encodeURIComponent(name)}`, { method: "POST", body: blob });
    const sidecar = await reply.json();
    if (sidecar.format) save(new Blob([JSON.stringify(sidecar, null, 2)], { type: "application/json" }), `${name}.provenance.json`);
  }

  async #walk() {
    return (await this.player.ask({ type: "walk" })).header.walk;
  }

  #row(name, told, key, make) {
    const button = el("button", { type: "button", text: "Save", "aria-label": `Save ${name}`, "data-file": key });
    button.addEventListener("click", async () => {
      button.disabled = true;
      button.textContent = "Making…";
      $("takeaway-error").textContent = "";
      try { await make(); } catch (error) { $("takeaway-error").textContent = error.message; }
      button.disabled = false;
      button.textContent = "Save";
    });
    return el("li", {}, el("div", {}, el("b", { text: name }), el("p", { class: "hint", text: told })), button);
  }
}
