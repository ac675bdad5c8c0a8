// What stands beside the cloud: bars of a classification, the legend, the point that was picked, a model's scores.

import type { LabelClass, Model, Prediction } from "./api";
import { rowOf, type Cloud, type Labels } from "./cloud";
import { find, make, rgb, share } from "./dom";

export function showBars(predictions: Prediction[] | null): void {
  const list = find<HTMLOListElement>("bars");
  list.replaceChildren(
    ...(predictions ?? []).map(({ label, score }) => {
      const bar = make("meter", { min: 0, max: 1, value: score });
      bar.setAttribute("aria-label", label);
      return make("li", {}, make("span", {}, label), bar, make("b", {}, share(score, 1)));
    }),
  );
  find("classified").hidden = !predictions;
}

/** toggle: a class is hidden or shown again; only: it is shown alone, or all are. */
export interface LegendActions {
  toggle(index: number): void;
  only(index: number): void;
}

export function showLegend(classes: LabelClass[] | null, found: number[], hidden: ReadonlySet<number>, actions: LegendActions): void {
  const all = found.reduce((a, b) => a + b, 0);
  const there = (classes ?? []).map((each, index) => ({ ...each, index, points: found[index] ?? 0 })).filter((each) => each.points);
  there.sort((a, b) => b.points - a.points);
  const focused = document.activeElement?.id;
  find("legend").replaceChildren(
    ...there.map(({ name, colour, index, points }) => {
      const swatch = make("i", { className: "swatch" });
      swatch.style.backgroundColor = rgb(colour);
      const toggle = make("button", { type: "button", id: `class-${index}`, onclick: () => actions.toggle(index) }, swatch, name);
      toggle.setAttribute("aria-pressed", String(!hidden.has(index)));
      toggle.title = "show or hide";
      const only = make("button", { type: "button", id: `only-${index}`, className: "only", onclick: () => actions.only(index) }, "only");
      only.setAttribute("aria-label", `show ${name} alone, or all again`);
      const cells = [make("td", {}, toggle), make("td", {}, points.toLocaleString("en")), make("td", {}, share(points, all))];
      return make("tr", { className: hidden.has(index) ? "hidden" : "" }, ...cells, make("td", {}, only));
    }),
  );
  if (focused) document.getElementById(focused)?.focus();
  find("segmented").hidden = !classes;
}

export function showPicked(cloud: Cloud | null, labels: Labels | null, classes: LabelClass[], i: number | null): void {
  const list = find<HTMLDListElement>("picked");
  find("picking").hidden = !cloud || i === null;
  list.replaceChildren();
  if (!cloud || i === null) return;
  const say = (name: string, value: string) => list.append(make("dt", {}, name), make("dd", {}, value));
  const row = rowOf(cloud, i);
  if (labels) {
    say("class", classes[labels.classes[row]!]?.name ?? "");
    say("confidence", labels.confidence[row]!.toFixed(3));
  }
  ["x", "y", "z"].forEach((axis, k) => say(axis, String(Number((cloud.origin[k]! + cloud.xyz[3 * i + k]!).toPrecision(9)))));
  if (cloud.rgb) say("colour", [...cloud.rgb.subarray(3 * i, 3 * i + 3)].join(", "));
  if (cloud.intensity) say("intensity", String(Number(cloud.intensity[i]!.toPrecision(6))));
  for (const { name, values } of cloud.others) say(name, String(values[i]!));
  say("point", `${row.toLocaleString("en")} of ${cloud.numPoints.toLocaleString("en")}`);
}

const CLASS_SCORE = /^test_(?:iou|accuracy)_(?:class_)?(.+)$/;

/** The model's scores, those of single classes as bars. */
export function showScores(model: Model, card: string): void {
  const bars: [string, number][] = [];
  const others: [string, number][] = [];
  for (const [name, value] of Object.entries(model.metrics)) {
    const label = model.labels.find((each) => name === `test_iou_${each}` || name === `test_iou/${each}` || CLASS_SCORE.exec(name)?.[1] === each);
    if (label) bars.push([label, value]);
    else if (name.startsWith("test_") && value <= 1) others.push([name.slice("test_".length).replaceAll("_", " "), value]);
  }
  find("scores").replaceChildren(
    ...[...others, ...bars].map(([label, value]) => {
      const bar = make("meter", { min: 0, max: 1, value });
      bar.setAttribute("aria-label", label);
      return make("li", {}, make("span", {}, label), bar, make("b", {}, share(value, 1)));
    }),
  );
  find("card").textContent = card.replace(/^---\n[^]*?\n---\n/, "");
}
