"""Listing, scanning, splitting and reading a folder of very many files: time, and memory that does not grow with them.

    python -m tests.bench.bench_listing [--files 1000000] [--in FOLDER]

The files are real clouds of 16 points, all different. Everything is measured in a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.bench.report import ROOT, write

CLASSES = 40
POINTS = 16
WORKER_CLOUDS = 20_000
MIB = 1 << 20
Figures = dict[str, float]


def make_folder(root: Path, files: int) -> None:
    """root/CLASS/NUMBER.npy, all different."""
    head = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    head += f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({POINTS}, 3), }}".encode().ljust(117) + b"\n"
    rng = np.random.default_rng(0)
    for target in range(CLASSES):
        (root / f"class_{target:02d}").mkdir(parents=True)
    for number in range(files):
        path = root / f"class_{number % CLASSES:02d}" / f"object_{number:07d}.npy"
        path.write_bytes(head + rng.standard_normal((POINTS, 3), np.float32).tobytes())


def measure(root: Path, kept: Path) -> Figures:
    """Run in a process of its own: everything that training does with a folder before and during an epoch."""
    from training.datasets.folder import folder_splits
    from training.datasets.listing import list_folder
    from training.datasets.scan import Scan, scan_folder

    found: Figures = {}
    before, top = anonymous(), peak()
    start = time.monotonic()
    listing = list_folder(root)
    found["list_s"] = time.monotonic() - start
    found["files"] = len(listing)
    found["list_bytes"] = anonymous() - before
    found["list_peak_bytes"] = peak() - top
    start = time.monotonic()
    splits = folder_splits(listing, None, test_share=0.2, seed=0, skip_bad=False)
    found["split_s"] = time.monotonic() - start
    start = time.monotonic()
    scan = scan_folder(listing)
    found["scan_s"] = time.monotonic() - start
    scan.save(kept)
    del scan
    start = time.monotonic()
    again = Scan.load(kept, listing)
    assert again is not None
    found["load_scan_s"] = time.monotonic() - start
    start = time.monotonic()
    splits = folder_splits(listing, again, test_share=0.2, seed=0, skip_bad=False)
    found["split_scanned_s"] = time.monotonic() - start
    assert splits.test is not None
    assert len(splits.train) + len(splits.test) == len(listing)
    found["all_bytes"] = anonymous() - before
    found["all_peak_bytes"] = peak() - top
    order = np.random.default_rng(1).permutation(len(splits.train))
    start, samples = time.monotonic(), []
    for done, index in enumerate(order):
        splits.train.cloud(int(index))
        if done % max(1, len(order) // 50) == 0:
            samples.append(anonymous())
    found["epoch_s"] = time.monotonic() - start
    found["epoch_clouds"] = len(order)
    found["epoch_growth_bytes"] = max(samples) - samples[0]
    found["worker_bytes"] = worker(lambda: [splits.train.cloud(int(index)) is None for index in order[:WORKER_CLOUDS]])
    return found


def worker(work) -> int:
    """Bytes that a forked process has to itself after `work`, beyond those of one that only was forked."""
    used = []
    for task in (lambda: None, work):
        read_end, write_end = os.pipe()
        pid = os.fork()
        if not pid:
            task()
            os.write(write_end, str(_status("/proc/self/smaps_rollup", "Private_Dirty")).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        used.append(int(os.read(read_end, 32)))
        os.close(read_end)
        os.close(write_end)
    return used[1] - used[0]


def anonymous() -> int:
    """Bytes of this process that are no file's."""
    return _status("/proc/self/status", "RssAnon")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(file: str, key: str) -> int:
    line = next(line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def rows(found: Figures) -> list[dict[str, object]]:
    """One row a figure; bars where issue 3 or common sense sets one."""
    files = found["files"]
    per_file = {name: found[name] / files for name in ("list_bytes", "list_peak_bytes", "all_bytes", "all_peak_bytes")}
    slack = 32 * MIB / files  # what Python and NumPy take at once, whatever the number of files

    def row(name: str, value: float, unit: str, bar: str | None = None, holds: bool | None = None) -> dict[str, object]:
        return {"name": name, "value": round(value, 3), "unit": unit, "bar": bar, "holds": holds}

    return [
        row("files", files, ""),
        row("listing", found["list_s"], "s"),
        row("memory of the listing", per_file["list_bytes"], "B/file", "≤ 100", per_file["list_bytes"] <= 100 + slack),
        row("peak while listing", per_file["list_peak_bytes"], "B/file", "≤ 200", per_file["list_peak_bytes"] <= 200 + slack),
        row("split without reading any file", found["split_s"], "s"),
        row("scan", found["scan_s"], "s"),
        row("scan, a file", found["scan_s"] / files * 1000, "ms"),
        row("loading the kept scan", found["load_scan_s"], "s"),
        row("split with the scan", found["split_scanned_s"], "s"),
        row("memory of listing, scan, splits", per_file["all_bytes"], "B/file", "≤ 400", per_file["all_bytes"] <= 400 + slack),
        row("peak of all before the epoch", per_file["all_peak_bytes"], "B/file", "≤ 800", per_file["all_peak_bytes"] <= 800 + slack),
        row("epoch, shuffled, one process", found["epoch_s"], "s"),
        row("memory growth over the epoch", found["epoch_growth_bytes"] / MIB, "MiB", "≤ 4", found["epoch_growth_bytes"] <= 4 * MIB),
        row("of a forked worker, its own", found["worker_bytes"] / MIB, "MiB", "≤ 16", found["worker_bytes"] <= 16 * MIB),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--in", dest="place", type=Path, help="where the files are made, and removed again")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print the rows and write nothing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.place) as scratch:
        if args.measure:
            sys.stdout.write(json.dumps(measure(args.measure, Path(scratch) / "scan.npz")))
            return
        make_folder(Path(scratch) / "root", args.files)
        command = [sys.executable, "-m", "tests.bench.bench_listing", "--measure", str(Path(scratch) / "root"), "--in", scratch]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    table = rows(json.loads(done.stdout.splitlines()[-1]))
    if args.json:
        sys.stdout.write(json.dumps(table) + "\n")
    else:
        write(
            "listing",
            f"A folder of {args.files:,} cloud files in {CLASSES} classes: listed, scanned, split and read once.",
            table,
            "one run",
        )
    if any(each["holds"] is False for each in table):
        sys.exit(1)


if __name__ == "__main__":
    main()
