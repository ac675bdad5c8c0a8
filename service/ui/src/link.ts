// What the address keeps of the view, behind `#`: whoever opens it sees the same, once the same file is there.

import { MODES, type Mode } from "./colours";
import type { Place } from "./view";

/** What only the user knows of the file. */
export const SAID = ["up", "unit", "input_format"] as const;

export interface Seen {
  place: Place;
  mode: Mode;
  hidden: number[];
  size: number;
  background: string;
  model: string;
  sample: string;
  safe: boolean;
  up: string;
  unit: string;
  input_format: string;
}

export function written(seen: Partial<Seen>): string {
  const said = new URLSearchParams();
  if (seen.sample) said.set("sample", seen.sample);
  if (seen.model) said.set("model", seen.model);
  if (seen.mode) said.set("colour", seen.mode);
  if (seen.safe) said.set("palette", "safe");
  for (const name of SAID) if (seen[name]) said.set(name, seen[name]);
  if (seen.hidden?.length) said.set("hidden", seen.hidden.join("."));
  if (seen.size) said.set("size", String(seen.size));
  if (seen.background) said.set("background", seen.background);
  if (seen.place) said.set("view", [...seen.place.position, ...seen.place.target].map((each) => each.toPrecision(5)).join("_"));
  return `#${said.toString()}`;
}

/** What a link says, without what it says wrongly. */
export function read(hash: string): Partial<Seen> {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  const found: Partial<Seen> = {};
  const numbers = (name: string, by: string) => (said.get(name) ?? "").split(by).filter(Boolean).map(Number);
  const view = numbers("view", "_");
  if (view.length === 6 && view.every(Number.isFinite)) found.place = { position: view.slice(0, 3), target: view.slice(3) };
  const mode = said.get("colour") as Mode;
  if (MODES.includes(mode)) found.mode = mode;
  if (said.get("palette") === "safe") found.safe = true;
  found.hidden = numbers("hidden", ".").filter((each) => Number.isInteger(each) && each >= 0);
  const size = Number(said.get("size"));
  if (size >= 1 && size <= 8) found.size = size;
  const background = said.get("background");
  if (background && /^#[0-9a-f]{6}$/.test(background)) found.background = background;
  for (const name of ["model", "sample", ...SAID] as const) {
    const value = said.get(name);
    if (value) found[name] = value;
  }
  return found;
}
