// Mouse, touch and keys on the cloud. Keys do something only while the cloud has the focus, so that no assistive key is taken away.

import { find, make } from "./dom";
import type { View } from "./view";

const STILL_PX = { mouse: 4, pen: 8, touch: 12 }; // how far a click may stray

/** What a hand can ask for that is not of the view alone. */
export interface Actions {
  pick(i: number | null): void;
  /** False if none was picked. */
  letGo(): boolean;
  /** The next point in the order of the file, or one a hundredth of the file further on. */
  step(way: 1 | -1, far: boolean): void;
  resize(by: number): void;
  nextMode(): void;
  nextBackground(): void;
}

interface Key {
  keys: string[];
  shown: string;
  says: string;
  /** True if nobody else is to hear of the key. */
  act(key: string, shift: boolean): void | boolean;
}

export function handle(canvas: HTMLCanvasElement, view: View, actions: Actions): void {
  const keys = keysOf(canvas, view, actions);
  let down: [number, number] = [0, 0];
  canvas.addEventListener("pointerdown", (event) => (down = [event.clientX, event.clientY]));
  canvas.addEventListener("pointerup", (event) => {
    const still = STILL_PX[event.pointerType as keyof typeof STILL_PX] ?? STILL_PX.mouse;
    if (Math.hypot(event.clientX - down[0], event.clientY - down[1]) > still) return;
    const box = canvas.getBoundingClientRect();
    actions.pick(view.pick(event.clientX - box.left, event.clientY - box.top));
  });
  canvas.addEventListener("keydown", (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const found = keys.find((each) => each.keys.includes(key));
    if (!found || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (found.act(key, event.shiftKey)) event.stopPropagation();
  });
  find("keys").replaceChildren(...keys.flatMap(({ shown, says }) => [make("dt", {}, make("kbd", {}, shown)), make("dd", {}, says)]));
}

function keysOf(canvas: HTMLCanvasElement, view: View, actions: Actions): Key[] {
  const ways: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const middle = () => {
    const found = view.pick(canvas.clientWidth / 2, canvas.clientHeight / 2);
    if (found === null) find("status").textContent = "no point is in the middle";
    actions.pick(found);
  };
  return [
    { keys: Object.keys(ways), shown: "arrows", says: "turn; with shift, move", act: (key, shift) => (shift ? view.pan(...ways[key]!) : view.orbit(...ways[key]!)) },
    { keys: ["+", "=", "-", "_"], shown: "+ −", says: "nearer, further away", act: (key) => view.zoom("+=".includes(key) ? 1 : -1) },
    { keys: ["f"], shown: "F", says: "fit all into view", act: () => view.fit() },
    { keys: ["[", "]"], shown: "[ ]", says: "smaller, larger points", act: (key) => actions.resize(key === "]" ? 0.5 : -0.5) },
    { keys: ["c"], shown: "C", says: "colour by something else", act: () => actions.nextMode() },
    { keys: ["b"], shown: "B", says: "another background", act: () => actions.nextBackground() },
    { keys: ["Enter"], shown: "Enter", says: "pick the point in the middle", act: middle },
    { keys: ["n", "p"], shown: "N P", says: "next point, previous; with shift, far", act: (key, shift) => actions.step(key === "n" ? 1 : -1, shift) },
    { keys: ["Escape"], shown: "Esc", says: "let the point go; cancel", act: () => actions.letGo() },
    { keys: ["?"], shown: "?", says: "this list", act: help },
  ];
}

function help(): void {
  find<HTMLDetailsElement>("help").open = true;
  find("help-title").focus();
}
