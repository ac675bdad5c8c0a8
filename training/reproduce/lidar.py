"""`fip reproduce lidar`: does image pretraining help a LiDAR segmentation from a few scans? Scratch against FIP-ALL, paired by seed.

Both arms are the net of the bundled model, at the same small budget, learning rate and seeds; every run is a complete `fip train`,
whose last epoch is scored once on the test scans.
"""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch

from models.artefact import read_manifest
from training.datasets import read_scenes
from training.image_weights import load_image_weights
from training.loop import Compute
from training.recipe import load_recipe, read_draft
from training.reproduce.stats import mean_of
from training.runstate import write_text
from training.train import Job, train

RECIPE = "paired-lidar19"
ARMS: dict[str, dict[str, object]] = {"scratch": {"init": "scratch"}, "fip-all": {"init": "image"}}


@dataclass(frozen=True)
class Cell:
    """One finished run: its scores (shares) on the test scans, and what it was made from."""

    arm: str
    seed: int
    metrics: dict[str, float]
    class_iou: dict[str, float]
    recipe_sha256: str
    data_sha256: str
    code: str
    weights_sha256: str | None = None


def lidar(
    data: Path,
    weights: str,
    out: Path,
    run_dir: Path,
    seeds: Sequence[int],
    device: str = "cpu",
    overrides: dict[str, object] | None = None,
) -> Path:
    """Train every arm with every seed, those that are finished excepted, and write `out`/lidar.md."""
    changes = overrides or {}
    cells = [_cell(arm, seed, data, weights, out / "lidar", run_dir, device, changes) for seed in seeds for arm in ARMS]
    report = out / "lidar.md"
    report.write_text(_page(cells, changes), encoding="utf-8")
    return report


def _cell(arm: str, seed: int, data: Path, weights: str, cells: Path, runs: Path, device: str, overrides: dict[str, object]) -> Cell:
    """One run, or what is on disk of it."""
    draft = read_draft(RECIPE, {**overrides, **ARMS[arm], "seed": seed})
    path = cells / f"{arm}-seed{seed}.json"
    if path.is_file():
        found = Cell(**json.loads(path.read_text(encoding="utf-8")))
        inputs = draft.preview.digest, read_scenes(draft.preview.data.kind, data, "train").digest, _weights(arm, weights)
        if (found.recipe_sha256, found.data_sha256, found.weights_sha256) == inputs:
            return found
    click.echo(f"{arm}, seed {seed}")
    folder = train(Job(draft, data, weights, runs / f"lidar-{arm}-seed{seed}", device=device, compute=Compute()))
    assert folder is not None  # one process
    manifest, _ = read_manifest(folder)
    details = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    made = manifest.provenance
    digests = made.recipe_sha256, made.dataset_sha256
    cell = Cell(arm, seed, manifest.metrics, details["class_iou"], *digests, made.code_version, _weights(arm, weights))
    cells.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(cell), indent=1) + "\n")
    return cell


def _weights(arm: str, weights: str) -> str | None:
    """sha256 of the 2D weights that an arm starts from."""
    return load_image_weights(weights).sha256 if ARMS[arm]["init"] == "image" else None


def _page(cells: list[Cell], overrides: dict[str, object]) -> str:
    recipe = load_recipe(RECIPE, overrides)
    of = {arm: [cell for cell in cells if cell.arm == arm] for arm in ARMS}
    seeds = [cell.seed for cell in of["scratch"]]
    rows = [_row(arm, found) for arm, found in of.items()]
    first = cells[0].metrics
    lines = [
        "# lidar: does image pretraining help a LiDAR segmentation from a few scans?",
        "",
        f"{recipe.network} as a U-Net, {recipe.epochs} epochs over the {recipe.data.kind} scans of sequence 00 that there were (all of one "
        f"street), scored once, after the last epoch, per point on {first['test_scenes']:.0f} scans of sequence 08 "
        f"({first['test_points']:,.0f} labelled points). Both arms have the same recipe (`{RECIPE}`), learning rate ({recipe.optim.lr:g}, "
        f"not chosen for either), budget and {len(seeds)} seeds ({', '.join(map(str, seeds))}); the spread is over seeds. Voxel size, "
        "augmentation and losses were chosen with image weights, on a half of the street that was held out.",
        "",
        "| arm | mIoU %, mean ± std | accuracy %, mean ± std | mIoU % without intensity | each seed's mIoU % |",
        "|---|---|---|---|---|",
        *rows,
        "",
        _gap(of["fip-all"], of["scratch"]),
        "",
        "The paper has +0.82 points on all of SemanticKITTI (ResNet18, 64.75 → 65.57, one run each).",
        "",
        "| class | " + " | ".join(f"{arm} IoU %" for arm in ARMS) + " |",
        "|---|" + "---|" * len(ARMS),
        *_classes(of),
        "",
        f"Trained by {' and '.join(sorted({cell.code for cell in cells}))}; data sha256 `{cells[0].data_sha256}`; "
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores. Again with: "
        f"`fip reproduce lidar --seeds {seeds[0]}-{seeds[-1]} --data SEMANTICKITTI --weights cifar10_resnet20.safetensors`.",
        "",
    ]
    return "\n".join(lines)


def _row(arm: str, cells: list[Cell]) -> str:
    miou, accuracy, bare = (
        np.array([100 * cell.metrics[name] for cell in cells]) for name in ("test_miou", "test_accuracy", "test_miou_without_intensity")
    )
    each = ", ".join(f"{value:.2f}" for value in miou)
    return f"| {arm} | {_spread(miou)} | {_spread(accuracy)} | {_spread(bare)} | {each} |"


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def _gap(ours: list[Cell], theirs: list[Cell]) -> str:
    """The mean paired difference with its interval by Student's t."""
    gap = mean_of([100 * (one.metrics["test_miou"] - other.metrics["test_miou"]) for one, other in zip(ours, theirs, strict=True)])
    assert gap is not None
    if gap.count < 2:
        return f"**Gap, FIP-ALL over scratch: {gap.mean:+.2f} points of mIoU.**"
    low, high = gap.mean - gap.half, gap.mean + gap.half
    verdict = "which is on one side of zero" if gap.decided else "which leaves its sign open"
    interval = f"95 % interval of the paired differences {low:+.2f} to {high:+.2f}, {verdict}"
    return f"**Gap, FIP-ALL over scratch: {gap.mean:+.2f} points of mIoU** ({interval})."


def _classes(of: dict[str, list[Cell]]) -> list[str]:
    names = list(dict.fromkeys(name for cells in of.values() for cell in cells for name in cell.class_iou))
    rows = []
    for name in names:
        shares = [[100 * cell.class_iou[name] for cell in cells if name in cell.class_iou] for cells in of.values()]
        rows.append(f"| {name} | " + " | ".join(_spread(np.array(each)) if each else "–" for each in shares) + " |")
    return rows
