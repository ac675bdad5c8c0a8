// The page: a file goes out, its points and what a model says of them come back, and are looked at.

import { detailsOf, json, models, post, type Classified, type LabelClass, type Model } from "./api";
import { cloudOf, counts, labelsOf, rowOf, type Cloud, type Labels } from "./cloud";
import { colours, modesOf, type Axis, type Mode } from "./colours";
import { find, make, save } from "./dom";
import { handle } from "./hand";
import { read, written } from "./link";
import { showBars, showLegend, showModel, showPicked } from "./panel";
import { safePalette } from "./safe";
import { clearTrouble, showTrouble } from "./trouble";
import { View } from "./view";
import { segmented, sending } from "./work";

const FORMATS = ["same", "ply", "las", "laz", "pcd", "xyz", "pts", "csv", "npy", "npz", "label", "lidarseg", "raw", "json"];
const NAMES: Record<Mode, string> = { label: "class", confidence: "confidence", rgb: "colour", intensity: "intensity", height: "height" };

const BACKGROUNDS = ["#101418", "#000000", "#808080", "#ffffff"];
const SAFE = "fip-safe-colours";

const view = opened();
const wanted = read(location.hash);
let known: Model[] = [];
let file: File | null = null;
let sample = "";
let cloud: Cloud | null = null;
let drawn: { file: File; format: string | undefined } | null = null; // what the cloud was read from
let namedBy = ""; // the model whose classes are hidden or not
let labels: Labels | null = null;
let classes: LabelClass[] = [];
let found: number[] = [];
let mode: Mode = "height";
const hidden = new Set<number>(wanted.hidden);
let picked: number | null = null;
let work: AbortController | null = null;
let safe = wanted.safe ?? localStorage.getItem(SAFE) === "yes";
let sized = wanted.size !== undefined;

