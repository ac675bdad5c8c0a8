// The page: a file goes out, its points and what a model says of them come back, and are looked at.

import { detailsOf, json, models, nameOf, post, ServiceError, type Classified, type LabelClass, type Model } from "./api";
import { cloudOf, counts, labelsOf, rowOf, type Cloud, type Labels } from "./cloud";
import { colours, modesOf, rangeOf, type Axis, type Mode } from "./colours";
import { find, keepIn, kept, make, save } from "./dom";
import { handle } from "./hand";
import { read, SAID, written } from "./link";
import { showBars, showLegend, showModel, showPicked } from "./panel";
import { safePalette } from "./safe";
import { clearTrouble, showTrouble } from "./trouble";
import { View } from "./view";
import { segmented, sending, type Tell } from "./work";

const FORMATS = ["same", "ply", "las", "laz", "pcd", "xyz", "pts", "csv", "npy", "npz", "label", "lidarseg", "raw", "json"];
const SAYS: Record<string, string> = { same: "same: this file, with labels", raw: "raw: a byte and a float16 a point" };
const ONLY: Record<string, RegExp> = { same: /^(?!.*\.(off|e57)$)/i, npy: /\.npy$/i };
const NAMES: Record<Mode, string> = { label: "class", confidence: "confidence", rgb: "colour", intensity: "intensity", height: "height" };

const BACKGROUNDS = ["#101418", "#000000", "#808080", "#ffffff"];
const SAFE = "fip-safe-colours";
const KEEP_MS = 250;

const view = opened();
const wanted = read(location.hash);
let address = location.hash; // of this page: any other is a link that was just followed
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
let preferred = wanted.mode; // that somebody chose
let turned: Axis = "z";
const hidden = new Set<number>(wanted.hidden);
let picked: number | null = null;
let modelChosen = wanted.model !== undefined;
let keeping = 0;
let work: AbortController | null = null;
let safe = wanted.safe ?? kept("localStorage", SAFE) === "yes";
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

/** One thing at a time, with its progress; what is begun later ends what was begun before. */
async function doing(what: (tell: Tell, signal: AbortSignal) => Promise<void>, again: () => void): Promise<void> {
  work?.abort();
  const mine = (work = new AbortController());
  clearTrouble();
  busy(true);
  try {
    await what((name, part) => mine.signal.aborted || step(name, part), mine.signal);
  } catch (error) {
    if (!mine.signal.aborted) showTrouble(error, again);
  } finally {
    if (work === mine) {
      work = null;
      busy(false);
    }
  }
}

async function run(): Promise<void> {
  const asked = model();
  if (!file || !asked) return;
  const sent = file;
  const query = options(asked);
  const format = query["input_format"];
  await doing(async (tell, signal) => {
    const next = (sent === drawn?.file && format === drawn.format && cloud) || (await pointsOf(sent, format, tell, signal));
    drawn = { file: sent, format };
    const again = next === cloud && asked.task === "segment" && labels && namedBy === query["model"];
    if (!again) show(next, null, []); // else the labels stay until others come
    find("downloads").hidden = asked.task !== "segment";
    tell("Computing", null);
    if (asked.task === "classify") {
      const answer = json(await post("v1/classify", sent, { ...query, top: "5" }, sending(tell, "Computing"), signal)) as Classified;
      showBars(answer.predictions);
      done(`${answer.predictions[0]?.label ?? "no class"}, of ${answer.num_points.toLocaleString("en")} points`, told(answer.filled.join(", ")));
    } else {
      const answer = await segmented(sent, { ...query, format: "raw" }, tell, signal);
      const palette = asked.label_map?.classes ?? [];
      if (namedBy && namedBy !== query["model"]) hidden.clear();
      namedBy = query["model"]!;
      show(next, labelsOf(answer.body, next.numPoints, palette.length), palette);
      done(`${next.numPoints.toLocaleString("en")} points labelled`, told(answer.header("X-Filled"), answer.header("X-Scaled")));
    }
  }, () => void run());
}

async function pointsOf(sent: File, format: string | undefined, tell: Tell, signal: AbortSignal): Promise<Cloud> {
  const answer = await post("v1/points", sent, format ? { input_format: format } : {}, sending(tell, "Reading"), signal);
  return cloudOf(answer.body);
}

function options(asked: Model): Record<string, string> {
  const query: Record<string, string> = { model: `${asked.name}:${asked.version}` };
  for (const name of SAID) {
    const value = find<HTMLSelectElement>(name).value;
    if (value) query[name] = value;
  }
  return query;
}

