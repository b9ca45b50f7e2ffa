// Walks as links and files: JSON, deflated and in letters that links may hold.

const LONGEST = 4e6;

async function through(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

/** The part of a link after #walk=. */
export async function toText(walk) {
  const packed = await through(new TextEncoder().encode(JSON.stringify(walk)), new CompressionStream("deflate"));
  let letters = "";
  for (const byte of packed) letters += String.fromCharCode(byte);
  return btoa(letters).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export function toFile(walk) {
  return new Blob([JSON.stringify({ format: "worldsim-walk", version: 1, walk })], { type: "application/json" });
}

/** Read a walk of a link (text) or a file (bytes). What it names is checked by the server. */
export async function readWalk(source) {
  const bad = new Error("This is no walk of worldsim play, or it was cut short.");
  try {
    let text;
    if (typeof source === "string") {
      if (source.length > LONGEST) throw bad;
      const letters = atob(source.replaceAll("-", "+").replaceAll("_", "/"));
      const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
      text = new TextDecoder().decode(await through(bytes, new DecompressionStream("deflate")));
    } else {
      if (source.byteLength > 16 * LONGEST) throw bad;
      text = new TextDecoder().decode(source);
    }
    const read = JSON.parse(text);
    const walk = read.format === "worldsim-walk" ? read.walk : read;
    if (typeof walk.world !== "string" || !Array.isArray(walk.branches)) throw bad;
    return walk;
  } catch {
    throw bad;
  }
}
