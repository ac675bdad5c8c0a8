"""From a folder of 400 scans to a served model, as a user does it: the time it takes, and what it knows.

    FIP_DATA=... python -m tests.bench.bench_first_model

Ten clouds a class of ModelNet40's train split, as PLY files; `fip train finetune-cifar20 --publish`; a service on that registry;
all test clouds posted as PLY files. Only the training and publishing command is timed, everything else is not.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

from models.registry import open_catalogue
from tests import stored_modelnet40
from tests.bench.post_test_set import float32_ply, labels
from tests.bench.report import Row, write
from tests.bench.service.process import serving
from training.datasets import LabelledClouds

PER_CLASS = 10
MINUTES, ACCURACY = 10.0, 55.0
ABOUT = (
    "Ten PLY files a class of ModelNet40 (400 clouds, 40 of them held out to validate) to a model that is published and served: "
    "`fip train finetune-cifar20 --data FOLDER --weights cifar10_resnet20.safetensors --publish forty@champion`, seed 0, all cores; "
    "then all 2,468 test clouds posted as PLY files."
)


def main() -> int:
    data = Path(os.environ["FIP_DATA"])
    weights = data / "weights" / "cifar10_resnet20.safetensors"
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        first = stored_modelnet40.read(data, "train", first_of_each)
        write_folder(first, root / "scans", "train")
        files = write_folder(stored_modelnet40.read(data, "test", lambda labels: np.arange(len(labels))), root / "test", "test")
        minutes = train(root / "scans", weights, root)
        made = open_catalogue(str(root / "registry")).locate("forty@champion")[0]
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        with (
            serving(FIP_REGISTRY=str(root / "registry"), FIP_MODEL="forty@champion") as url,
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            found = dict(labels(client, files, None))
        right = sum(Path(name).parts[0] == label for name, label in found.items())
        accuracy = 100 * right / len(found)
        in_card = float(digest in (made / "README.md").read_text(encoding="utf-8"))
    rows: list[Row] = [
        {"name": "train and publish", "value": round(minutes, 2), "unit": "min", "bar": f"<= {MINUTES:g}", "holds": minutes <= MINUTES},
        {"name": f"right of {len(found):,} over HTTP", "value": right, "unit": "", "bar": None, "holds": True},
        {"name": "accuracy over HTTP", "value": round(accuracy, 2), "unit": "%", "bar": f">= {ACCURACY:g}", "holds": accuracy >= ACCURACY},
        {"name": "2D weights' digest in the card", "value": in_card, "unit": "", "bar": "= 1", "holds": in_card == 1},
    ]
    write("first-model", ABOUT, rows, values="one run")
    return 0 if all(row["holds"] for row in rows) else 1


def first_of_each(targets: np.ndarray) -> np.ndarray:
    return np.concatenate([np.flatnonzero(targets == target)[:PER_CLASS] for target in np.unique(targets)])


def write_folder(clouds: LabelledClouds, root: Path, split: str) -> dict[str, Path]:
    """root/CLASS/SPLIT/NUMBER.ply; the files by their path inside the folder. Points in random order: they are stored sorted."""
    rng = np.random.default_rng(0)
    files = {}
    for number, (xyz, target) in enumerate(zip(clouds.xyz, clouds.targets, strict=True)):
        path = root / clouds.names[target] / split / f"{number:05}.ply"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(float32_ply(rng.permutation(xyz).astype(np.float64)))
        files[str(path.relative_to(root))] = path
    return files


def train(folder: Path, weights: Path, root: Path) -> float:
    """Minutes that the whole command takes."""
    command = [str(Path(sys.executable).with_name("fip")), "train", "finetune-cifar20", "--data", str(folder), "--weights", str(weights)]
    command += ["--publish", "forty@champion", "--registry", str(root / "registry"), "--run-dir", str(root / "run")]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=sys.stderr)
    return (time.monotonic() - began) / 60


if __name__ == "__main__":
    sys.exit(main())
