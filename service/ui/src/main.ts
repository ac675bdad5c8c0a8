// The page: a file goes out, its points and what a model says of them come back, and are looked at.

import { cardOf, json, models, post, ServiceError, useKey, type Classified, type LabelClass, type Model } from "./api";
import { cloudOf, counts, labelsOf, rowOf, type Cloud, type Labels } from "./cloud";
import { colours, modesOf, type Axis, type Mode } from "./colours";
import { find, make, save } from "./dom";
import { read, written } from "./link";
import { showBars, showLegend, showPicked, showScores } from "./panel";
import { View } from "./view";

const FORMATS = ["same", "ply", "las", "laz", "pcd", "xyz", "pts", "csv", "npy", "npz", "label", "lidarseg", "raw", "json"];
const NAMES: Record<Mode, string> = { label: "class", confidence: "confidence", rgb: "colour", intensity: "intensity", height: "height" };

const view = opened();
const wanted = read(location.hash);
let known: Model[] = [];
let file: File | null = null;
let sample = "";
let cloud: Cloud | null = null;
let labels: Labels | null = null;
let classes: LabelClass[] = [];
let found: number[] = [];
let mode: Mode = "height";
const hidden = new Set<number>(wanted.hidden);
let picked: number | null = null;
let work: AbortController | null = null;
let countdown = 0;
let sized = wanted.size !== undefined;

function opened(): View | null {
  try {
    return new View(find<HTMLCanvasElement>("canvas"));
  } catch {
    find("no-webgl").hidden = false;
    find("canvas").hidden = true;
    return null;
  }
}

function model(): Model | undefined {
  const chosen = find<HTMLSelectElement>("model").value;
  return known.find((each) => `${each.name}:${each.version}` === chosen);
}

function up(): Axis {
  return (find<HTMLSelectElement>("up").value || model()?.input.up || "z") as Axis;
}

// --- from a file to what is on the screen

async function run(): Promise<void> {
  const asked = model();
  if (!file || !asked) return;
  work?.abort();
  const mine = (work = new AbortController());
  const sent = file;
  const query = options(asked);
  say(null);
  busy(true);
  try {
    const pointsAnswer = await post("v1/points", sent, {}, progress("Sending"), mine.signal);
    const next = cloudOf(pointsAnswer.body);
    show(next, null, []);
    step("Computing", null);
    if (asked.task === "classify") {
      const answer = json(await post("v1/classify", sent, { ...query, top: "5" }, progress("Sending"), mine.signal)) as Classified;
      showBars(answer.predictions);
      done(`${answer.predictions[0]?.label ?? "no class"}, of ${answer.num_points.toLocaleString("en")} points`, answer.filled.join(", "));
    } else {
      const answer = await post("v1/segment", sent, { ...query, format: "raw" }, progress("Sending"), mine.signal);
      const palette = asked.label_map?.classes ?? [];
      show(next, labelsOf(answer.body, next.numPoints, palette.length), palette);
      done(`${next.numPoints.toLocaleString("en")} points labelled`, answer.header("X-Filled") ?? "");
    }
    find("downloads").hidden = asked.task !== "segment";
  } catch (error) {
    if (!mine.signal.aborted) say(error);
  } finally {
    if (work === mine) {
      work = null;
      busy(false);
    }
  }
}

function options(asked: Model): Record<string, string> {
  const query: Record<string, string> = { model: `${asked.name}:${asked.version}` };
  for (const name of ["up", "unit"]) {
    const value = find<HTMLSelectElement>(name).value;
    if (value) query[name] = value;
  }
  return query;
}

function show(next: Cloud, answered: Labels | null, palette: LabelClass[]): void {
  const fresh = cloud !== next;
  [cloud, labels, classes] = [next, answered, palette];
  found = answered ? counts(answered, palette.length) : [];
  picked = null;
  if (fresh) {
    showBars(null);
    view?.show(next.xyz, up());
    if (!sized) resize(next.shown < 20_000 ? 5 : next.shown < 400_000 ? 2 : 1);
    if (wanted.place && view) view.place = wanted.place;
    delete wanted.place;
  }
  const modes = modesOf(next, answered);
  const chosen = wanted.mode && modes.includes(wanted.mode) ? wanted.mode : answered ? "label" : (modes[0] ?? "height");
  find("colour").replaceChildren(...modes.map((each) => make("option", { value: each, selected: each === chosen }, NAMES[each])));
  find("thinned").hidden = next.shown === next.numPoints;
  find("thinned").textContent = `${next.shown.toLocaleString("en")} of ${next.numPoints.toLocaleString("en")} points are drawn; all are labelled.`;
  find("empty").hidden = true;
  recolour(chosen);
  filter();
}

