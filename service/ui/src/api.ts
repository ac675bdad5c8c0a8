// What the page asks of the service, and the errors it answers with.

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
let key = sessionStorage.getItem(KEY) ?? "";

export function useKey(given: string): void {
  key = given;
  sessionStorage.setItem(KEY, given);
}

export async function models(signal?: AbortSignal): Promise<Model[]> {
  const answer = await ask("GET", "v1/models", {}, null, signal);
  return (json(answer) as { models: Model[] }).models;
}

export async function cardOf(model: Model): Promise<string> {
  const answer = await ask("GET", `v1/models/${encodeURIComponent(`${model.name}:${model.version}`)}`, {}, null);
  return (json(answer) as { card: string }).card;
}

export function json(answer: Answer): unknown {
  return JSON.parse(new TextDecoder().decode(answer.body));
}

/** Send a file. Fetch does not tell how much of a body has gone out, hence the older way. Rejects with ServiceError. */
export function post(path: string, file: File, query: Record<string, string>, progress: Progress, signal: AbortSignal): Promise<Answer> {
  return ask("POST", path, query, file, signal, progress);
}

function ask(
  method: string,
  path: string,
  query: Record<string, string>,
  file: File | null,
  signal?: AbortSignal,
  progress: Progress = () => {},
): Promise<Answer> {
  const text = new URLSearchParams(query).toString();
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, text ? `${path}?${text}` : path);
    request.responseType = "arraybuffer";
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    if (file) request.setRequestHeader("X-Filename", asciiName(file.name));
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
    request.onerror = () => reject(new ServiceError("no_connection", "The service cannot be reached. Is it still running?"));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.onloadend = () => signal?.removeEventListener("abort", abort);
    if (signal?.aborted) reject(new DOMException("cancelled", "AbortError"));
    else request.send(file);
  });
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

/** Headers are ASCII; of the name only the ending matters to the service, and the answer's name is made from it. */
function asciiName(name: string): string {
  return name.replace(/[^\x20-\x7e]/g, "_").slice(-200);
}
