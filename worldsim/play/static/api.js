// The sessions' API: plain HTTP for lists and files, one WebSocket for the walk.

const API = "/api/v1";
const MAGIC = 0x31465357; // "WSF1", little-endian

export class ApiError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

async function failed(response) {
  try {
    const { error } = await response.json();
    return new ApiError(error.code, error.message);
  } catch {
    return new ApiError("http", `the server answered ${response.status} ${response.statusText}`);
  }
}

export async function request(path, { method = "GET", body, type, signal } = {}) {
  const headers = {};
  let content = body;
  if (body !== undefined && !(body instanceof Blob) && !(body instanceof ArrayBuffer)) {
    headers["Content-Type"] = "application/json";
    content = JSON.stringify(body);
  } else if (type) {
    headers["Content-Type"] = type;
  }
  let response;
  try {
    response = await fetch(path.startsWith("/") ? path : `${API}/${path}`, {
      method, headers, body: content, signal, credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("offline", "the server does not answer: is worldsim play still running?");
  }
  if (!response.ok) throw await failed(response);
  return response;
}

export const getJson = async (path) => (await request(path)).json();

export async function postJson(path, body) {
  const response = await request(path, { method: "POST", body });
  return response.status === 204 ? null : response.json();
}

/** Split a packed reply into its header and its parts by name. */
export function unpack(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0, true) !== MAGIC) throw new ApiError("bad_message", "not a packed reply");
  const length = view.getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const parts = {};
  for (const part of header.parts || []) {
    parts[part.name] = { ...part, bytes: new Uint8Array(buffer, 8 + length + part.offset, part.length) };
  }
  return { header, parts };
}

/** One session over one WebSocket. Replies come in order; each request is a promise. */
export class Session extends EventTarget {
  #socket = null;
  #pending = new Map();
  #next = 1;

  constructor() {
    super();
    this.info = null;
  }

  get open() {
    return this.#socket !== null && this.#socket.readyState === WebSocket.OPEN;
  }

  /** Connect and send the first message; resolves with the session's info and its first frame. */
  async begin(message, progress = () => {}) {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${API}/ws?protocol=1`);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    await new Promise((resolve, reject) => {
      socket.addEventListener("open", resolve, { once: true });
      socket.addEventListener("close", (event) =>
        reject(new ApiError(event.code === 4401 ? "unauthorized" : "offline",
          event.reason || "the server refused the connection")), { once: true });
    });
    socket.addEventListener("message", (event) => this.#receive(event.data));
    socket.addEventListener("close", (event) => this.#closed(event));
    const id = this.#next++;
    const info = new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, progress, first: true });
    });
    socket.send(JSON.stringify({ ...message, id }));
    return info;
  }

  /** Send a message; resolves with `{header, parts}`. */
  send(message, { progress = () => {} } = {}) {
    if (!this.open) return Promise.reject(new ApiError("closed", "the session is not connected"));
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, progress });
      this.#socket.send(JSON.stringify({ ...message, id }));
    });
  }

  close() {
    if (this.#socket) this.#socket.close(1000);
  }

  #receive(data) {
    const reply = typeof data === "string" ? { header: JSON.parse(data), parts: {} } : unpack(data);
    const { type, id } = reply.header;
    const waiting = this.#pending.get(id);
    if (type === "progress") {
      if (waiting) waiting.progress(reply.header);
      return;
    }
    if (type === "twin") {
      this.dispatchEvent(new CustomEvent("twin", { detail: reply }));
      return;
    }
    if (type === "closed") {
      this.dispatchEvent(new CustomEvent("ended", { detail: reply.header.message }));
      return;
    }
    if (type === "session") this.info = reply.header.session;
    if (!waiting) {
      if (type === "error") this.dispatchEvent(new CustomEvent("failed", { detail: reply.header }));
      return;
    }
    if (type === "error") {
      this.#pending.delete(id);
      waiting.reject(new ApiError(reply.header.code, reply.header.message));
    } else if (type === "session" && waiting.first && reply.header.session.reset) {
      // Its frame follows with the same id.
      waiting.first = false;
    } else {
      this.#pending.delete(id);
      waiting.resolve(reply);
    }
  }

  #closed(event) {
    for (const { reject } of this.#pending.values()) {
      reject(new ApiError("closed", event.reason || "the connection to the server was lost"));
    }
    this.#pending.clear();
    this.dispatchEvent(new CustomEvent("lost", { detail: { code: event.code, reason: event.reason } }));
  }
}
