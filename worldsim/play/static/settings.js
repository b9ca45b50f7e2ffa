// How the dream is sampled from here on: settings that belong to the walk, as steps and edits do.

import { $, el, toast } from "./ui.js";

const FIELDS = [
  { id: "live-steps", name: "num_inference_steps", read: (node) => (node.value === "" ? null : Number(node.value)) },
  { id: "live-temperature", name: "temperature", read: (node) => (node.value === "" ? null : Number(node.value)) },
  { id: "live-uncertainty", name: "uncertainty", read: (node) => node.checked },
  { id: "live-paint", name: "paint", read: (node) => (node.checked ? "ahead" : null) },
];

export class Settings {
  constructor(player) {
    this.player = player;
    for (const { id, name, read } of FIELDS) {
      // Keys belong to the walk again.
      $(id).addEventListener("change", () => { this.#change(name, read($(id))); $(id).blur(); });
    }
    player.addEventListener("settings", () => this.#show());
    player.addEventListener("jumped", () => this.#show());
  }

  async #change(name, value) {
    try {
      await this.player.change({ [name]: value });
    } catch (error) {
      toast(error.message, true);
      this.#show();
    }
  }

  /** Show the settings of this moment. A rewind goes back behind a change. */
  #show() {
    const { settings, world } = this.player;
    for (const { id, name } of FIELDS) {
      const node = $(id), value = settings[name] ?? null;
      if (node.type === "checkbox") { node.checked = Boolean(value); continue; }
      const text = value === null ? "" : String(value);
      if (![...node.options].some((option) => option.value === text)) node.append(el("option", { value: text, text }));
      node.value = text;
    }
    $("live-paint").closest("label").hidden = !world.memory;
  }
}
