"""What is said of a model's classes."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from models.artefact import read_manifest
from models.errors import BadCheckpoint
from models.manifest import Manifest
from service.model_rows import read_class_scores


def with_table(folder: Path, manifest: Manifest, content: bytes) -> Manifest:
    (folder / "metrics.json").write_bytes(content)
    return manifest.model_copy(update={"files": {"metrics.json": sha256(content).hexdigest()}})


@pytest.fixture
def manifest(tiny_registry: Path) -> Manifest:
    return read_manifest(tiny_registry / "tiny" / "1")[0]


@pytest.mark.parametrize(
    ("table", "scores"),
    [
        ({"class_accuracy": {"chair": 0.5, "stool": 1, "table": 0.75}}, {"stool": 1, "table": 0.75, "chair": 0.5}),
        ({"class_accuracy": {"chair": 1.5, "stool": "much", "table": None, "sofa": 1.0}}, {}),  # what is no share, and of no class
        ({"class_accuracy": [0.5]}, {}),
        ({"class_iou": {"chair": 0.5}}, {}),  # of another task
        ([], {}),
    ],
)
def test_scores_are_shares_of_its_classes_best_first(tmp_path: Path, manifest: Manifest, table: object, scores: dict[str, float]) -> None:
    found = read_class_scores(tmp_path, with_table(tmp_path, manifest, json.dumps(table).encode()))
    assert list(found.items()) == list(scores.items())


@pytest.mark.parametrize("content", [b"{", b"[" * 200_000, b'{"class_accuracy": \xff}'])
def test_what_is_no_table_is_said(tmp_path: Path, manifest: Manifest, content: bytes) -> None:
    with pytest.raises(BadCheckpoint, match="not a table of metrics"):
        read_class_scores(tmp_path, with_table(tmp_path, manifest, content))


def test_a_table_that_was_replaced_is_not_believed(tmp_path: Path, manifest: Manifest) -> None:
    published = with_table(tmp_path, manifest, b"{}")
    (tmp_path / "metrics.json").write_bytes(b'{"class_accuracy": {"chair": 1}}')
    with pytest.raises(BadCheckpoint, match="differs"):
        read_class_scores(tmp_path, published)
