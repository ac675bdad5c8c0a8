"""What an analysis leaves behind: a page, a picture and a record of all that it came from, side by side under one name."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

from training.analyse.subject import Subject
from training.publish import code_version

mpl.use("Agg")

from matplotlib.figure import Figure

DPI = 110
COLOURS = 128  # of a picture; more cannot be told apart in it, and would double the file


@dataclass(frozen=True)
class Analysis:
    """Everything a page is made of. command: what makes it again, without the paths of this machine; inputs, results: for the record.

    lines: Markdown between title and foot. alt: what the picture shows, for those who do not see it.
    """

    name: str
    title: str
    command: str
    inputs: Mapping[str, object]
    results: Mapping[str, object]
    lines: Sequence[str]
    figure: Figure
    alt: str


def model_facts(subject: Subject) -> dict[str, object]:
    manifest = subject.manifest
    made = manifest.provenance
    facts = {"name": manifest.name, "digest": subject.digest, "network": manifest.network.name, "init": made.init, "mode": made.mode}
    return {**facts, "weights_2d_sha256": made.weights_2d_sha256, "dataset_sha256": made.dataset_sha256, "up": subject.up}


def write(analysis: Analysis, subject: Subject, out: Path) -> Path:
    """NAME.md, NAME.png and NAME.json in `out`; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    page = out / f"{analysis.name}.md"
    save_picture(analysis.figure, page.with_suffix(".png"))
    code = code_version()
    machine = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "engine": subject.engine}
    record = {"command": analysis.command, "code": code, "machine": machine, "model": model_facts(subject)}
    text = json.dumps(plain({**record, **analysis.inputs, "results": analysis.results}), indent=1, allow_nan=False)
    page.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    foot = (
        f"Model {subject.manifest.name} (digest `{subject.digest[:16]}`). {code}; torch {torch.__version__}, engine {subject.engine}. "
        f"Every number and every input's digest: [{analysis.name}.json]({analysis.name}.json). Again with: `{analysis.command}`."
    )
    parts = [f"# {analysis.title}", *analysis.lines, f"![{analysis.alt}]({analysis.name}.png)", foot]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def short(value: float) -> str:
    """About three digits of a number of any size."""
    if math.isnan(value):
        return "–"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.1e}"


def plain(value: object) -> object:
    """For JSON: numbers of five digits, None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.5g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def save_picture(figure: Figure, path: Path) -> None:
    """PNG with a palette."""
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
