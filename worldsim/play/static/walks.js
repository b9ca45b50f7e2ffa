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

/** Whether a walk begins in a file, which its replay needs as well. */
export const needsSnapshot = (walk) => ["snapshot", "folder", "frames"].includes(walk.start?.kind);

/** The content of a .walk file. `snapshot`: the bytes of the snapshot that it begins with, or null. */
export async function toFile(walk, snapshot) {
  const file = { format: "worldsim-walk", version: 1, walk };
  if (snapshot) {
    file.walk = { ...walk, start: { kind: "snapshot" } };
    file.snapshot = await toLetters(new Blob([snapshot]));
  }
  return new Blob([JSON.stringify(file)], { type: "application/json" });
}

async function toLetters(blob) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
  return url.slice(url.indexOf(",") + 1);
}

/** Read a walk of a link (text) or a file (bytes): `{walk, snapshot}`. The server checks what it names. */
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
    const snapshot = read.snapshot ? Uint8Array.from(atob(read.snapshot), (letter) => letter.charCodeAt(0)) : null;
    return { walk, snapshot };
  } catch {
    throw bad;
  }
}