function show(next: Cloud, answered: Labels | null, palette: LabelClass[]): void {
  const fresh = cloud !== next;
  [cloud, labels, classes] = [next, answered, palette];
  found = answered ? counts(answered, palette.length) : [];
  if (answered && found.every((points, index) => !points || hidden.has(index))) hidden.clear(); // or nothing would be seen
  picked = null;
  showBars(null);
  if (fresh) {
    view?.show(next.xyz, (turned = up()));
    if (!sized) resize(next.shown < 20_000 ? 5 : next.shown < 100_000 ? 3 : next.shown < 400_000 ? 2 : 1);
    if (wanted.place && view) view.place = wanted.place;
    delete wanted.place;
  } else upright();
  const modes = modesOf(next, answered);
  const chosen = preferred && modes.includes(preferred) ? preferred : answered ? "label" : (modes[0] ?? "height");
  find("colour").replaceChildren(...modes.map((each) => make("option", { value: each, selected: each === chosen }, NAMES[each])));
  find("thinned").hidden = next.shown === next.numPoints;
  const some = `${next.shown.toLocaleString("en")} of ${next.numPoints.toLocaleString("en")} points are drawn`;
  find("thinned").textContent = answered ? `${some}; all are labelled, counted and downloaded.` : `${some}.`;
  find("empty").hidden = true;
  recolour(chosen);
  filter();
}

/** Nothing is there any more of the file before. */
function clear(): void {
  [cloud, drawn, labels, classes, found] = [null, null, null, [], []];
  view?.clear();
  find("colour").replaceChildren();
  for (const id of ["thinned", "downloads"]) find(id).hidden = true;
  showBars(null);
  filter();
}

function upright(): void {
  if (turned === up()) return;
  view?.turnUp((turned = up()));
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
  const range = cloud && rangeOf(cloud, mode, up());
  find("scale").hidden = !range;
  const from = cloud && mode === "height" ? cloud.origin["xyz".indexOf(up())]! : 0;
  ["low", "high"].forEach((id, k) => (find(id).textContent = range ? String(Number((from + range[k]!).toPrecision(4))) : ""));
  keep();
}

function filter(): void {
  showLegend(labels ? painted() : null, found, hidden, { toggle, only });
  const gone = !cloud || (picked !== null && labels && hidden.has(labels.classes[rowOf(cloud, picked)]!));
  pick(gone ? null : picked);
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
  find<HTMLButtonElement>("download").disabled = is;
  if (held) (is ? cancel : run).focus();
  if (is) find("progress").scrollIntoView({ block: "nearest" });
}

function done(what: string, more = ""): void {
  find("status").textContent = what + more;
}

/** What the model was given instead of what the file has. */
function told(filled: string | null, scaled: string | null = null): string {
  const [lacks, other] = [filled ? `; the file has no ${filled}, a fixed value stood in` : "", scaled ? `; ${scaled} was brought to the model's range` : ""];
  return lacks + other;
}

function cancel(): void {
  if (!work) return;
  work.abort();
  work = null;
  busy(false);
  done("cancelled");
}

// --- what is chosen

