// Keys, buttons and the mouse become actions of the world. What an action means comes with the
// world: `keys` lists combinations of keys and the action of each, `rest` the action of no key.

const ARROWS = { ArrowUp: "w", ArrowDown: "s", ArrowLeft: "a", ArrowRight: "d" };
const PLACES = ["q", "w", "e", "a", "s", "d", "z", "x", "c"];
const PIXELS_PER_TURN = 24;
const PIXELS_PER_AXIS = 90;

export class Controls extends EventTarget {
  #held = []; // keys that are down, oldest first
  #tapped = []; // keys that went down and up between two samples
  #turn = 0;
  #known = [];
  #single = new Set();

  constructor(pad, mouse, stage) {
    super();
    this.pad = pad;
    this.mouse = mouse;
    this.stage = stage;
    this.world = null;
    window.addEventListener("blur", () => this.release());
    document.addEventListener("pointerlockchange", () => this.#locked());
    document.addEventListener("mousemove", (event) => {
      if (document.pointerLockElement === this.stage) {
        this.#turn += event.movementX;
        this.#woke();
      }
    });
    mouse.addEventListener("click", () => this.stage.requestPointerLock?.());
  }

  /** Take over a world's actions and draw its buttons. */
  use(world) {
    this.world = world;
    this.release();
    this.#known = world.keys.map(({ keys, action }) => ({ keys: [...keys].sort(), action }));
    const singles = world.keys.filter(({ keys }) => keys.length === 1);
    this.#single = new Set(singles.map(({ keys }) => keys[0]));
    this.#drawPad(singles);
    this.mouse.hidden = this.#turns() === null || matchMedia("(pointer: coarse)").matches;
  }

  /** Whether this key, as the browser names it, is one of the world's. */
  knows(key) {
    return this.#single.has(this.#name(key));
  }

  press(key) {
    const name = this.#name(key);
    if (!this.#single.has(name) || this.#held.includes(name)) return;
    this.#held.push(name);
    this.#tapped.push(name);
    this.#mark();
    this.#woke();
  }

  lift(key) {
    this.#held = this.#held.filter((held) => held !== this.#name(key));
    this.#mark();
  }

  release() {
    this.#held = [];
    this.#tapped = [];
    this.#turn = 0;
    this.#mark();
  }

  get active() {
    return this.#held.length > 0 || this.#tapped.length > 0 || Math.abs(this.#turn) >= PIXELS_PER_TURN;
  }

  /** The action of this moment; null if nothing is pressed. */
  sample() {
    const pressed = [...new Set([...this.#tapped.filter((key) => !this.#held.includes(key)), ...this.#held])];
    this.#tapped = [];
    const turned = this.#turnAction(pressed);
    if (turned !== null) return turned;
    return this.#actionOf(pressed);
  }

  #name(key) {
    return ARROWS[key] || (key.length === 1 ? key.toLowerCase() : key);
  }

  /** The action of the largest known combination; of two single keys, the newer one's. */
  #actionOf(pressed) {
    let best = null, score = -1;
    for (const { keys, action } of this.#known) {
      if (!keys.every((key) => pressed.includes(key))) continue;
      const rank = 100 * keys.length + Math.max(...keys.map((key) => pressed.indexOf(key)));
      if (rank > score) [best, score] = [action, rank];
    }
    return best;
  }

  /** What the mouse turns: two actions, or one number of a continuous action. */
  #turns() {
    const { actions } = this.world;
    const find = (side) => actions.names.findIndex((name) => /turn|steer|look/i.test(name) && name.includes(side));
    if (actions.kind === "discrete") {
      const [left, right] = [find("left"), find("right")];
      return left < 0 || right < 0 ? null : { left, right };
    }
    const axis = actions.names.findIndex((name) => /turn|steer|look/i.test(name));
    return axis < 0 ? null : { axis };
  }

  #turnAction(pressed) {
    const turns = this.world && document.pointerLockElement === this.stage ? this.#turns() : null;
    if (turns === null || Math.abs(this.#turn) < (turns.axis === undefined ? PIXELS_PER_TURN : 1)) return null;
    if (turns.axis === undefined) {
      const right = this.#turn > 0;
      this.#turn = Math.max(-3 * PIXELS_PER_TURN, Math.min(3 * PIXELS_PER_TURN, this.#turn));
      this.#turn -= right ? PIXELS_PER_TURN : -PIXELS_PER_TURN;
      return right ? turns.right : turns.left;
    }
    const { low, high } = this.world.actions;
    const action = [...(this.#actionOf(pressed) ?? this.world.rest)];
    const share = Math.max(-1, Math.min(1, this.#turn / PIXELS_PER_AXIS));
    action[turns.axis] = share < 0 ? -share * low[turns.axis] : share * high[turns.axis];
    this.#turn *= 0.6;
    return action;
  }

  #locked() {
    const on = document.pointerLockElement === this.stage;
    this.mouse.textContent = on ? "Esc frees the mouse" : "Look with the mouse";
    this.#turn = 0;
  }

  #woke() {
    this.dispatchEvent(new Event("act"));
  }

  #drawPad(singles) {
    const placed = singles.every(({ keys }) => PLACES.includes(keys[0]));
    this.pad.replaceChildren();
    this.pad.classList.toggle("many", !placed && singles.length > 9);
    for (const { keys: [key], action } of singles) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.key = key;
      const letter = document.createElement("b"), name = document.createElement("span");
      letter.textContent = key.toUpperCase();
      name.textContent = this.nameOf(action);
      button.append(letter, " ", name);
      if (placed) {
        const at = PLACES.indexOf(key);
        button.style.gridArea = `${Math.floor(at / 3) + 1} / ${(at % 3) + 1}`;
      }
      button.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        button.setPointerCapture(event.pointerId);
        this.press(key);
      });
      for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
        button.addEventListener(end, () => this.lift(key));
      }
      // Enter and the space bar on a focused button, which bring no pointer.
      button.addEventListener("click", (event) => {
        if (event.detail === 0) { this.press(key); this.lift(key); }
      });
      button.addEventListener("contextmenu", (event) => event.preventDefault());
      this.pad.append(button);
    }
  }

  /** What an action does, in the world's own words. */
  nameOf(action) {
    const { actions, rest } = this.world;
    if (actions.kind === "discrete") return actions.names[action] ?? `action ${action}`;
    const axis = action.findIndex((value, i) => value !== rest[i]);
    if (axis < 0) return "nothing";
    const name = actions.names[axis] ?? `number ${axis + 1}`;
    if (rest[axis] === actions.low[axis] || rest[axis] === actions.high[axis]) return name;
    const less = action[axis] < rest[axis];
    return /steer|turn/i.test(name) ? `${name} ${less ? "left" : "right"}` : `${name} ${less ? "−" : "+"}`;
  }

  #mark() {
    for (const button of this.pad.children) {
      button.classList.toggle("held", this.#held.includes(button.dataset.key));
    }
  }
}
