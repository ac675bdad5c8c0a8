"""Post every test cloud to a running service and count how often its answer is right.

    python -m tests.bench.post_test_set http://127.0.0.1:8000 FOLDER --out answers.json
    python -m tests.bench.post_test_set http://127.0.0.1:8000 FOLDER --scale 0.001 --scale 1000 --shift-radii 1000

FOLDER holds CLASS/test/OBJECT.ply, binary float32 PLY. Each --scale and --shift-radii posts the same clouds again, scaled or
shifted by so many of their own radii, as float32 PLY, and reports how often the label stays the same. --against DATA evaluates
the same model on the data set's own HDF5 files in this process, as `fip evaluate` does, and compares cloud by cloud.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt

from models.io import read_cloud
from models.predictor import Predictor
from models.registry import Catalogue
from tests.bench.report import machine
from training.datasets.modelnet40 import read_modelnet40
from training.evaluate import evaluate

Points = npt.NDArray[np.float64]
COMMAND = (
    "python -m tests.bench.post_test_set URL FOLDER_OF_PLY --scale 0.001 --scale 1 --scale 1000 --shift-radii 1000 "
    "--against MODELNET40_HDF5 --page docs/results/bundled-model.md"
)


@dataclass(frozen=True)
class Variant:
    """How the clouds are changed before they are posted."""

    scale: float = 1.0
    shift_radii: float = 0.0

    @property
    def name(self) -> str:
        return f"scale {self.scale:g}, shift {self.shift_radii:g} radii"

    def apply(self, xyz: Points) -> Points:
        centre = xyz.mean(axis=0)
        radius = float(np.sqrt(((xyz - centre) ** 2).sum(axis=1).max()))
        return xyz * self.scale + self.shift_radii * radius * self.scale


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="?model= of the request; the service's default without it")
    parser.add_argument("--scale", type=float, action="append", default=[], metavar="FACTOR")
    parser.add_argument("--shift-radii", type=float, action="append", default=[], metavar="RADII")
    parser.add_argument("--limit", type=int, help="post only so many clouds, evenly taken")
    parser.add_argument("--against", type=Path, metavar="DATA", help="ModelNet40's HDF5 files: compare with `fip evaluate`")
    parser.add_argument("--out", type=Path, help="JSON of all labels, by file")
    parser.add_argument("--page", type=Path, help="the summary as a Markdown page")
    options = parser.parse_args()
    files = test_files(options.folder, options.limit)
    variants = [Variant(scale=scale) for scale in options.scale] + [Variant(shift_radii=radii) for radii in options.shift_radii]
    query = {"top": "1", **({"model": options.model} if options.model else {})}
    with httpx.Client(base_url=options.url, params=query, timeout=60) as client:
        classifiers = [model for model in client.get("/v1/models").json()["models"] if model["task"] == "classify"]
        served = next(model for model in classifiers if (model["name"] == options.model if options.model else model["default"]))
        plain = dict(labels(client, files, None))
        changed = {variant.name: dict(labels(client, files, variant)) for variant in variants}
    report = {"model": f"{served['name']}:{served['version']}", "digest": served["digest"], **summary(plain, changed)}
    if options.against:
        report |= compared(plain, files, options.against, report["model"])
    print(json.dumps(report, indent=2))
    if options.page:
        options.page.write_text(page(report), encoding="utf-8")
    if options.out:
        options.out.write_text(json.dumps({**report, "labels": plain, "labels_changed": changed}, indent=2) + "\n", encoding="utf-8")
    return 0


def test_files(folder: Path, limit: int | None) -> dict[str, Path]:
    """CLASS/test/OBJECT.ply, by their path inside the folder."""
    paths = sorted(folder.glob("*/test/*.ply"))
    if not paths:
        sys.exit(f"no CLASS/test/OBJECT.ply in {folder}")
    if limit is not None:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).astype(int)]
    return {str(path.relative_to(folder)): path for path in paths}


def labels(client: httpx.Client, files: dict[str, Path], variant: Variant | None) -> Iterator[tuple[str, str]]:
    """Name and best label of every file; without a variant the file's own bytes are posted."""
    for done, (name, path) in enumerate(files.items()):
        body = path.read_bytes() if variant is None else float32_ply(variant.apply(read_cloud(path).xyz.astype(np.float64)))
        response = client.post("/v1/classify", content=body, headers={"Content-Type": "application/ply"})
        response.raise_for_status()
        yield name, response.json()["predictions"][0]["label"]
        if sys.stderr.isatty() and done % 50 == 0:
            print(f"\r{variant.name if variant else 'as they are'}: {done}/{len(files)} ", end="", file=sys.stderr)


def float32_ply(xyz: Points) -> bytes:
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(xyz)}\n"
    return (header + "property float x\nproperty float y\nproperty float z\nend_header\n").encode() + xyz.astype("<f4").tobytes()


def summary(plain: dict[str, str], changed: dict[str, dict[str, str]]) -> dict[str, object]:
    right = [Path(name).parts[0] == label for name, label in plain.items()]
    return {
        "clouds": len(plain),
        "right": sum(right),
        "accuracy": sum(right) / len(right),
        "same_label": {name: sum(plain[file] == label for file, label in found.items()) / len(found) for name, found in changed.items()},
    }


def compared(plain: dict[str, str], files: dict[str, Path], data: Path, model: str) -> dict[str, object]:
    """What `fip evaluate` finds, and for how many clouds, matched by their bytes, the service answered the same."""
    predictor = Predictor.load(Catalogue().locate(model)[0])
    clouds = read_modelnet40(data, "test")
    report = evaluate(predictor, clouds)
    evaluated = {xyz.tobytes(): clouds.names[label] for xyz, label in zip(clouds.xyz, report.predicted, strict=True)}
    same = [evaluated.get(read_cloud(path).xyz.tobytes()) == plain[name] for name, path in files.items()]
    return {"evaluate_right": int((report.predicted == report.targets).sum()), "same_as_evaluate": sum(same)}


def page(report: dict[str, object]) -> str:
    """The summary for people."""
    same = report["same_label"]
    assert isinstance(same, dict)
    rows = [f"| posted to the service as PLY files | {report['right']} of {report['clouds']} right, {report['accuracy']:.2%} |"]
    if "evaluate_right" in report:
        rows.append(f"| `fip evaluate` on the HDF5 files | {report['evaluate_right']} right |")
        rows.append(f"| the same label from both | {report['same_as_evaluate']} of {report['clouds']} |")
    rows += [f"| same label at {name} | {share:.2%} |" for name, share in same.items()]
    head = f"# bundled-model: what the service answers on the {report['clouds']} test clouds of ModelNet40"
    digest = str(report["digest"])[:16]
    made = f"Model {report['model']} (digest `{digest}`). {machine()} Again with: `{COMMAND}`."
    return "\n".join([head, "", "| | |", "|---|---|", *rows, "", made, ""])


if __name__ == "__main__":
    sys.exit(main())
