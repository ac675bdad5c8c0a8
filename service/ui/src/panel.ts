// What stands beside the cloud: bars of a classification, the legend, the point that was picked, a model's scores.

import type { Details, LabelClass, Model, Prediction } from "./api";
import { written } from "./card";
import { confidenceOf, rowOf, type Cloud, type Labels } from "./cloud";
import { find, make, rgb, share } from "./dom";

const WHOLE = /^test_(miou|accuracy|mean_class_accuracy)$/;

export function showBars(predictions: Prediction[] | null): void {
  const list = find<HTMLOListElement>("bars");
  list.replaceChildren(
    ...(predictions ?? []).map(({ label, score }) => scoreBar(label, score)),
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
    say("confidence", confidenceOf(labels, row).toFixed(3));
  }
  const decimals = decimalsOf(cloud);
  ["x", "y", "z"].forEach((axis, k) => say(axis, String(Number((cloud.origin[k]! + cloud.xyz[3 * i + k]!).toFixed(decimals)))));
  if (cloud.rgb) say("colour", [...cloud.rgb.subarray(3 * i, 3 * i + 3)].join(", "));
  if (cloud.intensity) say("intensity", String(Number(cloud.intensity[i]!.toPrecision(6))));
  for (const { name, values } of cloud.others) say(name, String(values[i]!));
  say("index", `${row.toLocaleString("en")} of ${cloud.numPoints.toLocaleString("en")}`);
}

const DECIMALS = new WeakMap<Cloud, number>();

/** As many as single precision has from the origin of the cloud on, however far away that is. */
function decimalsOf(cloud: Cloud): number {
  let found = DECIMALS.get(cloud);
  if (found === undefined) {
    let reach = 0;
    for (const each of cloud.xyz) reach = Math.max(reach, Math.abs(each));
    found = Math.min(Math.max(6 - Math.ceil(Math.log10(reach || 1)), 0), 9);
    DECIMALS.set(cloud, found);
  }
  return found;
}

/** The model's scores, those of single classes as a chart, and its card. */
export function showModel(model: Model, details: Details | null): void {
  const whole = Object.entries(model.metrics).filter(([name, value]) => WHOLE.test(name) && value <= 1);
  find("scores").replaceChildren(...whole.map(([name, value]) => scoreBar(name.replace("test_", "").replaceAll("_", " ").replace("miou", "mean IoU"), value)));
  const ofClasses = Object.entries(details?.class_scores ?? {});
  find("class-scores-title").textContent = model.task === "segment" ? "IoU of each class" : "Accuracy of each class";
  find("class-scores").replaceChildren(...ofClasses.map(([label, value]) => scoreBar(label, value)));
  find("by-class").hidden = !ofClasses.length;
  find("card").replaceChildren(...written(details?.card ?? ""));
}

function scoreBar(label: string, value: number): HTMLElement {
  const bar = make("meter", { min: 0, max: 1, value });
  bar.setAttribute("aria-label", label);
  return make("li", {}, make("span", {}, label), bar, make("b", {}, share(value, 1)));
}
