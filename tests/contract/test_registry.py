"""What every registry owes, whatever is behind it. Only the methods of the protocol are used."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import safetensors.numpy
import safetensors.torch
import torch

from models.artefact import read_manifest
from models.errors import AliasConflict, BadCheckpoint, BadModelName, UnknownModel
from models.registry import Catalogue, ModelVersion, Registry, publish_as
from models.registry.publish import pointed_at, promote, rollback
from models.registry.verify import verify

pytestmark = pytest.mark.timeout(900)

PROCESSES = Path(__file__).with_name("registry_processes.py")
KILLS = int(os.environ.get("FIP_KILLS", "10"))
PUBLISHERS = 16
PICKLE = b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
TEXT_PICKLE = b"cposix\nsystem\n(S'true'\ntR."
ZIP = b"PK\x03\x04" + bytes(60)


@pytest.fixture
def name() -> str:
    return f"parts-{uuid.uuid4().hex[:8]}"  # a server outlives a test


@pytest.fixture
def folder(tiny_registry: Path, tmp_path: Path) -> Path:
    """A checkpoint that may be changed."""
    return Path(shutil.copytree(tiny_registry / "tiny" / "1", tmp_path / "checkpoint"))


def numbers(registry: Registry, name: str) -> list[int]:
    return [model.version for model in registry.versions(name)]


def test_versions_grow_and_are_what_was_published(any_registry: Registry, name: str, folder: Path) -> None:
    assert any_registry.versions(name) == ()
    assert [any_registry.publish(folder, name) for _ in range(3)] == [ModelVersion(name, number) for number in (1, 2, 3)]
    assert any_registry.versions(name) == tuple(ModelVersion(name, number) for number in (1, 2, 3))
    assert name in any_registry.names()
    kept = any_registry.folder(ModelVersion(name, 2))
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert verify(kept).name == "tiny"
    assert any_registry.digest(ModelVersion(name, 2)) == read_manifest(folder)[1]
    assert any_registry.manifest(ModelVersion(name, 2)) == read_manifest(folder)


def test_a_removed_number_does_not_come_back(any_registry: Registry, name: str, folder: Path) -> None:
    for _ in range(3):
        any_registry.publish(folder, name)
    for number in (3, 1):
        any_registry.remove(ModelVersion(name, number))
    assert numbers(any_registry, name) == [2]
    assert any_registry.publish(folder, name).version == 4
    for call in (any_registry.folder, any_registry.digest, any_registry.remove):
        with pytest.raises(UnknownModel):
            call(ModelVersion(name, 3))


def test_aliases_move_by_compare_and_set(any_registry: Registry, name: str, folder: Path) -> None:
    for _ in range(2):
        any_registry.publish(folder, name)
    any_registry.move_alias(name, "champion", 1, expected=None)
    for wrong in (None, 2):
        with pytest.raises(AliasConflict, match="points at version 1"):
            any_registry.move_alias(name, "champion", 2, expected=wrong)
    with pytest.raises(AliasConflict, match="points at nothing"):
        any_registry.move_alias(name, "candidate", 2, expected=1)
    any_registry.move_alias(name, "champion", 2, expected=1)
    any_registry.move_alias(name, "candidate", 2, expected=None)
    assert [model.aliases for model in any_registry.versions(name)] == [(), ("candidate", "champion")]
    with pytest.raises(AliasConflict, match="candidate, champion points at"):
        any_registry.remove(ModelVersion(name, 2))
    any_registry.move_alias(name, "candidate", None, expected=2)
    assert pointed_at(any_registry, name, "candidate") is None


def test_aliases_point_only_at_what_is_there(any_registry: Registry, name: str, folder: Path) -> None:
    any_registry.publish(folder, name)
    with pytest.raises(UnknownModel):
        any_registry.move_alias(name, "champion", 7, expected=None)
    with pytest.raises(UnknownModel):
        any_registry.move_alias(f"{name}-not", "champion", 1, expected=None)
    for alias in ("Champion", "../x", "a b", ""):
        with pytest.raises(BadModelName):
            any_registry.move_alias(name, alias, 1, expected=None)
    for bad in ("../x", "A", ""):
        with pytest.raises(BadModelName):
            any_registry.publish(folder, bad)


def test_history_has_every_move_away(any_registry: Registry, name: str, folder: Path) -> None:
    for _ in range(3):
        any_registry.publish(folder, name)
    assert any_registry.history(name, "champion") == ()
    for before, to in ((None, 1), (1, 2), (2, 3), (3, 2)):
        any_registry.move_alias(name, "champion", to, expected=before)
    any_registry.move_alias(name, "champion", 2, expected=2)  # goes nowhere
    assert any_registry.history(name, "champion") == (1, 2, 3)
    assert any_registry.history(name, "candidate") == ()


def test_rolling_back_walks_back(any_registry: Registry, name: str, folder: Path) -> None:
    for _ in range(4):
        publish_as(any_registry, folder, name, "champion")
    any_registry.remove(ModelVersion(name, 2))
    assert [rollback(any_registry, name, "champion") for _ in range(2)] == [3, 1]  # 2 is gone
    with pytest.raises(UnknownModel, match="no other version before"):
        rollback(any_registry, name, "champion")
    promote(any_registry, name, "champion", 4, expected=1)
    assert rollback(any_registry, name, "champion") == 1


def test_references(any_registry: Registry, name: str, folder: Path) -> None:
    for _ in range(3):
        any_registry.publish(folder, name)
    catalogue = Catalogue(any_registry)
    assert catalogue.resolve(name).model.version == 3
    any_registry.move_alias(name, "champion", 2, expected=None)
    any_registry.move_alias(name, "candidate", 3, expected=None)
    asked = (name, f"{name}@champion", f"{name}@candidate", f"{name}:1", f"models:/{name}@candidate", f"models:/{name}/1")
    assert [catalogue.resolve(text).model.version for text in asked] == [2, 2, 3, 1, 3, 1]
    with pytest.raises(UnknownModel, match="has no 7"):
        catalogue.resolve(f"{name}:7")


def test_sixteen_publishers_at_once_lose_nothing(any_registry: Registry, name: str, folder: Path, tmp_path: Path) -> None:
    found = processes("race", any_registry, folder, name, PUBLISHERS, tmp_path)
    everyone = list(range(1, PUBLISHERS + 1))
    assert found["codes"] == [0] * PUBLISHERS
    assert found["versions"] == everyone
    assert sorted(found["champions"]) == everyone


def test_killed_at_any_moment_nothing_is_half_there(any_registry: Registry, name: str, folder: Path, tmp_path: Path) -> None:
    found = processes("kill", any_registry, folder, name, KILLS, tmp_path)
    print(found["stages"], found["usual_s"])
    assert sum(count for stage, count in found["stages"].items() if stage != "done") == KILLS
    assert found["last"] == found["versions"][-1]
    assert found["versions"] == sorted(set(found["versions"]))
    assert found["left"] == {}


def processes(what: str, registry: Registry, folder: Path, name: str, count: int, cache: Path) -> dict:
    command = [sys.executable, str(PROCESSES), what, registry.address, str(folder), name, str(count)]
    environment = os.environ | {"FIP_CACHE": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=850, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sign(folder: Path) -> None:
    """Make the manifest agree with whatever the files are now."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != "manifest.json"}
    edit(folder, files=files)


def edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def flip(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)


def truncate(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def signed(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    sign(folder)


def linked(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)


def filled(folder: Path, value: float) -> None:
    weights = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(weights)
    tensors["fc.weight"][0, 0] = value
    weights.write_bytes(safetensors.numpy.save(tensors))
    sign(folder)


def lacking(folder: Path, fact: str) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text().replace(fact, "…"))
    sign(folder)


def flattered(folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nRight on 95.00% of the clouds.\n")
    edit(folder, metrics={"test_accuracy": 0.05})
    sign(folder)


def commented(folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text().replace("- test\n", "<!--\n- test\n") + "-->\n")
    sign(folder)


def typed(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    tensors["fc.weight"] = tensors["fc.weight"].to(getattr(torch, kind))
    weights.write_bytes(safetensors.torch.save(tensors))
    sign(folder)


def uncarded(folder: Path) -> None:
    (folder / "README.md").unlink()
    sign(folder)


def scored(folder: Path) -> None:
    edit(folder, metrics={"test_accuracy": 0.9051})


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    **{f"flipped {name}": (partial(flip, name=name), name) for name in ("model.safetensors", "README.md", "curve.png")},
    **{f"truncated {name}": (partial(truncate, name=name), name) for name in ("model.safetensors", "README.md", "curve.png")},
    "truncated and signed weights": (
        lambda f: signed(f, "model.safetensors", (f / "model.safetensors").read_bytes()[:-1]),
        "model.safetensors",
    ),
    "truncated manifest": (lambda f: (f / "manifest.json").write_text("{"), "manifest.json"),
    "missing weights": (lambda f: (f / "model.safetensors").unlink(), "missing model.safetensors"),
    "missing picture": (lambda f: (f / "curve.png").unlink(), "missing curve.png"),
    "missing manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json"),
    "no card at all": (uncarded, "README.md"),
    "yaml that makes objects of anything": (lambda f: signed(f, "recipe.yaml", b"a: !!python/name:os.system"), "recipe.yaml"),
    "yaml that grows": (lambda f: signed(f, "recipe.yaml", b"a: &a {x: 1}\nb: {<<: [*a, *a, *a]}\n"), "recipe.yaml"),
    "yaml nested for ever": (lambda f: signed(f, "recipe.yaml", b"[" * 100_000), "recipe.yaml"),
    "json nested for ever": (lambda f: signed(f, "notes.json", b"[" * 100_000), "notes.json"),
    "numbers of an odd type": (lambda f: typed(f, "float64"), "float64"),
    "complex numbers": (lambda f: typed(f, "complex64"), "complex64"),
    "a score inside another number": (flattered, "README.md: the model card lacks test_accuracy 5.00%"),
    "facts in a comment": (commented, "README.md: the model card lacks"),
    "two classes of one name": (lambda f: edit(f, labels=["chair", "chair", "table"]), "labels"),
    "a network of any size": (
        lambda f: edit(f, network={"name": "cifar_resnet20", "in_channels": 3, "num_classes": 10**9}),
        "num_classes",
    ),
    "extra file": (lambda f: (f / "notes.json").write_text("{}"), "not listed notes.json"),
    "extra pickle": (lambda f: (f / "model.pkl").write_bytes(PICKLE), "not listed model.pkl"),
    "listed pickle": (lambda f: signed(f, "model.pkl", PICKLE), "model.pkl"),
    "script": (lambda f: signed(f, "setup.py", b"import os"), "setup.py"),
    "pickle as weights": (lambda f: signed(f, "model.safetensors", PICKLE), "model.safetensors: the content is a pickle"),
    "pickle as picture": (lambda f: signed(f, "curve.png", PICKLE), "curve.png: the content is a pickle"),
    "text pickle as card": (lambda f: signed(f, "README.md", TEXT_PICKLE), "README.md: the content is not"),
    "text pickle as recipe": (lambda f: signed(f, "recipe.yaml", TEXT_PICKLE), "recipe.yaml: the content is not"),
    "text pickle as scores": (lambda f: signed(f, "metrics.json", TEXT_PICKLE), "metrics.json: the content is not"),
    "archive as weights": (lambda f: signed(f, "model.safetensors", ZIP), "model.safetensors: the content is an archive"),
    "archive as recipe": (lambda f: signed(f, "recipe.yaml", ZIP), "recipe.yaml: the content is an archive"),
    "empty weights": (lambda f: signed(f, "model.safetensors", b""), "model.safetensors"),
    "link": (lambda f: linked(f, "curve.png"), "curve.png: a checkpoint holds plain files"),
    "sub-folder": (lambda f: (f / "more").mkdir(), "more: a checkpoint holds plain files"),
    "not a number": (lambda f: filled(f, float("nan")), "model.safetensors: fc.weight holds NaN"),
    "infinite": (lambda f: filled(f, float("inf")), "model.safetensors: fc.weight holds NaN or infinity"),
    "another network": (lambda f: edit(f, network={"name": "cifar_resnet32", "in_channels": 3, "num_classes": 3}), "model.safetensors"),
    "unknown network": (lambda f: edit(f, network={"name": "resnet0", "in_channels": 3, "num_classes": 3}), "network"),
    "unknown schema": (lambda f: edit(f, schema_version=2), "manifest.json: schema_version"),
    "unknown key": (lambda f: edit(f, surprise=1), "manifest.json: surprise"),
    "card without licence": (lambda f: lacking(f, "none: untrained"), "README.md: the model card lacks licence"),
    "card without recipe": (lambda f: lacking(f, hashlib.sha256(b"recipe_sha256").hexdigest()), "lacks recipe digest"),
    "card without data": (lambda f: lacking(f, hashlib.sha256(b"dataset_sha256").hexdigest()), "lacks data digest"),
    "card without code": (lambda f: lacking(f, "test"), "lacks code version"),
    "card without picture": (lambda f: lacking(f, "![nothing](curve.png)"), "lacks picture of the curve"),
    "card with another picture": (lambda f: lacking(f, "curve"), "lacks picture ….png"),
    "card without score": (scored, "lacks test_accuracy 90.51%"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_and_named(any_registry: Registry, name: str, folder: Path, damage: str) -> None:
    spoil, said = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(BadCheckpoint) as caught:
        any_registry.publish(folder, name)
    assert said in str(caught.value)
    assert any_registry.versions(name) == ()
    assert name not in any_registry.names()
