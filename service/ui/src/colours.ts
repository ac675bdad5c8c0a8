// Colours of points, one of five ways.

import { confidenceOf, rowOf, type Cloud, type Labels } from "./cloud";

export type Mode = "label" | "confidence" | "rgb" | "intensity" | "height";
export const MODES: readonly Mode[] = ["label", "confidence", "rgb", "intensity", "height"];
export type Axis = "x" | "y" | "z";

// Viridis at nine places (Smith and van der Walt, CC0): even in brightness, and told apart whatever colours somebody sees.
const VIRIDIS = [68, 1, 84, 71, 44, 122, 59, 81, 139, 44, 113, 142, 33, 144, 141, 39, 173, 129, 92, 200, 99, 170, 220, 50, 253, 231, 37];
const STEPS = VIRIDIS.length / 3 - 1;
const PLAIN: [number, number, number] = [120, 170, 220];

/** Of the ways to colour, those that there is something to show for. */
export function modesOf(cloud: Cloud, labels: Labels | null): Mode[] {
  const has = { label: labels, confidence: labels, rgb: cloud.rgb, intensity: cloud.intensity, height: true };
  return MODES.filter((mode) => has[mode]);
}

/** What the two ends of the ramp stand for; null of colours that are no ramp. */
export function rangeOf(cloud: Cloud, mode: Mode, up: Axis): [number, number] | null {
  if (mode === "confidence") return [0, 1];
  if (mode === "intensity" && cloud.intensity) return middleOf(cloud.intensity, 1, 0);
  return mode === "height" ? middleOf(cloud.xyz, 3, "xyz".indexOf(up)) : null;
}

/** (M, 3) bytes, exactly as they are to be on the screen. */
export function colours(cloud: Cloud, labels: Labels | null, palette: readonly number[][], mode: Mode, up: Axis): Uint8Array {
  const out = new Uint8Array(3 * cloud.shown);
  const range = rangeOf(cloud, mode, up) ?? [0, 1];
  if (mode === "rgb" && cloud.rgb) {
    out.set(cloud.rgb);
  } else if (mode === "label" && labels) {
    for (let i = 0; i < cloud.shown; i++) out.set(palette[labels.classes[rowOf(cloud, i)]!] ?? PLAIN, 3 * i);
  } else if (mode === "confidence" && labels) {
    scaled(out, (i) => confidenceOf(labels, rowOf(cloud, i)), ...range);
  } else if (mode === "intensity" && cloud.intensity) {
    const values = cloud.intensity;
    scaled(out, (i) => values[i]!, ...range);
  } else {
    const axis = "xyz".indexOf(up);
    scaled(out, (i) => cloud.xyz[3 * i + axis]!, ...range);
  }
  return out;
}

function scaled(out: Uint8Array, value: (i: number) => number, low: number, high: number): void {
  const scale = high > low ? STEPS / (high - low) : 0;
  for (let i = 0; 3 * i < out.length; i++) {
    const place = Math.min(Math.max((value(i) - low) * scale, 0), STEPS);
    const step = Math.min(Math.floor(place), STEPS - 1);
    for (let c = 0; c < 3; c++) {
      const from = VIRIDIS[3 * step + c]!;
      out[3 * i + c] = from + (place - step) * (VIRIDIS[3 * step + 3 + c]! - from);
    }
  }
}

/** Between which values all but a few of the points lie: one that is far off would leave the others a single colour. */
function middleOf(values: Float32Array, stride: number, first: number): [number, number] {
  const every = Math.max(1, Math.floor(values.length / stride / 20_000));
  const some: number[] = [];
  for (let i = first; i < values.length; i += stride * every) some.push(values[i]!);
  some.sort((a, b) => a - b);
  return [some[Math.floor(0.01 * some.length)] ?? 0, some[Math.floor(0.99 * some.length)] ?? 1];
}
