// Small lines over the walk and over time.

import { colour, fitted } from "./ui.js";

/** Draw values as a line; holes break it. `low` and `high` bound the axis. */
export function line(canvas, values, { low, high, paint, at = null }) {
  const { context, width, height } = fitted(canvas);
  context.clearRect(0, 0, width, height);
  context.strokeStyle = colour("line");
  context.lineWidth = 1;
  context.beginPath();
  for (const y of [0.5, height - 0.5]) { context.moveTo(0, y); context.lineTo(width, y); }
  context.stroke();
  const x = (i) => (values.length < 2 ? width : (i / (values.length - 1)) * (width - 3) + 1.5);
  const y = (value) => height - 3 - (Math.min(high, Math.max(low, value)) - low) / (high - low) * (height - 6);
  context.strokeStyle = paint;
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.beginPath();
  let drawing = false;
  values.forEach((value, i) => {
    if (value === null || value === undefined) { drawing = false; return; }
    if (drawing) context.lineTo(x(i), y(value));
    else context.moveTo(x(i), y(value));
    drawing = true;
  });
  context.stroke();
  if (at !== null && values[at] !== null && values[at] !== undefined) {
    context.fillStyle = paint;
    context.beginPath();
    context.arc(x(at), y(values[at]), 3, 0, 7);
    context.fill();
  }
}

/** Time per frame as bars: interval as the bar, the server's step as its solid foot. */
export function bars(canvas, times, period) {
  const { context, width, height } = fitted(canvas);
  context.clearRect(0, 0, width, height);
  const shown = times.slice(-Math.floor(width / 3));
  const high = 2 * period;
  shown.forEach(({ interval, took }, i) => {
    const tall = (ms) => Math.min(1, ms / high) * height;
    context.fillStyle = colour("strong");
    if (interval !== null) context.fillRect(3 * i, height - tall(interval), 2, tall(interval));
    context.fillStyle = colour("twin");
    context.fillRect(3 * i, height - tall(took), 2, tall(took));
  });
  context.fillStyle = colour("ink");
  context.fillRect(0, height - height / 2, width, 0.5);
}
