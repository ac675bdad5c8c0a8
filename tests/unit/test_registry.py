"""References to models in a directory registry."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadCheckpoint, BadModelName, UnknownModel
from models.registry import find_model, list_models, resolve


@pytest.fixture
def registry(tmp_path: Path, tiny_registry: Path) -> Path:
    """tiny 1, 2, 10; champion is 2."""
    for version in ("1", "2", "10"):
        shutil.copytree(tiny_registry / "tiny" / "1", tmp_path / "tiny" / version)
    (tmp_path / "tiny" / "aliases.json").write_text(json.dumps({"champion": 2, "candidate": 10}))
    return tmp_path


def test_references(registry: Path) -> None:
    found = {text: resolve(text, registry).version for text in ("tiny", "tiny:1", "tiny:10", "tiny@candidate", "tiny@champion")}
    assert found == {"tiny": 2, "tiny:1": 1, "tiny:10": 10, "tiny@candidate": 10, "tiny@champion": 2}
    (registry / "tiny" / "aliases.json").unlink()
    assert resolve("tiny", registry).version == 10  # no champion: the newest
    assert [model.version for model in list_models(registry) if model.name == "tiny"] == [1, 2, 10]


def test_unknown_names_list_the_known(registry: Path) -> None:
    with pytest.raises(UnknownModel, match="did you mean 'tiny'") as caught:
        resolve("tinny", registry)
    assert "tiny" in caught.value.known
    with pytest.raises(UnknownModel) as caught:
        resolve("tiny:3", registry)
    assert {"tiny:1", "tiny@champion"} <= set(caught.value.known)


def test_find_model_takes_folders(registry: Path) -> None:
    folder = registry / "tiny" / "1"
    assert find_model(str(folder)) == folder
    assert find_model("tiny:1", registry) == folder


@given(st.text(max_size=40))
def test_names_never_leave_the_registry(text: str) -> None:
    with pytest.raises((BadModelName, UnknownModel)):
        resolve(text + "/../..")


@pytest.mark.parametrize("text", ["../../etc/passwd", "a/b", "", "@", "a@b@c", "A", ".hidden", "a:..", "x" * 65, "a\n"])
def test_bad_names(text: str) -> None:
    with pytest.raises(BadModelName):
        resolve(text)


def test_damaged_aliases_are_named(registry: Path) -> None:
    (registry / "tiny" / "aliases.json").write_text("{")
    with pytest.raises(BadCheckpoint, match=r"aliases\.json"):
        resolve("tiny", registry)
    shutil.copytree(registry / "tiny" / "1", registry / "other" / "1")
    assert resolve("other", registry).version == 1  # one damaged model does not take the others with it
    assert {model.name for model in list_models(registry)} >= {"tiny", "other"}


def test_a_folder_without_versions_is_no_model(registry: Path) -> None:
    (registry / "empty" / "notes").mkdir(parents=True)
    (registry / "tiny" / "007").mkdir()
    with pytest.raises(UnknownModel, match="no model is called 'empty'"):
        resolve("empty", registry)
    assert [model.version for model in list_models(registry) if model.name == "tiny"] == [1, 2, 10]
    with pytest.raises(UnknownModel, match=r"no manifest\.json"):
        find_model(str(registry / "empty"))
