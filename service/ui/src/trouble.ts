// What went wrong, what to do about it, and trying again: after the time that the service names, or once it is back.

import { isBack, ServiceError, useKey } from "./api";
import { find, make } from "./dom";

const LOOK_EVERY_S = 2;
const READING = ["bad_file", "bad_header", "missing_coordinates", "no_points", "non_finite", "truncated_file", "unsupported_format"];
const KEYLESS = ["unauthorized", "forbidden"];

/** What somebody can do where the service's own words do not say it already. */
const ADVICE: Record<string, string> = {
  bad_file: "Open it where it was made, and save it again.",
  bad_header: "Open it where it was made, and save it again.",
  bad_model_name: "Choose another model above.",
  body_too_large: "Cut it into parts, or thin it out.",
  deadline_exceeded: "Send a smaller cloud, or try again later.",
  degenerate_cloud: "Send a cloud that extends in space.",
  empty_file: "Choose another file.",
  extent: "Its unit is said under “What only you know of the file”.",
  missing_feature: "Choose another model above, or a file that has it.",
  no_points: "Choose a file that has points.",
  non_finite: "Remove these points, and send it again.",
  out_of_memory: "Cut it into parts, or thin it out.",
  overloaded: "Others are being answered at the moment.",
  rate_limited: "Your key has sent as much as it may for now.",
  spool_full: "Try again later, or send a smaller file.",
  too_many_points: "Cut it into parts, or thin it out.",
  too_many_voxels: "Cut it into parts, or thin it out.",
  truncated_file: "It ends too early: copy or export it once more.",
  unauthorized: "Give it below; it is kept until this tab is closed.",
  unknown_model: "Choose another model above.",
  unsupported_format: "If it is one of them, say so under “What only you know of the file”; else save it as PLY, LAS, PCD or CSV.",
  wrong_task: "Choose another model above.",
};

let timer = 0;

/** Nothing is wrong (any more), and nothing is tried again. */
export function clearTrouble(): void {
  clearInterval(timer);
  for (const id of ["error", "again", "asking"]) find(id).hidden = true;
  find("error").replaceChildren();
}

/** again: does once more what failed. */
export function showTrouble(error: unknown, again: () => void): void {
  clearTrouble();
  const box = find("error");
  find("status").textContent = "";
  box.hidden = false;
  if (!(error instanceof ServiceError)) {
    box.append(make("p", {}, `The answer could not be read: ${String(error)}`));
    return;
  }
  box.append(make("p", {}, error.message));
  const advice = ADVICE[error.code];
  if (advice) box.append(make("p", { className: "advice" }, advice));
  const said = find<HTMLSelectElement>("input_format");
  if (said.value && READING.includes(error.code)) {
    box.append(make("p", { className: "advice" }, `You said that its format is ${said.value}, under “What only you know of the file”.`));
    (said.closest("details") as HTMLDetailsElement).open = true;
  }
  const small = [error.where ? `at ${error.where}` : "", error.known.length ? `known: ${error.known.join(", ")}` : "", error.code].filter(Boolean);
  box.append(make("p", { className: "small" }, small.join(" · ")));
  if (KEYLESS.includes(error.code)) askForKey(again);
  else if (error.code === "no_connection") onceBack(again);
  else if (error.retryAfterS) after(error.retryAfterS, again);
  box.scrollIntoView({ block: "nearest" });
}

function after(seconds: number, again: () => void): void {
  let left = seconds;
  const now = offer(again);
  const tell = () => {
    find("when").textContent = `Again in ${left} s`;
    if (left-- <= 0) now();
  };
  tell();
  timer = window.setInterval(tell, 1000);
}

function onceBack(again: () => void): void {
  const now = offer(again);
  find("when").textContent = "It is tried again as soon as the service answers.";
  timer = window.setInterval(() => void isBack().then((is) => is && !find("again").hidden && now()), 1000 * LOOK_EVERY_S);
}

/** Buttons to try at once, or not at all. What is returned does the former. */
function offer(again: () => void): () => void {
  find("again").hidden = false;
  const now = () => retry("again", again);
  find("again-now").onclick = now;
  find("again-never").onclick = () => {
    clearInterval(timer);
    find("again").hidden = true;
  };
  return now;
}

function askForKey(again: () => void): void {
  const [form, input] = [find<HTMLFormElement>("asking"), find<HTMLInputElement>("key")];
  form.hidden = false;
  form.onsubmit = (event) => {
    event.preventDefault();
    useKey(input.value.trim());
    input.value = "";
    retry("asking", again);
  };
  input.focus();
}

/** The focus goes to what there is now, if it was in the box that vanishes. */
function retry(box: string, again: () => void): void {
  const held = find(box).contains(document.activeElement);
  clearTrouble();
  again();
  if (held) find(find("cancel").hidden ? "file" : "cancel").focus();
}
