// What the page asks of the service, and the errors it answers with.

import { keepIn, kept } from "./dom";

export interface LabelClass {
  name: string;
  colour: [number, number, number];
}

export interface Model {
  name: string;
  version: string;
  alias: string | null;
  task: "classify" | "segment";
  default: boolean;
  labels: string[];
  label_map: { classes: LabelClass[] } | null;
  input: { up: "x" | "y" | "z" };
  metrics: Record<string, number>;
}

/** What is asked of one model alone. class_scores: best first. */
export interface Details {
  card: string;
  class_scores: Record<string, number>;
}

export interface Prediction {
  label: string;
  score: number;
}

export interface Classified {
  predictions: Prediction[];
  num_points: number;
  filled: string[];
  timings_ms: Record<string, number>;
}

/** An answer that is no success: what the problem document says (RFC 9457), or that there was none. */
export class ServiceError extends Error {
  constructor(
    readonly code: string,
    detail: string,
    readonly where: string | null = null,
    readonly known: string[] = [],
    readonly retryAfterS: number | null = null,
  ) {
    super(detail);
  }
}

export interface Answer {
  body: ArrayBuffer;
  header(name: string): string | null;
}

/** How far it is: bytes that are sent, all of them; once those are equal, the service works. */
export type Progress = (sent: number, total: number) => void;

const KEY = "fip-key";
const PATIENCE_MS = 30_000;
let key = kept("sessionStorage", KEY) ?? "";

export function useKey(given: string): void {
  key = given;
  keepIn("sessionStorage", KEY, given);
}

export async function models(signal?: AbortSignal): Promise<Model[]> {
  const answer = await ask("GET", "v1/models", {}, null, signal);
  return (json(answer) as { models: Model[] }).models;
}

export async function detailsOf(model: Model): Promise<Details> {
  const answer = await ask("GET", `v1/models/${encodeURIComponent(`${model.name}:${model.version}`)}`, {}, null);
  return json(answer) as Details;
}

/** Whether it answers, and can work. */
export function isBack(): Promise<boolean> {
  return fetch("health/ready", { cache: "no-store", signal: AbortSignal.timeout(5000) }).then(
    (answer) => answer.ok,
    () => false,
  );
}

export function json(answer: Answer): unknown {
  return JSON.parse(new TextDecoder().decode(answer.body));
}

/** Send a file. Fetch does not tell how much of a body has gone out, hence the older way. Rejects with ServiceError. */
export function post(path: string, file: File, query: Record<string, string>, progress: Progress, signal: AbortSignal): Promise<Answer> {
  return ask("POST", path, query, file, signal, progress);
}

/** Have something removed, even while the page is being closed. */
export function remove(path: string): void {
  const headers: Record<string, string> = key ? { Authorization: `Bearer ${key}` } : {};
  fetch(path, { method: "DELETE", keepalive: true, headers }).catch(() => {});
}

/** timeoutMs: for an answer that is neither large nor worked for. Rejects with ServiceError, or AbortError. */
export function ask(
  method: string,
  path: string,
  query: Record<string, string>,
  file: File | null,
  signal?: AbortSignal,
  progress: Progress = () => {},
  { headers = {}, timeoutMs = file ? 0 : PATIENCE_MS }: { headers?: Record<string, string>; timeoutMs?: number } = {},
): Promise<Answer> {
  const text = new URLSearchParams(query).toString();
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, text ? `${path}?${text}` : path);
    request.responseType = "arraybuffer";
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.timeout = timeoutMs;
    if (file) request.setRequestHeader("X-Filename", headerName(file.name));
    const abort = () => request.abort();
    signal?.addEventListener("abort", abort, { once: true });
    request.upload.onprogress = (event) => progress(event.loaded, event.total);
    request.upload.onload = () => progress(file?.size ?? 0, file?.size ?? 0);
    request.onload = () => {
      const body = request.response as ArrayBuffer;
      const answer = { body, header: (name: string) => request.getResponseHeader(name) };
      if (request.status >= 200 && request.status < 300) resolve(answer);
      else reject(errorOf(request, body));
    };
    request.onerror = request.ontimeout = () => void unreachable(file).then(reject);
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.onloadend = () => signal?.removeEventListener("abort", abort);
    if (signal?.aborted) reject(new DOMException("cancelled", "AbortError"));
    else request.send(file);
  });
}

export function fileChanged(): ServiceError {
  return new ServiceError("file_changed", "The file is gone, or not as it was when it was chosen. Choose it once more.");
}

/** No answer: the file cannot be read any more, or nobody is there. */
async function unreachable(file: File | null): Promise<ServiceError> {
  try {
    await file?.slice(0, 1).arrayBuffer();
  } catch {
    return fileChanged();
  }
  return new ServiceError("no_connection", "The service cannot be reached. Is it still running?");
}

function errorOf(request: XMLHttpRequest, body: ArrayBuffer): ServiceError {
  const retry = request.getResponseHeader("Retry-After");
  const retryAfterS = retry === null ? null : Number(retry);
  try {
    const problem = JSON.parse(new TextDecoder().decode(body)) as { code: string; detail: string; where?: string; known?: string[] };
    return new ServiceError(problem.code, problem.detail, problem.where ?? null, problem.known ?? [], retryAfterS);
  } catch {
    return new ServiceError("no_problem", `The answer was ${request.status} ${request.statusText}.`, null, [], retryAfterS);
  }
}

/** Headers are bytes, of which the service reads UTF-8; a browser takes one character for each. */
function headerName(name: string): string {
  const whole = name.replace(/[\x00-\x1f\x7f]/g, "_");
  return String.fromCharCode(...new TextEncoder().encode([...whole].slice(-100).join("")));
}

/** What an answer is to be called; null where it does not say. */
export function nameOf(answer: Answer): string | null {
  const said = answer.header("Content-Disposition") ?? "";
  const whole = /filename\*=UTF-8''([^;\s]+)/.exec(said)?.[1];
  return whole ? decodeURIComponent(whole) : (/filename="([^"]+)"/.exec(said)?.[1] ?? null);
}
