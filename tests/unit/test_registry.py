"""References, the layers of a catalogue, and what is particular to a registry in a directory."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import AliasConflict, BadCheckpoint, BadModelName, RegistryUnavailable, UnknownModel
from models.registry import Catalogue, ModelVersion, Reference, open_catalogue, open_registry, parse_reference, parse_target
from models.registry.local import LocalRegistry
from tests.unreadable import make_unreadable


@pytest.fixture
def registry(tmp_path: Path, tiny_registry: Path) -> LocalRegistry:
    """tiny 1, 2, 10; champion is 2. Its aliases are written by hand, in the plain form."""
    for version in ("1", "2", "10"):
        shutil.copytree(tiny_registry / "tiny" / "1", tmp_path / "tiny" / version)
    (tmp_path / "tiny" / "aliases.json").write_text(json.dumps({"champion": 2, "candidate": 10}))
    return LocalRegistry(tmp_path)


@pytest.fixture
def catalogue(registry: LocalRegistry) -> Catalogue:
    return Catalogue(registry)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tiny", Reference("tiny")),
        ("tiny@candidate", Reference("tiny", "candidate")),
        ("tiny:10", Reference("tiny", None, 10)),
        ("models:/tiny", Reference("tiny")),
        ("models:/tiny@candidate", Reference("tiny", "candidate")),
        ("models:/tiny/10", Reference("tiny", None, 10)),
    ],
)
def test_references(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


BAD = [
    "../../etc/passwd",
    "a/b",
    "",
    "@",
    "a@b@c",
    "A",
    ".hidden",
    "a:..",
    "a:007",
    "a:0",
    "a:x",
    "x" * 65,
    "a\n",
    "models:/",
    "models:/a:1",
]


@pytest.mark.parametrize("text", [*BAD, "models:/a/b/c", "models:/../x", "models:a/1", "a:1\n", "a@b\n"])
def test_bad_names(text: str) -> None:
    with pytest.raises(BadModelName):
        parse_reference(text)


@given(st.text(max_size=40))
def test_names_never_leave_the_registry(text: str) -> None:
    with pytest.raises(BadModelName):
        parse_reference(text + "/../..")


def test_targets_leave_the_version_to_the_registry() -> None:
    assert (parse_target("parts"), parse_target("parts@champion")) == (("parts", None), ("parts", "champion"))
    with pytest.raises(BadModelName, match="gives those out"):
        parse_target("parts:3")


def test_a_bare_name_is_its_champion_else_the_newest(catalogue: Catalogue, registry: LocalRegistry) -> None:
    asked = ("tiny", "tiny:1", "tiny:10", "tiny@candidate", "models:/tiny@champion", "models:/tiny/1")
    assert [catalogue.resolve(text).model.version for text in asked] == [2, 1, 10, 10, 2, 1]
    (registry.root / "tiny" / "aliases.json").unlink()
    assert catalogue.resolve("tiny").model.version == 10
    assert [entry.model.version for entry in catalogue.versions("tiny")] == [1, 2, 10]


def test_the_registry_hides_the_bundled_model_of_the_same_name(registry: LocalRegistry, tiny_registry: Path) -> None:
    bundled = Catalogue().resolve("modelnet40")
    shutil.copytree(tiny_registry / "tiny" / "1", registry.root / "modelnet40" / "7")
    ours = Catalogue(registry).resolve("modelnet40")
    assert (ours.model.version, ours.folder()) == (7, registry.root / "modelnet40" / "7")
    assert bundled.folder() != ours.folder()
    assert Catalogue(registry).default("classify") == "modelnet40"
    assert Catalogue(registry).names() == (*Catalogue().names(), "tiny")


def test_unknown_names_list_the_known(catalogue: Catalogue) -> None:
    with pytest.raises(UnknownModel, match="did you mean 'tiny'") as caught:
        catalogue.resolve("tinny")
    assert "tiny" in caught.value.known
    with pytest.raises(UnknownModel) as caught:
        catalogue.resolve("tiny:3")
    assert {"tiny:1", "tiny@champion"} <= set(caught.value.known)


def test_folders_are_models_too(catalogue: Catalogue, registry: LocalRegistry) -> None:
    folder = registry.root / "tiny" / "1"
    assert catalogue.locate(str(folder)) == (folder, None)
    assert catalogue.locate("tiny:1")[0] == folder
    (registry.root / "empty" / "notes").mkdir(parents=True)
    with pytest.raises(UnknownModel, match=r"no manifest\.json"):
        catalogue.locate(str(registry.root / "empty"))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"champion": "2"}', '{"aliases": {"champion": true}}', '{"aliases": {}, "history": {"a": 1}}']
)
def test_damaged_aliases_are_named_and_do_not_take_other_models_with_them(
    catalogue: Catalogue, registry: LocalRegistry, content: str
) -> None:
    (registry.root / "tiny" / "aliases.json").write_text(content)
    with pytest.raises(BadCheckpoint, match=r"aliases\.json"):
        catalogue.resolve("tiny")
    shutil.copytree(registry.root / "tiny" / "1", registry.root / "other" / "1")
    assert catalogue.resolve("other").model.version == 1
    assert catalogue.names() == (*Catalogue().names(), "other", "tiny")


def test_a_model_that_cannot_be_read_does_not_take_the_others_with_it(
    catalogue: Catalogue, registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(registry.root / "tiny" / "1", registry.root / "other" / "1")
    model = registry.versions("other")[0]
    make_unreadable(registry.root / "other", monkeypatch)
    assert catalogue.names() == (*Catalogue().names(), "other", "tiny")
    assert catalogue.resolve("tiny").model.version == 2
    for ask in (lambda: catalogue.resolve("other"), lambda: registry.versions("other"), lambda: registry.folder(model)):
        with pytest.raises(BadCheckpoint, match="cannot be read: Permission denied"):
            ask()
    with pytest.raises(UnknownModel, match="no model is called 'absent'"):
        catalogue.resolve("absent")
    make_unreadable(registry.root, monkeypatch)
    with pytest.raises(RegistryUnavailable, match="Permission denied"):
        registry.names()


def test_a_folder_without_versions_is_no_model(catalogue: Catalogue, registry: LocalRegistry) -> None:
    (registry.root / "empty" / "notes").mkdir(parents=True)
    (registry.root / "tiny" / "007").mkdir()
    with pytest.raises(UnknownModel, match="no model is called 'empty'"):
        catalogue.resolve("empty")
    assert [entry.model.version for entry in catalogue.versions("tiny")] == [1, 2, 10]


def test_plain_aliases_move_and_get_a_history(registry: LocalRegistry) -> None:
    registry.move_alias("tiny", "champion", 10, expected=2)
    assert registry.history("tiny", "champion") == (2,)
    assert [model.aliases for model in registry.versions("tiny")] == [(), (), ("candidate", "champion")]


def test_a_publisher_that_died_leaves_nothing_for_long(registry: LocalRegistry, tiny_registry: Path) -> None:
    model_dir = registry.root / "tiny"
    for name in (".publish-dead", ".trash-dead", ".publish-alive"):
        shutil.copytree(tiny_registry / "tiny" / "1", model_dir / name)
    (model_dir / ".publish-dead.lock").touch()
    from models.durable import locked

    with locked(model_dir / ".publish-alive.lock"):
        assert registry.publish(tiny_registry / "tiny" / "1", "tiny").version == 11
        left = {path.name for path in model_dir.iterdir()}
    assert left == {"1", "2", "10", "11", "aliases.json", ".lock", ".publish-alive", ".publish-alive.lock", ".digest-11"}


def test_numbers_do_not_come_back_when_folders_vanish(registry: LocalRegistry, tiny_registry: Path) -> None:
    """Somebody deletes with other tools: what was published last must not become what an alias still points at."""
    checkpoint = tiny_registry / "tiny" / "1"
    registry.publish(checkpoint, "tiny")
    registry.move_alias("tiny", "candidate", 11, expected=10)
    shutil.rmtree(registry.root / "tiny" / "11")
    assert registry.publish(checkpoint, "tiny").version == 12
    shutil.rmtree(registry.root / "tiny" / "12")  # its mark is all that is left of it
    assert registry.publish(checkpoint, "tiny").version == 13


@pytest.mark.parametrize("content", [None, b"[" * 100_000, b"{"])
def test_odd_aliases_are_that_models_damage_and_no_others(registry: LocalRegistry, content: bytes | None) -> None:
    (registry.root / "other").mkdir()
    shutil.copytree(registry.root / "tiny" / "1", registry.root / "other" / "1")
    path = registry.root / "other" / "aliases.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"aliases\.json"):
        registry.versions("other")
    assert registry.names() == ("other", "tiny")
    assert len(registry.versions("tiny")) == 3


def test_a_manifest_that_somebody_changes_is_not_the_one_that_was_published(registry: LocalRegistry, tiny_registry: Path) -> None:
    model = registry.publish(tiny_registry / "tiny" / "1", "tiny")
    path = registry.folder(model) / "manifest.json"
    path.write_text(path.read_text().replace('"stool"', '"couch"'))
    for read in (registry.folder, registry.digest, registry.manifest):
        with pytest.raises(BadCheckpoint, match=r"manifest\.json: the manifest is not the one that was published"):
            read(model)
    by_hand = registry.folder(ModelVersion("tiny", 1))  # was never published: nothing is known of it
    (by_hand / "manifest.json").write_text((by_hand / "manifest.json").read_text() + " ")
    assert registry.folder(ModelVersion("tiny", 1)) == by_hand


def test_a_folder_put_there_by_hand_is_not_overwritten(registry: LocalRegistry, tiny_registry: Path) -> None:
    (registry.root / "tiny" / "11").mkdir()
    (registry.root / "tiny" / "12").write_text("a file")
    assert registry.publish(tiny_registry / "tiny" / "1", "tiny").version == 13
    assert list((registry.root / "tiny" / "11").iterdir()) == []


def test_the_highest_number_is_not_given_out_again(registry: LocalRegistry, tiny_registry: Path) -> None:
    with pytest.raises(AliasConflict, match="candidate points at"):
        registry.remove(ModelVersion("tiny", 10))
    registry.move_alias("tiny", "candidate", None, expected=10)
    registry.remove(ModelVersion("tiny", 10))
    assert registry.publish(tiny_registry / "tiny" / "1", "tiny").version == 11


def test_an_absent_registry_says_so(tmp_path: Path) -> None:
    absent = LocalRegistry(tmp_path / "absent")
    for ask in (
        absent.names,
        lambda: absent.versions("tiny"),
        lambda: absent.history("tiny", "a"),
        lambda: absent.folder(ModelVersion("tiny", 1)),
    ):
        with pytest.raises(RegistryUnavailable, match="No such file"):
            ask()
    with pytest.raises(RegistryUnavailable, match="no such folder"):
        open_registry(str(tmp_path / "absent"))
    with pytest.raises(RegistryUnavailable):
        open_catalogue("")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_registry_that_cannot_be_written_says_so(registry: LocalRegistry, tiny_registry: Path) -> None:
    registry.root.chmod(0o555)
    try:
        with pytest.raises(RegistryUnavailable, match="Permission denied"):
            registry.publish(tiny_registry / "tiny" / "1", "other")
    finally:
        registry.root.chmod(0o755)


def test_an_absent_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # what an import of something absent does
    with pytest.raises(RegistryUnavailable, match=r"pip install 'fip-server\[mlflow\]'"):
        open_registry("http://127.0.0.1:1").names()