function opened(): View | null {
  try {
    return new View(find<HTMLCanvasElement>("canvas"), find<HTMLCanvasElement>("quick"));
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
  const format = query["input_format"];
  clearTrouble();
  busy(true);
  try {
    const next = (sent === drawn?.file && format === drawn.format && cloud) || (await pointsOf(sent, format, mine.signal));
    drawn = { file: sent, format };
    show(next, null, []);
    step("Computing", null);
    if (asked.task === "classify") {
      const answer = json(await post("v1/classify", sent, { ...query, top: "5" }, sending(step, "Computing"), mine.signal)) as Classified;
      showBars(answer.predictions);
      done(`${answer.predictions[0]?.label ?? "no class"}, of ${answer.num_points.toLocaleString("en")} points`, answer.filled.join(", "));
    } else {
      const answer = await segmented(sent, { ...query, format: "raw" }, step, mine.signal);
      const palette = asked.label_map?.classes ?? [];
      if (namedBy && namedBy !== query["model"]) hidden.clear();
      namedBy = query["model"]!;
      show(next, labelsOf(answer.body, next.numPoints, palette.length), palette);
      done(`${next.numPoints.toLocaleString("en")} points labelled`, answer.header("X-Filled") ?? "");
    }
    find("downloads").hidden = asked.task !== "segment";
  } catch (error) {
    if (!mine.signal.aborted) showTrouble(error, () => void run());
  } finally {
    if (work === mine) {
      work = null;
      busy(false);
    }
  }
}

async function pointsOf(sent: File, format: string | undefined, signal: AbortSignal): Promise<Cloud> {
  const answer = await post("v1/points", sent, format ? { input_format: format } : {}, sending(step, "Reading"), signal);
  return cloudOf(answer.body);
}

function options(asked: Model): Record<string, string> {
  const query: Record<string, string> = { model: `${asked.name}:${asked.version}` };
  for (const name of ["up", "unit", "input_format"]) {
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
  showBars(null);
  if (fresh) {
    view?.show(next.xyz, up());
    if (!sized) resize(next.shown < 20_000 ? 5 : next.shown < 100_000 ? 3 : next.shown < 400_000 ? 2 : 1);
    if (wanted.place && view) view.place = wanted.place;
    delete wanted.place;
  }
  const modes = modesOf(next, answered);
  const chosen = wanted.mode && modes.includes(wanted.mode) ? wanted.mode : answered ? "label" : (modes[0] ?? "height");
  find("colour").replaceChildren(...modes.map((each) => make("option", { value: each, selected: each === chosen }, NAMES[each])));
  find("thinned").hidden = next.shown === next.numPoints;
  const some = `${next.shown.toLocaleString("en")} of ${next.numPoints.toLocaleString("en")} points are drawn`;
  find("thinned").textContent = answered ? `${some}; all are labelled, counted and downloaded.` : `${some}.`;
  find("empty").hidden = true;
  recolour(chosen);
  filter();
}

/** The classes in the colours that they are shown in. */
function painted(): LabelClass[] {
  if (!safe) return classes;
  const palette = safePalette(classes.length);
  return classes.map((each, i) => ({ ...each, colour: palette[i]! }));
}

function recolour(chosen: Mode): void {
  mode = chosen;
  if (cloud) view?.colour(colours(cloud, labels, painted().map((each) => each.colour), mode, up()));
  keep();
}

function filter(): void {
  showLegend(labels ? painted() : null, found, hidden, { toggle, only });
  pick(picked);
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

function step(what: string, part: number | null): void {
  const bar = find<HTMLProgressElement>("progress");
  if (part === null) bar.removeAttribute("value");
  else bar.value = part;
  find("status").textContent = part === null ? `${what} …` : `${what} ${Math.round(100 * part)} %`;
}

function busy(is: boolean): void {
  const [run, cancel] = [find<HTMLButtonElement>("run"), find("cancel")];
  const held = document.activeElement === (is ? run : cancel); // the focus is not lost with the button that had it
  find("progress").hidden = cancel.hidden = !is;
  run.disabled = is || !file;
  if (held) (is ? cancel : run).focus();
  if (is) find("progress").scrollIntoView({ block: "nearest" });
}

function done(what: string, filled: string): void {
  find("status").textContent = filled ? `${what}; filled in: ${filled}` : what;
}

function cancel(): void {
  if (!work) return;
  work.abort();
  done("cancelled", "");
}

// --- what is chosen

async function choose(given: File, from = ""): Promise<void> {
  [file, sample] = [given, from];
  find("file-name").textContent = `${given.name}, ${(given.size / 1e6).toFixed(given.size < 1e5 ? 3 : 1)} MB`;
  await run();
}

function begin(): void {
  void start().then(() => (known.length && wanted.sample && !file ? trySample(wanted.sample) : run()));
}

async function start(): Promise<void> {
  try {
    known = await models();
  } catch (error) {
    showTrouble(error, begin);
    return;
  }
  clearTrouble();
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
  if (!chosen) return;
  const details = await detailsOf(chosen).catch(() => null);
  if (chosen === model()) showModel(chosen, details);
}

function keep(): void {
  if (!cloud || !view) return;
  const size = Number(find<HTMLInputElement>("size").value);
  const background = find<HTMLInputElement>("background").value;
  const chosen = find<HTMLSelectElement>("model").value;
  history.replaceState(null, "", written({ place: view.place, mode, hidden: [...hidden], size, background, model: chosen, sample, safe }));
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
  clearTrouble();
  busy(true);
  work?.abort();
  const mine = (work = new AbortController());
  try {
    const answer = await segmented(file, { ...options(asked), format }, step, mine.signal);
    const named = /filename="([^"]+)"/.exec(answer.header("Content-Disposition") ?? "")?.[1] ?? `labelled.${format}`;
    save(new Blob([answer.body]), named);
    done(`${named} is saved`, "");
  } catch (error) {
    if (!mine.signal.aborted) showTrouble(error, () => void download());
  } finally {
    if (work === mine) {
      work = null;
      busy(false);
    }
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
  find("cancel").onclick = cancel;
  document.addEventListener("keydown", (event) => event.key === "Escape" && cancel());
  find("model").onchange = () => void about().then(run);
  find("up").onchange = () => {
    view?.turnUp(up());
    void run();
  };
  find("unit").onchange = find("input_format").onchange = () => void run();
  find<HTMLSelectElement>("colour").onchange = (event) => recolour((event.target as HTMLSelectElement).value as Mode);
  const size = find<HTMLInputElement>("size");
  size.oninput = () => resized(Number(size.value));
  const background = find<HTMLInputElement>("background");
  background.oninput = () => backed(background.value);
  const safely = find<HTMLInputElement>("safe");
  safely.checked = safe;
  safely.onchange = () => {
    safe = safely.checked;
    localStorage.setItem(SAFE, safe ? "yes" : "no");
    recolour(mode);
    filter();
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
    view.moved = () => {
      mark();
      keep();
    };
    const canvas = find<HTMLCanvasElement>("canvas");
    const more = (by: number) => resized(Math.min(Math.max(Number(size.value) + by, 1), 8));
    const next = () => backed(BACKGROUNDS[(BACKGROUNDS.indexOf(background.value) + 1) % BACKGROUNDS.length]!);
    handle(canvas, view, { pick, step: stepping, resize: more, nextMode, nextBackground: next });
    canvas.addEventListener("pointerdown", () => (find("mark").hidden = true));
    window.addEventListener("resize", mark);
  }
}

function resized(pixels: number): void {
  sized = true;
  resize(pixels);
  keep();
}

function backed(colour: string): void {
  find<HTMLInputElement>("background").value = colour;
  view?.setBackground(colour);
  keep();
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
  showPicked(cloud, labels, painted(), i);
  mark();
}

function stepping(way: 1 | -1, far: boolean): void {
  if (!cloud) return;
  const all = cloud.shown;
  const first = picked === null ? (way > 0 ? -1 : all) : picked + (far ? way * Math.floor(all / 100) : 0);
  for (let k = 1; k <= all; k++) {
    const i = (((first + way * k) % all) + all) % all;
    if (labels && hidden.has(labels.classes[rowOf(cloud, i)]!)) continue;
    pick(i);
    return;
  }
}

/** A ring around the point that was picked. */
function mark(): void {
  const ring = find("mark");
  const at = picked === null ? null : (view?.placeOf(picked) ?? null);
  ring.hidden = at === null;
  if (at) ring.style.translate = `${at[0]}px ${at[1]}px`;
}

wire();
begin();
