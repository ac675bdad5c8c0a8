"""Folders of made-up streets, `fip predict` on them, and what it says."""

import json
import sys
from collections import Counter
from pathlib import Path

import laspy  # type: ignore[import-untyped]
import numpy as np
import pytest

from models.cli import run

JOURNAL = ".fip-predict.jsonl"
Capture = pytest.CaptureFixture[str]


def save_cloud(path: Path, points: int, seed: int = 0) -> None:
    """A made-up street in the format of the ending."""
    rng = np.random.default_rng(seed)
    table = np.column_stack([rng.uniform(-8, 8, (points, 3)), rng.random(points)]).astype("<f4")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".bin":
        path.write_bytes(table.tobytes())
    elif path.suffix == ".npy":
        np.save(path, table[:, :3])
    elif path.suffix == ".xyz":
        np.savetxt(path, table[:, :3], fmt="%.3f")
    elif path.suffix == ".ply":
        names = "".join(f"property float {name}\n" for name in ("x", "y", "z", "intensity"))
        path.write_bytes(f"ply\nformat binary_little_endian 1.0\nelement vertex {points}\n{names}end_header\n".encode() + table.tobytes())
    elif path.suffix == ".las":
        las = laspy.create(point_format=3, file_version="1.2")
        las.x, las.y, las.z = table[:, :3].T
        las.write(path)
    else:
        raise AssertionError(path)


CLOUDS = {"a.bin": 700, "b.npy": 500, "deep/er/c.ply": 600, "deep/d.xyz": 400, "e.las": 300}
ANSWERS = {"a.label", "b.labelled.npy", "deep/er/c.labelled.ply", "deep/d.labelled.xyz", "e.labelled.las"}


def files_of(folder: Path) -> set[str]:
    """Of all files, hidden ones but the journal too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {JOURNAL}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


def summary(text: str) -> dict:
    return json.loads(text.splitlines()[-1])["summary"]


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def refused(arguments: list[str], capsys: Capture) -> str:
    """What wrong usage says; nothing is computed."""
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def done_lines(out: Path) -> Counter[str]:
    """How often each file was finished, as the journal has it."""
    lines = [json.loads(line) for line in (out / JOURNAL).read_text().splitlines()]
    return Counter(line["file"] for line in lines if line.get("state") == "done")


PROGRAM = "import sys; from models.cli import main; main()"


def command(use: list[str], *arguments: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *use, *arguments]