async function choose(given: File, from = "", more = ""): Promise<void> {
  [file, sample] = [given, from];
  clear();
  const size = given.size < 1e5 ? `${Math.ceil(given.size / 1000)} kB` : `${(given.size / 1e6).toFixed(1)} MB`;
  find("file-name").textContent = `${given.name}, ${size}${more}`;
  find("empty").hidden = true;
  const possible = FORMATS.filter((each) => !ONLY[each] || ONLY[each].test(given.name));
  find("format").replaceChildren(...possible.map((each) => make("option", { value: each }, SAYS[each] ?? each)));
  if (!modelChosen && /\.off$/i.test(given.name)) prefer("classify"); // a mesh of one object
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
  const names = (models: Model[]) => models.map((each) => `${each.name}:${each.version}`);
  const first = names(known).find((each) => each === wanted.model) ?? names(known.filter((each) => each.default))[0];
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

/** In a moment: browsers refuse an address that changes all the time. */
function keep(): void {
  keeping ||= window.setTimeout(keepNow, KEEP_MS);
}

function keepNow(): void {
  clearTimeout(keeping);
  keeping = 0;
  if (!cloud || !view || location.hash !== address) return;
  const value = (id: string) => find<HTMLInputElement>(id).value;
  const said = { up: value("up"), unit: value("unit"), input_format: value("input_format") };
  const shown = { place: view.place, mode, hidden: [...hidden], ...(sized && { size: Number(value("size")) }), background: value("background"), safe };
  history.replaceState(null, "", written({ ...shown, model: value("model"), sample, ...said }));
  address = location.hash;
}

/** Have the default model of a task chosen, unless one of that task is. */
function prefer(task: Model["task"]): void {
  const fitting = known.find((each) => each.task === task && each.default);
  if (!fitting || model()?.task === task) return;
  find<HTMLSelectElement>("model").value = `${fitting.name}:${fitting.version}`;
  void about();
}

async function trySample(name: string): Promise<void> {
  if (![...document.querySelectorAll<HTMLElement>("[data-sample]")].some((each) => each.dataset["sample"] === name)) return;
  const answer = await fetch(`ui/${name}`).catch(() => null);
  if (!answer?.ok) {
    showTrouble(new ServiceError("no_connection", "The service cannot be reached. Is it still running?"), () => void trySample(name));
    return;
  }
  const task = name.startsWith("street") ? "segment" : "classify";
  prefer(task);
  await choose(new File([await answer.blob()], name), name);
}

async function download(): Promise<void> {
  const asked = model();
  if (!file || !asked) return;
  const sent = file;
  const format = find<HTMLSelectElement>("format").value;
  await doing(async (tell, signal) => {
    const answer = await segmented(sent, { ...options(asked), format }, tell, signal);
    const named = nameOf(answer) ?? `labelled.${format}`;
    save(new Blob([answer.body]), named);
    done(`${named} is saved`);
  }, () => void download());
}

function wire(): void {
  const input = find<HTMLInputElement>("file");
  input.onchange = () => {
    const given = input.files?.[0];
    if (given) void choose(given);
    input.value = ""; // the same name may be chosen again: the file may be another by then
  };
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
      if (kind === "drop") dropped(event.dataTransfer);
    });
  }
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-sample]")) button.onclick = () => void trySample(button.dataset["sample"]!);
  find("run").onclick = () => void run();
  find("cancel").onclick = cancel;
  document.addEventListener("keydown", (event) => event.key === "Escape" && cancel());
  find("model").onchange = () => {
    modelChosen = true;
    void about().then(run);
  };
  find("up").onchange = () => {
    upright();
    void run();
  };
  find("unit").onchange = find("input_format").onchange = () => void run();
  find<HTMLSelectElement>("colour").onchange = (event) => recolour((preferred = (event.target as HTMLSelectElement).value as Mode));
  const size = find<HTMLInputElement>("size");
  size.oninput = () => resized(Number(size.value));
  const background = find<HTMLInputElement>("background");
  background.oninput = () => backed(background.value);
  const safely = find<HTMLInputElement>("safe");
  safely.checked = safe;
  safely.onchange = () => {
    safe = safely.checked;
    keepIn("localStorage", SAFE, safe ? "yes" : "no");
    recolour(mode);
    filter();
  };
  find("fit").onclick = () => view?.fit();
  find("picture").onclick = () => void view?.picture().then((blob) => save(blob, "view.png"));
  find("link").onclick = () => {
    keepNow();
    navigator.clipboard?.writeText(location.href).then(
      () => done("the link is copied"),
      () => done("the link is in the address bar"),
    );
  };
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
    view.lost = (is) => (find("no-webgl").hidden = !is);
    handle(canvas, view, { pick, letGo, step: stepping, resize: more, nextMode, nextBackground: next });
    canvas.addEventListener("pointerdown", () => (find("mark").hidden = true));
    window.addEventListener("resize", mark);
  }
}

function dropped(given: DataTransfer | null): void {
  const first = given?.files[0];
  if (!first) return;
  if (given.items[0]?.webkitGetAsEntry()?.isDirectory) showTrouble(new ServiceError("folder", "That is a folder: drop one file of it."), () => {});
  else void choose(first, "", given.files.length > 1 ? `, the first of ${given.files.length}` : "");
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
  recolour((preferred = select.value as Mode));
}

function pick(i: number | null): void {
  picked = i;
  showPicked(cloud, labels, painted(), i);
  if (i !== null) find("picking").scrollIntoView({ block: "nearest" });
  mark();
}

function letGo(): boolean {
  const was = picked !== null;
  pick(null);
  return was;
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

for (const name of SAID) if (wanted[name]) find<HTMLSelectElement>(name).value = wanted[name];
wire();
begin();
window.addEventListener("hashchange", () => location.reload()); // another link in the same tab