function recolour(chosen: Mode): void {
  mode = chosen;
  if (cloud) view?.colour(colours(cloud, labels, classes.map((each) => each.colour), mode, up()));
  keep();
}

function filter(): void {
  showLegend(labels ? classes : null, found, hidden, { toggle, only });
  showPicked(cloud, labels, classes, picked);
  if (!cloud || !view) return;
  const of = labels;
  if (!of || !hidden.size) view.select(null);
  else {
    const visible = new Uint32Array(cloud.shown);
    let count = 0;
    for (let i = 0; i < cloud.shown; i++) if (!hidden.has(of.classes[rowOf(cloud, i)]!)) visible[count++] = i;
    view.select(visible.slice(0, count));
  }
  keep();
}

function toggle(index: number): void {
  if (!hidden.delete(index)) hidden.add(index);
  filter();
}

function only(index: number): void {
  const others = classes.map((_, each) => each).filter((each) => each !== index && found[each]);
  const alone = !hidden.has(index) && others.every((each) => hidden.has(each));
  hidden.clear();
  if (!alone) for (const each of others) hidden.add(each);
  filter();
}

// --- what is going on

function progress(what: string): (sent: number, total: number) => void {
  return (sent, total) => (sent < total ? step(what, sent / total) : step("Computing", null));
}

function step(what: string, part: number | null): void {
  const bar = find<HTMLProgressElement>("progress");
  if (part === null) bar.removeAttribute("value");
  else bar.value = part;
  find("status").textContent = part === null ? `${what} …` : `${what} ${Math.round(100 * part)} %`;
}

function busy(is: boolean): void {
  find("progress").hidden = find("cancel").hidden = !is;
  find<HTMLButtonElement>("run").disabled = is || !file;
}

function done(what: string, filled: string): void {
  find("status").textContent = filled ? `${what}; filled in: ${filled}` : what;
}

function say(error: unknown): void {
  clearInterval(countdown);
  const box = find("error");
  box.hidden = error === null;
  box.replaceChildren();
  if (error === null) return;
  find("status").textContent = "";
  if (!(error instanceof ServiceError)) {
    box.append(make("p", {}, `The answer could not be read: ${String(error)}`));
    return;
  }
  box.append(make("p", {}, error.message));
  const small = [error.where ? `at ${error.where}` : "", error.known.length ? `known: ${error.known.join(", ")}` : "", error.code].filter(Boolean);
  box.append(make("p", { className: "small" }, small.join(" · ")));
  if (error.code === "unauthorized") askForKey(box);
  if (error.retryAfterS) again(box, error.retryAfterS);
}

function again(box: HTMLElement, seconds: number): void {
  const line = box.appendChild(make("p"));
  const tell = () => {
    line.textContent = seconds > 0 ? `Again in ${seconds} s` : "";
    if (seconds-- <= 0) {
      clearInterval(countdown);
      void run();
    }
  };
  tell();
  countdown = window.setInterval(tell, 1000);
}

function askForKey(box: HTMLElement): void {
  const input = make("input", { type: "password", id: "key", autocomplete: "off" });
  const form = make("form", {}, make("label", { htmlFor: "key" }, "Key of this service"), input, make("button", {}, "Use it"));
  form.onsubmit = (event) => {
    event.preventDefault();
    useKey(input.value.trim());
    void start().then(run);
  };
  box.append(form);
}

// --- what is chosen

async function choose(given: File, from = ""): Promise<void> {
  [file, sample] = [given, from];
  find("file-name").textContent = `${given.name}, ${(given.size / 1e6).toFixed(given.size < 1e5 ? 3 : 1)} MB`;
  await run();
}

async function start(): Promise<void> {
  try {
    known = await models();
  } catch (error) {
    say(error);
    return;
  }
  say(null);
  const first = wanted.model ?? known.filter((each) => each.default).map((each) => `${each.name}:${each.version}`)[0];
  const of = (task: Model["task"], label: string) =>
    make("optgroup", { label }, ...known.filter((each) => each.task === task).map((each) => {
      const value = `${each.name}:${each.version}`;
      return make("option", { value, selected: value === first }, `${value}${each.alias ? ` (${each.alias})` : ""}`);
    }));
  find("model").replaceChildren(of("segment", "a class for every point"), of("classify", "a class for the object"));
  await about();
}

async function about(): Promise<void> {
  const chosen = model();
  if (chosen) showScores(chosen, await cardOf(chosen).catch(() => ""));
}

function keep(): void {
  if (!cloud || !view) return;
  const size = Number(find<HTMLInputElement>("size").value);
  const background = find<HTMLInputElement>("background").value;
  const chosen = find<HTMLSelectElement>("model").value;
  history.replaceState(null, "", written({ place: view.place, mode, hidden: [...hidden], size, background, model: chosen, sample }));
}

