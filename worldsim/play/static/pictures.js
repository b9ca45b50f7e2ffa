// From the parts of a reply to pixels on canvases.

// Near to infinitely far, as worldsim.io.pictures.depth_picture colours it.
const DEPTH = [[255, 244, 200], [250, 170, 80], [205, 70, 85], [105, 35, 110], [25, 15, 60], [0, 0, 0]];
const HALF = 4.0;
const GAIN = 3;

function fromRaw(part) {
  const [height, width, channels = 1] = part.shape;
  const image = new ImageData(width, height);
  const { bytes } = part, { data } = image;
  for (let i = 0, j = 0; i < data.length; i += 4, j += channels) {
    data[i] = bytes[j];
    data[i + 1] = bytes[channels > 1 ? j + 1 : j];
    data[i + 2] = bytes[channels > 1 ? j + 2 : j];
    data[i + 3] = channels === 4 ? bytes[j + 3] : 255;
  }
  return image;
}

function fromDepth(part) {
  const [height, width] = part.shape;
  const image = new ImageData(width, height);
  const metres = new Float32Array(part.bytes.slice().buffer);
  for (let i = 0; i < metres.length; i++) {
    const far = Number.isFinite(metres[i]) ? 1 - HALF / (HALF + Math.max(0, metres[i])) : 1;
    const at = far * (DEPTH.length - 1), low = Math.min(DEPTH.length - 2, Math.floor(at)), share = at - low;
    for (let c = 0; c < 3; c++) {
      image.data[4 * i + c] = Math.round(DEPTH[low][c] * (1 - share) + DEPTH[low + 1][c] * share);
    }
    image.data[4 * i + 3] = 255;
  }
  return image;
}

/** An ImageData or an ImageBitmap of a part. */
export async function decode(part) {
  if (part.format.startsWith("raw")) return part.format.endsWith("float32") ? fromDepth(part) : fromRaw(part);
  return createImageBitmap(new Blob([part.bytes], { type: `image/${part.format}` }));
}

/** Draw a picture; the canvas takes its size. */
export function draw(canvas, picture) {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    canvas.width = picture.width;
    canvas.height = picture.height;
  }
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (picture instanceof ImageData) {
    context.putImageData(picture, 0, 0);
  } else {
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, 0, 0);
  }
}

/** A checkerboard where a picture is transparent: what the memory does not know. */
export function markHoles(canvas) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const { data, width } = image;
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] > 0) continue;
    const x = (i / 4) % width, y = Math.floor(i / 4 / width);
    data[i] = data[i + 1] = data[i + 2] = 52 + 24 * ((Math.floor(x / 2) + Math.floor(y / 2)) % 2);
    data[i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Tint what the mask part marks. */
export function tint(canvas, part) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < part.bytes.length; i++) {
    if (!part.bytes[i]) continue;
    image.data[4 * i] = 0.55 * image.data[4 * i] + 0.45 * 243;
    image.data[4 * i + 1] = 0.55 * image.data[4 * i + 1] + 0.45 * 120;
    image.data[4 * i + 2] = 0.55 * image.data[4 * i + 2] + 0.45 * 220;
  }
  context.putImageData(image, 0, 0);
}

/** Draw the amplified difference of two canvases of one size. */
export function difference(target, a, b) {
  const [left, right] = [a, b].map((canvas) =>
    canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, canvas.width, canvas.height));
  if (left.width !== right.width || left.height !== right.height) return;
  const image = new ImageData(left.width, left.height);
  for (let i = 0; i < image.data.length; i += 4) {
    for (let c = 0; c < 3; c++) {
      image.data[i + c] = Math.min(255, GAIN * Math.abs(left.data[i + c] - right.data[i + c]));
    }
    image.data[i + 3] = 255;
  }
  draw(target, image);
}
