"""Where benchmark rows go: build/bench/NAME.json for programs, docs/results/bench-NAME.md for people, a table on the terminal."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("numpy", "torch", "plyfile", "spconv", "fastapi", "uvicorn", "httptools")
Row = dict[str, object]


def write(name: str, about: str, rows: list[Row], values: str = "median", page: Path | None = None, after: str = "") -> None:
    """rows: {name, value, unit, bar, holds}. Rows without a bar hold. values: what the values are of all runs.

    page: where people read it, if not in docs/results. after: what that page says below the table.
    """
    json_file = ROOT / "build" / "bench" / f"{name}.json"
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    page = page or ROOT / "docs" / "results" / f"bench-{name}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"| {each['name']} | {each['value']} {each['unit']} | {each['bar'] or '–'} | {_verdict(each)} |" for each in rows]
    table = "\n".join([f"| row | {values} | bar | |", "|---|---|---|---|", *lines])
    page.write_text(f"# bench-{name}\n\n{about}\n\n{table}\n\n{after}{machine()} Again with: `make bench-{name}`.\n", encoding="utf-8")
    for each in rows:
        sys.stdout.write(f"{each['name']:<42} {each['value']:>10} {each['unit']:<3} {each['bar'] or '':<8} {_verdict(each)}\n")
    sys.stdout.write(f"written to {json_file} and {page}\n")


def _verdict(row: Row) -> str:
    return "" if row["bar"] is None else "holds" if row["holds"] else "does not hold"


def machine() -> str:
    """One sentence: processor, load, commit, versions."""
    processor = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine()
    )
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    packages = ", ".join(f"{package} {found}" for package in PACKAGES if (found := _version(package)))
    return (
        f"{processor}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end; commit {commit.stdout.strip() or 'unknown'}; "
        f"Python {platform.python_version()}, {packages}."
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