async function trySample(name: string): Promise<void> {
  const answer = await fetch(`ui/${name}`);
  const task = name.startsWith("street") ? "segment" : "classify";
  if (model()?.task !== task) {
    const fitting = known.find((each) => each.task === task && each.default);
    if (fitting) find<HTMLSelectElement>("model").value = `${fitting.name}:${fitting.version}`;
    void about();
  }
  await choose(new File([await answer.blob()], name), name);
}

async function download(): Promise<void> {
  const asked = model();
  if (!file || !asked) return;
  const format = find<HTMLSelectElement>("format").value;
  busy(true);
  const mine = (work = new AbortController());
  try {
    const answer = await post("v1/segment", file, { ...options(asked), format }, progress("Sending"), mine.signal);
    const named = /filename="([^"]+)"/.exec(answer.header("Content-Disposition") ?? "")?.[1] ?? `labelled.${format}`;
    save(new Blob([answer.body]), named);
    done(`${named} is saved`, "");
  } catch (error) {
    if (!mine.signal.aborted) say(error);
  } finally {
    busy(false);
    work = null;
  }
}

function wire(): void {
  const input = find<HTMLInputElement>("file");
  input.onchange = () => input.files?.[0] && void choose(input.files[0]);
  for (const kind of ["dragenter", "dragover"] as const) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    });
  }
  for (const kind of ["dragleave", "drop"] as const) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      const dropped = kind === "drop" ? event.dataTransfer?.files[0] : undefined;
      if (dropped) void choose(dropped);
    });
  }
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-sample]")) button.onclick = () => void trySample(button.dataset["sample"]!);
  find("run").onclick = () => void run();
  find("cancel").onclick = () => {
    work?.abort();
    done("cancelled", "");
  };
  find("model").onchange = () => void about().then(run);
  find("up").onchange = () => {
    view?.turnUp(up());
    void run();
  };
  find("unit").onchange = () => void run();
  find<HTMLSelectElement>("colour").onchange = (event) => recolour((event.target as HTMLSelectElement).value as Mode);
  const size = find<HTMLInputElement>("size");
  size.oninput = () => {
    sized = true;
    resize(Number(size.value));
    keep();
  };
  const background = find<HTMLInputElement>("background");
  background.oninput = () => {
    view?.setBackground(background.value);
    keep();
  };
  find("fit").onclick = () => view?.fit();
  find("picture").onclick = () => void view?.picture().then((blob) => save(blob, "view.png"));
  find("link").onclick = () => {
    keep();
    navigator.clipboard?.writeText(location.href).then(
      () => done("the link is copied", ""),
      () => done("the link is in the address bar", ""),
    );
  };
  find("format").replaceChildren(...FORMATS.map((each) => make("option", { value: each }, each)));
  find("download").onclick = () => void download();
  if (view) {
    background.value = wanted.background ?? background.value;
    resize(wanted.size ?? 2);
    view.setBackground(background.value);
    view.moved = keep;
    pointing(find<HTMLCanvasElement>("canvas"), view);
  }
}

function pointing(canvas: HTMLCanvasElement, on: View): void {
  let down: [number, number] = [0, 0];
  canvas.onpointerdown = (event) => (down = [event.clientX, event.clientY]);
  canvas.onpointerup = (event) => {
    if (Math.hypot(event.clientX - down[0], event.clientY - down[1]) > 4) return;
    const box = canvas.getBoundingClientRect();
    pick(on.pick(event.clientX - box.left, event.clientY - box.top));
  };
  const keys: Record<string, (shift: boolean) => void> = {
    ArrowLeft: (shift) => (shift ? on.pan(-1, 0) : on.orbit(-1, 0)),
    ArrowRight: (shift) => (shift ? on.pan(1, 0) : on.orbit(1, 0)),
    ArrowUp: (shift) => (shift ? on.pan(0, 1) : on.orbit(0, 1)),
    ArrowDown: (shift) => (shift ? on.pan(0, -1) : on.orbit(0, -1)),
    "+": () => on.zoom(1),
    "=": () => on.zoom(1),
    "-": () => on.zoom(-1),
    f: () => on.fit(),
    c: () => nextMode(),
    Enter: () => pick(on.pick(canvas.clientWidth / 2, canvas.clientHeight / 2)),
    Escape: () => pick(null),
  };
  canvas.onkeydown = (event) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action(event.shiftKey);
  };
}

function resize(pixels: number): void {
  find<HTMLInputElement>("size").value = String(pixels);
  view?.setSize(pixels);
}

function nextMode(): void {
  const select = find<HTMLSelectElement>("colour");
  if (!select.options.length) return;
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  recolour(select.value as Mode);
}

function pick(i: number | null): void {
  picked = i;
  showPicked(cloud, labels, classes, i);
}

wire();
void start().then(() => (wanted.sample ? trySample(wanted.sample) : undefined));
