// What the service answers, as typed arrays: the points (POST /v1/points) and a class for each of them (format=raw).

import { fileChanged } from "./api";

export type Numbers = Float32Array | Float64Array | Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array;

export interface Column {
  name: string;
  values: Numbers;
}

/** M of the N points of a file. xyz: (M, 3) from origin on; row: which of the N each is, null if they are all. */
export interface Cloud {
  numPoints: number;
  shown: number;
  origin: [number, number, number];
  xyz: Float32Array;
  rgb: Uint8Array | null;
  intensity: Float32Array | null;
  row: Uint32Array | null;
  others: Column[];
}

/** N classes and how sure the net is of each, as float16: of many millions of points every byte counts. */
export interface Labels {
  classes: Uint8Array | Uint16Array;
  halves: Uint16Array;
}

interface Head {
  num_points: number;
  shown: number;
  origin: [number, number, number];
  columns: { name: string; type: string; width: number; offset: number; extra: boolean }[];
}

const KINDS: Record<string, new (buffer: ArrayBuffer, offset: number, length: number) => Numbers> = {
  f4: Float32Array,
  f8: Float64Array,
  i1: Int8Array,
  u1: Uint8Array,
  i2: Int16Array,
  u2: Uint16Array,
  i4: Int32Array,
  u4: Uint32Array,
};

export function cloudOf(body: ArrayBuffer): Cloud {
  const length = new DataView(body).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length))) as Head;
  const own = new Map<string, Numbers>();
  const others: Column[] = [];
  for (const { name, type, width, offset, extra } of head.columns) {
    const kind = KINDS[type];
    if (!kind) throw new Error(`a column of the unknown type ${type}`);
    const values = new kind(body, 4 + length + offset, head.shown * width);
    if (extra) others.push({ name, values });
    else own.set(name, values);
  }
  return {
    numPoints: head.num_points,
    shown: head.shown,
    origin: head.origin,
    xyz: own.get("xyz") as Float32Array,
    rgb: (own.get("rgb") as Uint8Array | undefined) ?? null,
    intensity: (own.get("intensity") as Float32Array | undefined) ?? null,
    row: (own.get("row") as Uint32Array | undefined) ?? null,
    others,
  };
}

export function labelsOf(body: ArrayBuffer, numPoints: number, numClasses: number): Labels {
  const wide = numClasses > 256;
  const size = numPoints * (wide ? 2 : 1);
  if (body.byteLength !== size + 2 * numPoints) throw fileChanged(); // since its points were read
  const classes = wide ? new Uint16Array(body, 0, numPoints) : new Uint8Array(body, 0, numPoints);
  return { classes, halves: new Uint16Array(size % 2 ? body.slice(size) : body, size % 2 ? 0 : size) };
}

/** How sure the net is of a point, 0..1. */
export function confidenceOf(labels: Labels, row: number): number {
  return HALF[labels.halves[row]!]!;
}

/** The value of every float16 from 0 to 1: sign and exponents above are not confidences. */
const HALF = Float32Array.from({ length: 1 << 16 }, (_, bits) => {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  return exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
});

/** How many points each class has, of all N. */
export function counts(labels: Labels, numClasses: number): number[] {
  const found = new Array<number>(numClasses).fill(0);
  for (const each of labels.classes) found[each]! += 1;
  return found;
}

/** Which of the N points the shown one is. */
export function rowOf(cloud: Cloud, shown: number): number {
  return cloud.row ? cloud.row[shown]! : shown;
}
