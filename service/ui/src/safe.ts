// Palettes whose colours are told apart also by who sees no red or no green: each next colour is the one that is furthest from all before
// it, as the eye sees it that confuses them most.

type Vector = readonly [number, number, number];
export type Colour = [number, number, number];

// How linear RGB looks without long and without medium cones (Machado, Oliveira and Fernandes 2009, severity 1).
const SEEN_AS: readonly (readonly [Vector, Vector, Vector])[] = [
  [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
  [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
];
const LEVELS = [0, 36, 73, 109, 146, 182, 219, 255];
const BACKGROUND: Colour = [16, 20, 24];
const made = new Map<number, Colour[]>();
const FIRST: Colour = [230, 159, 0]; // orange, as that of Okabe and Ito
const LEAST_LIGHT = 0.35; // what is darker is lost on the background

/** So many colours, the first of them always the same; with more than there are, they come again. */
export function safePalette(count: number): Colour[] {
  const before = made.get(count);
  if (before) return before;
  const palette = [FIRST];
  const all = LEVELS.flatMap((r) => LEVELS.flatMap((g) => LEVELS.map((b): Colour => [r, g, b])));
  const candidates = all.filter((each) => seenAs(each)[0]![0] >= LEAST_LIGHT);
  const seen = candidates.map(seenAs);
  const nearest = new Float64Array(candidates.length).fill(Infinity);
  const takeAway = (colour: Colour) => {
    const taken = seenAs(colour);
    seen.forEach((each, i) => (nearest[i] = Math.min(nearest[i]!, distance(each, taken))));
  };
  [BACKGROUND, ...palette].forEach(takeAway);
  while (palette.length < Math.min(count, candidates.length)) {
    const best = candidates[nearest.indexOf(Math.max(...nearest))]!;
    palette.push(best);
    takeAway(best);
  }
  made.set(count, Array.from({ length: count }, (_, i) => palette[i % palette.length]!));
  return made.get(count)!;
}

/** The smallest of the distances in OKLab, of all ways to see two colours. */
function distance(a: Vector[], b: Vector[]): number {
  return Math.min(...a.map((each, k) => Math.hypot(each[0] - b[k]![0], each[1] - b[k]![1], each[2] - b[k]![2])));
}

function seenAs(colour: Colour): Vector[] {
  const linear = colour.map((each) => (each <= 10 ? each / 255 / 12.92 : ((each / 255 + 0.055) / 1.055) ** 2.4)) as Colour;
  return SEEN_AS.map((matrix) => oklab(times(matrix, linear).map((each) => Math.min(Math.max(each, 0), 1)) as Colour));
}

/** Of linear RGB (Ottosson 2020). */
function oklab(linear: Vector): Vector {
  const cones = times([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566], [0.0883024619, 0.2817188376, 0.6299787005]], linear);
  return times(
    [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099], [0.0259040371, 0.7827717662, -0.808675766]],
    cones.map(Math.cbrt) as Colour,
  );
}

function times(matrix: readonly [Vector, Vector, Vector], v: Vector): Vector {
  const row = (k: 0 | 1 | 2) => matrix[k][0] * v[0] + matrix[k][1] * v[1] + matrix[k][2] * v[2];
  return [row(0), row(1), row(2)];
}
