// 4x4 matrices, column-major as WebGL takes them; world axes have z up, metres.

export function perspective(fov, aspect, near, far) {
  const f = 1 / Math.tan(fov / 2), d = near - far;
  return [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (near + far) / d, -1, 0, 0, (2 * near * far) / d, 0];
}

export function orthographic(halfWidth, halfHeight, near, far) {
  const d = near - far;
  return [1 / halfWidth, 0, 0, 0, 0, 1 / halfHeight, 0, 0, 0, 0, 2 / d, 0, 0, 0, (near + far) / d, 1];
}

const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];

export function unit(a) {
  const length = Math.hypot(...a) || 1;
  return a.map((x) => x / length);
}

export function lookAt(eye, target, up) {
  const z = unit(minus(eye, target)), x = unit(cross(up, z)), y = cross(z, x);
  return [x[0], y[0], z[0], 0, x[1], y[1], z[1], 0, x[2], y[2], z[2], 0, -dot(x, eye), -dot(y, eye), -dot(z, eye), 1];
}

export function multiply(a, b) {
  const out = new Array(16).fill(0);
  for (let c = 0; c < 4; c++) {
    for (let r = 0; r < 4; r++) {
      for (let k = 0; k < 4; k++) out[4 * c + r] += a[4 * k + r] * b[4 * c + k];
    }
  }
  return out;
}

/** World position to pixels of a picture; null behind the camera. */
export function project(matrix, [x, y, z], width, height) {
  const w = matrix[3] * x + matrix[7] * y + matrix[11] * z + matrix[15];
  if (w <= 1e-6) return null;
  const u = (matrix[0] * x + matrix[4] * y + matrix[8] * z + matrix[12]) / w;
  const v = (matrix[1] * x + matrix[5] * y + matrix[9] * z + matrix[13]) / w;
  return [(0.5 + 0.5 * u) * width, (0.5 - 0.5 * v) * height, w];
}

// Poses come row-major, camera-to-world, OpenCV axes: x right, y down, z forward.
export const placeOf = (pose) => [pose[3], pose[7], pose[11]];
export const aheadOf = (pose) => [pose[2], pose[6], pose[10]];
export const rightOf = (pose) => [pose[0], pose[4], pose[8]];
export const downOf = (pose) => [pose[1], pose[5], pose[9]];

/** A point in the axes of a camera, in the world's. */
export function fromCamera(pose, [x, y, z]) {
  return [0, 1, 2].map((r) => pose[4 * r] * x + pose[4 * r + 1] * y + pose[4 * r + 2] * z + pose[4 * r + 3]);
}
