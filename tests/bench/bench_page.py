"""The page in a real browser without a GPU: how soon a cloud is on the screen, how fast it turns, what memory it takes.

    python -m tests.bench.bench_page

Every figure is of a fresh page before `fip serve` with the bundled models. On the screen means: the pixels are read back from the canvas. A
cloud turns while the arrow key is held, with all its points (two million of ten), drawn by the page itself; at rest by WebGL. Memory is
that of the page's JavaScript with all its buffers, once what is not needed has been collected.
"""

import gzip
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page

from service.routes.page import BUILT
from tests.bench.report import Row, write
from tests.bench.service.clouds import kitti, street
from tests.bench.service.process import service
from tests.browser import FLAGS, chromium, opened

ON_SCREEN_S, FRAMES_PER_S, HEAP_MB, SCRIPT_KB = 1.0, 3.0, 200.0, 500.0
ROUNDS, TURN_S, FRAMES = 5, 4.0, 10
SEVERAL = (200_000, 1_000_000, 10_000_000)
WIDTH, HEIGHT = 1280, 800
PATIENCE_MS = 300_000

# When the points and the labels have arrived, and when the pixels of the first frame after each can be read: what can be chosen, and the
# legend, are filled just before the cloud is drawn. Of the pixels after the labels: how many have the colour of a class in the legend.
WATCH = """
() => {
  const arrived = {};
  const open = XMLHttpRequest.prototype.open;
  XMLHttpRequest.prototype.open = function (...all) {
    const what = /^v1\\/points/.test(all[1]) ? "points" : /^v1\\/(segment|jobs\\/[^/]+\\/result)/.test(all[1]) ? "labels" : "";
    if (what) this.addEventListener("progress", () => (arrived[what] = performance.now()));
    return open.apply(this, all);
  };
  const canvas = document.getElementById("canvas");
  const gl = canvas.getContext("webgl2");
  const waiting = new Set();
  for (const name of ["drawArrays", "drawElements"]) {
    const draw = gl[name];
    gl[name] = function (...all) {
      draw.apply(gl, all);
      for (const drawn of [...waiting]) drawn();
    };
  }
  const coloured = () => {
    const read = new Uint8Array(4 * canvas.width * canvas.height);
    gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, read);
    const seconds = performance.now();
    const swatches = [...document.querySelectorAll("#legend .swatch")];
    const classes = new Set(swatches.map((each) => each.style.backgroundColor.replaceAll(" ", "")));
    let count = 0;
    for (let i = 0; i < read.length; i += 4) count += classes.has(`rgb(${read[i]},${read[i + 1]},${read[i + 2]})`);
    return [seconds, count];
  };
  const seen = (what, there) =>
    new Promise((resolve) => {
      const drawn = () => {
        if (!there()) return;
        waiting.delete(drawn);
        const [now, count] = coloured();
        resolve({ seconds: (now - arrived[what]) / 1000, coloured: count });
      };
      waiting.add(drawn);
    });
  window.points = seen("points", () => document.getElementById("colour").options.length);
  window.labels = seen("labels", () => document.getElementById("legend").rows.length);
}
"""
# Frames in so many seconds of held arrow key: those that were done, by WebGL or on the canvas above it.
TURN = """
async (seconds) => {
  const canvas = document.getElementById("canvas");
  const gl = canvas.getContext("webgl2");
  const quick = document.getElementById("quick").getContext("2d");
  let drawn = 0;
  for (const [on, name] of [[gl, "drawArrays"], [gl, "drawElements"], [quick, "putImageData"]]) {
    const draw = on[name];
    on[name] = function (...all) {
      drawn++;
      return draw.apply(on, all);
    };
  }
  const began = performance.now();
  while (performance.now() - began < 1000 * seconds) {
    canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
    await new Promise((frame) => requestAnimationFrame(frame));
  }
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  quick.getImageData(0, 0, 1, 1);
  return (1000 * drawn) / (performance.now() - began);
}
"""
# Seconds of a frame of all points, at rest.
REST = """
async (frames) => {
  const canvas = document.getElementById("canvas");
  const gl = canvas.getContext("webgl2");
  const times = [];
  await new Promise((rested) => setTimeout(rested, 1000));
  for (let frame = 0; frame < frames; frame++) {
    const began = performance.now();
    document.getElementById("size").dispatchEvent(new Event("input"));
    await new Promise((drawn) => requestAnimationFrame(drawn));
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    times.push((performance.now() - began) / 1000);
  }
  return times;
}
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, service() as running, chromium() as launch:
        browser = launch(*FLAGS)
        rows = [script_row()]
        for points in SEVERAL:
            file = Path(folder) / f"{points}.bin"
            file.write_bytes(kitti(street(points, half_m=40.0)))
            rows += of_cloud(browser, running.url, file, points)
        browser_version = browser.version
        browser.close()
    title, _, rest = __doc__.partition("\n\n    python -m tests.bench.bench_page\n\n")
    about = f"{title}\n\n{rest.strip()}"
    write("page", about, rows, f"median of {ROUNDS}", after=f"Chromium {browser_version}, SwiftShader, {WIDTH}×{HEIGHT}. ")
    return 0 if all(row["holds"] for row in rows) else 1


def of_cloud(browser: Browser, url: str, file: Path, points: int) -> list[Row]:
    first, soon, turns, frames, heaps = [], [], [], [], []
    for _ in range(ROUNDS):
        with opened(browser, url, WIDTH, HEIGHT) as page:
            page.evaluate(WATCH)
            page.set_input_files("#file", str(file))
            page.wait_for_selector("#legend tr", timeout=PATIENCE_MS)
            first.append(page.evaluate("() => window.points")["seconds"])
            labels = page.evaluate("() => window.labels")
            if labels["coloured"] < 1000:
                raise RuntimeError(f"{points} points: {labels['coloured']} pixels in the colours of classes")
            soon.append(labels["seconds"])
            turns.append(page.evaluate(TURN, TURN_S))
            frames.append(1 / statistics.median(page.evaluate(REST, FRAMES)))
            heaps.append(heap_mb(page))
    size = f"{points:,} points"
    on_screen = ON_SCREEN_S if points == 200_000 else None
    turning = FRAMES_PER_S if points == 1_000_000 else None
    return [
        row(f"{size}: on the screen after they were read", first, "s", on_screen, at_most=True),
        row(f"{size}: in the colours of their classes after the answer", soon, "s", on_screen, at_most=True),
        row(f"{size}: turned", turns, "frames/s", turning, at_most=False),
        row(f"{size}: drawn by WebGL, at rest", frames, "frames/s", None, at_most=False),
        row(f"{size}: memory", heaps, "MB", HEAP_MB, at_most=True),
    ]


def heap_mb(page: Page) -> float:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")
    session.detach()
    return float(used["usedSize"] + used["backingStorageSize"] + used["embedderHeapUsedSize"]) / 1e6


def script_row() -> Row:
    kilobytes = len(gzip.compress((BUILT / "page.js").read_bytes(), 9)) / 1000
    return row("scripts, gzip", [kilobytes], "kB", SCRIPT_KB, at_most=True)


def row(name: str, values: list[float], unit: str, bar: float | None, *, at_most: bool) -> Row:
    value = statistics.median(values)
    holds = bar is None or (value <= bar if at_most else value >= bar)
    shown = None if bar is None else f"{'≤' if at_most else '≥'} {bar:g}"
    return {"name": name, "value": round(value, 3), "unit": unit, "bar": shown, "holds": holds, "all": [round(each, 3) for each in values]}


if __name__ == "__main__":
    sys.exit(main())
