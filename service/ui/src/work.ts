// Labels for a file. A small one is waited for; a large one becomes a job, which tells how far it is and outlives a lost connection.

import { ask, json, remove, ServiceError, type Answer, type Progress } from "./api";

const LARGE_BYTES = 4 << 20;
const EVERY_MS = 400;
const PATIENCE_MS = 120_000; // how long a service that went away may take to come back
const STAGES: Record<string, string> = {
  read: "Reading",
  parse: "Reading",
  voxelize: "Voxelizing",
  queue: "In line",
  forward: "Computing",
  encode: "Writing",
};

/** What is going on, and which part of it is done, if that is known. */
export type Tell = (what: string, part: number | null) => void;

interface Job {
  state: "queued" | "running" | "done" | "failed" | "cancelled" | "expired";
  position: number | null;
  progress: { stage: string; done: number; parts: number | null } | null;
  error: { code: string; detail: string; where: string | null } | null;
  links: { job: string; result: string };
}

/** How much has gone out, and then what the service is at. */
export function sending(tell: Tell, then: string): Progress {
  return (sent, total) => (sent < total ? tell("Sending", sent / total) : tell(then, null));
}

/** What POST /v1/segment answers. Rejects with ServiceError. */
export async function segmented(file: File, query: Record<string, string>, tell: Tell, signal: AbortSignal): Promise<Answer> {
  if (file.size > LARGE_BYTES) {
    try {
      return await byJob(file, query, tell, signal);
    } catch (error) {
      if (!(error instanceof ServiceError && error.code === "jobs_off")) throw error;
    }
  }
  return ask("POST", "v1/segment", query, file, signal, sending(tell, "Computing"));
}

/** Jobs that nobody but this page knows of. */
const open = new Set<string>();
window.addEventListener("pagehide", () => open.forEach(remove));

/** By which a file that is sent once more, because the connection was lost, is known to be the same job. */
const keys = new WeakMap<File, { of: string; key: string }>();

function keyOf(file: File, query: Record<string, string>): string {
  const of = JSON.stringify(query);
  const before = keys.get(file);
  if (before?.of === of) return before.key;
  const key = Array.from(crypto.getRandomValues(new Uint32Array(4)), (each) => each.toString(16)).join("-");
  keys.set(file, { of, key });
  return key;
}

async function byJob(file: File, query: Record<string, string>, tell: Tell, signal: AbortSignal): Promise<Answer> {
  const headers = { "Idempotency-Key": keyOf(file, query) };
  let address = "";
  try {
    let job = await submitted(file, query, headers, tell, signal);
    open.add((address = here(job.links.job)));
    while (job.state === "queued" || job.state === "running") {
      signal.throwIfAborted();
      say(job, tell);
      await pause(EVERY_MS, signal);
      job = json(await patiently(() => ask("GET", address, {}, null, signal), tell, signal)) as Job;
    }
    if (job.state !== "done") throw new ServiceError(job.error?.code ?? job.state, job.error?.detail ?? `The job is ${job.state}.`, job.error?.where);
    tell("Fetching", null);
    return await patiently(() => ask("GET", here(job.links.result), {}, null, signal, undefined, { timeoutMs: 0 }), tell, signal);
  } catch (error) {
    if (error instanceof ServiceError && error.code === "no_connection") address = ""; // it goes on there, and is found again by its key
    else keys.delete(file);
    throw error;
  } finally {
    if (address) {
      keys.delete(file);
      open.delete(address);
      remove(address); // if that fails, it goes in a day
    }
  }
}

function say(job: Job, tell: Tell): void {
  if (!job.progress) return tell(job.position ? `In line, ${job.position} before` : "In line", null);
  const { stage, done, parts } = job.progress;
  const name = STAGES[stage] ?? stage;
  if (parts && parts > 1) tell(`${name}, part ${Math.min(done + 1, parts)} of ${parts}`, done / parts);
  else tell(name, null);
}

/** Once all of it is sent there may be a job, whose name is waited for even if nobody wants it any more: to remove it. */
async function submitted(file: File, query: Record<string, string>, headers: Record<string, string>, tell: Tell, signal: AbortSignal): Promise<Job> {
  const early = new AbortController();
  const stop = () => early.abort();
  signal.addEventListener("abort", stop, { once: true });
  const tells = sending(tell, "In line");
  const progress: Progress = (sent, total) => {
    if (sent >= total) signal.removeEventListener("abort", stop);
    tells(sent, total);
  };
  try {
    return json(await ask("POST", "v1/jobs", query, file, early.signal, progress, { headers })) as Job;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** An address of the service as the page sees it, whatever a proxy puts before it. */
function here(address: string): string {
  return address.slice(address.indexOf("v1/"));
}

/** Again, for some time, while the service cannot be reached or is not ready. */
async function patiently(asking: () => Promise<Answer>, tell: Tell, signal: AbortSignal): Promise<Answer> {
  for (const until = Date.now() + PATIENCE_MS; ; ) {
    try {
      return await asking();
    } catch (error) {
      const passing = error instanceof ServiceError && (error.code === "no_connection" || error.retryAfterS !== null);
      if (!passing || Date.now() > until) throw error;
      tell(error.code === "no_connection" ? "The service cannot be reached; the work is kept, trying again" : `${error.message}, trying again`, null);
      await pause(1000 * (error.retryAfterS ?? 2), signal);
    }
  }
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
  });
}
