"""`fip train` on scenes as small as they get, for tests of what comes of it."""

from pathlib import Path

from models.checkpoint import load_checkpoint
from models.cli import run
from models.manifest import Manifest

SMALL = ("input.voxel_size=0.4", "batch_size=2", "half=false", "augment.drop=0")


def settings(*changes: str) -> list[str]:
    return ["--threads", "1", *(part for change in (*SMALL, *changes) for part in ("--set", change))]


def fip_train(
    data: Path, run_dir: Path, image_file: Path | None, *changes: str, recipe: str = "finetune-points", more: tuple[str, ...] = ()
) -> int:
    """From random weights where there is no image file."""
    weights = ["--init", "scratch"] if image_file is None else ["--weights", str(image_file)]
    return run(["train", recipe, "--data", str(data), "--run-dir", str(run_dir), *weights, *settings(*changes), *more])


def made(run_dir: Path) -> Manifest:
    return load_checkpoint(run_dir / "checkpoint").manifest
