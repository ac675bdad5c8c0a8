"""API keys: what is kept of one, what passes for one, and what it costs to find out."""

import errno
import gc
import hashlib
import json
import os
import statistics
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from models.durable import NotTheOwner
from models.errors import BadOption
from service.auth import cli
from service.auth.key_ring import KeyRing
from service.auth.keys import BadKeyFile, Key, KeyFile, Keys, add_key, new_key, read_keys, remove_key


def made(**given: object) -> tuple[str, Key]:
    return new_key(**({"name": "x", "scopes": ["infer"], "points_per_second": None, "lasts": None} | given))


def test_a_key_is_found_and_its_secret_is_kept_nowhere(tmp_path: Path) -> None:
    text, key = made(name="lab")
    add_key(tmp_path / "keys.json", key)
    content = (tmp_path / "keys.json").read_text()
    _, key_id, secret = text.split("_", 2)
    assert (len(key_id), len(secret)) == (12, 43)
    assert secret not in content
    [kept] = json.loads(content)["keys"]
    assert kept["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert set(kept) == {"id", "name", "sha256", "scopes", "points_per_second", "created", "expires"}
    found = Keys(read_keys(tmp_path / "keys.json").keys).find(text.encode())
    assert found == key


def test_the_file_is_its_owner_s_alone_and_nothing_is_lost_of_it(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    (tmp_path / ".keys.json.part").touch(0o666)  # of somebody who was killed
    texts = []
    for name in "abc":
        text, key = made(name=name)
        add_key(file, key)
        texts.append(text.encode())
        assert file.stat().st_mode & 0o777 == 0o600
    gone = remove_key(file, texts[1][4:16].decode())
    assert gone.name == "b"
    keys = Keys(read_keys(file).keys)
    assert [bool(keys.find(text)) for text in texts] == [True, False, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_file_stays_its_owner_s_whoever_changes_it(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    text, key = made(name="a")
    add_key(file, key)
    os.chown(file, 54321, 12345)  # the service's own user
    file.chmod(0o440)
    for change in (lambda: add_key(file, made(name="b")[1]), lambda: remove_key(file, key.id)):
        change()
        found = file.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (54321, 12345, 0o440)
    assert Keys(read_keys(file).keys).find(text.encode()) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_that_cannot_be_left_to_its_owner_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:  # as it is to all but root
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    file = tmp_path / "keys.json"
    text, key = made(name="a")
    add_key(file, key)
    os.chown(file, 54321, 12345)
    before = file.stat()
    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(NotTheOwner, match="belongs to user 54321 and group 12345"):
        remove_key(file, key.id)
    said = CliRunner().invoke(cli.keys, ["revoke", key.id, "--file", str(file)])
    assert isinstance(said.exception, BadOption)
    assert "user 54321" in said.exception.detail
    assert "opens nothing" not in said.output
    assert (file.stat().st_ino, file.stat().st_uid) == (before.st_ino, 54321)
    assert Keys(read_keys(file).keys).find(text.encode()) == key
    assert sorted(each.name for each in tmp_path.iterdir()) == [".keys.json.lock", "keys.json"]


def altered(text: bytes) -> list[bytes]:
    other = made()[0].encode()
    last = b"A" if text[-1:] != b"A" else b"B"
    return [
        *(b"", b"fip_", text[:-1], text + b"x", text + b"\n", b" " + text, text[:-1] + last),
        *(text[:17], text[17:], b"\xff" * 100, text * 9999),
        *(text[:17] + other[17:], other[:17] + text[17:], b"fib_" + text[4:], text[:16] + b"-" + text[17:], text[:3] + b"\0" + text[4:]),
        *(text.upper(), text.replace(b"_", b"__", 1), other),
    ]


def test_nothing_else_passes_for_it() -> None:
    text, key = made()
    keys = Keys([key, made()[1]])
    assert keys.find(text.encode()) == key
    assert [wrong for wrong in altered(text.encode()) if keys.find(wrong) is not None] == []
    assert Keys().find(text.encode()) is None


def test_a_wrong_key_costs_the_same_whatever_is_wrong_with_it() -> None:
    """Medians of many short rounds in turn, so that a busy machine slows all of them down alike."""
    kept = [made() for _ in range(100)]
    keys = Keys(key for _, key in kept)
    text, other = kept[7][0].encode(), made()[0].encode()
    near = text[:-1] + (b"A" if text[-1:] != b"A" else b"B")  # all but the last letter of the secret
    wrong = {"secret": text[:17] + other[17:], "near": near, "id": other, "malformed": b"fip_" + b"?" * 56, "long": b"x" * 60_000}
    seconds: dict[str, list[float]] = {name: [] for name in wrong}
    gc.disable()
    try:
        for _ in range(1500):
            for name, presented in wrong.items():
                began = time.perf_counter()
                for _ in range(20):
                    keys.find(presented)
                seconds[name].append(time.perf_counter() - began)
    finally:
        gc.enable()
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    assert max(medians.values()) < 1.3 * min(medians.values()), medians


DAMAGED = {
    "": "Invalid JSON",
    "{": "Invalid JSON",
    "[]": "object",
    '{"keys": 3}': "keys",
    '{"keys": [], "more": 1}': "more",
    '{"keys": [{"id": "0123456789ab"}]}': "keys.0.name",
    '{"keys": [{"id": "0123456789AB"}]}': "keys.0.id",
}


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_says_where(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(BadKeyFile, match=DAMAGED[content]) as refused:
        read_keys(tmp_path / "keys.json")
    assert refused.value.where == str(tmp_path / "keys.json")


@pytest.mark.parametrize(
    "given",
    [{"name": ""}, {"scopes": []}, {"scopes": ["root"]}, {"points_per_second": 0.0}, {"points_per_second": float("nan")}],
)
def test_what_a_key_cannot_be(given: dict) -> None:
    with pytest.raises(BadOption):
        made(**given)


def test_two_keys_of_one_id_and_files_that_are_none(tmp_path: Path) -> None:
    _, key = made()
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [json.loads(key.model_dump_json())] * 2}))
    with pytest.raises(BadKeyFile, match="same id"):
        read_keys(tmp_path / "keys.json")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadKeyFile, match="cannot be read"):
            read_keys(path)
    with pytest.raises(BadKeyFile):
        remove_key(tmp_path / "none", key.id)
    assert not (tmp_path / "none").exists()


def test_what_has_expired() -> None:
    _, key = made(lasts=timedelta(days=1))
    now = datetime.now(UTC)
    assert not key.expired(now)
    assert key.expired(now + timedelta(days=1))
    assert KeyFile.model_validate_json(KeyFile(keys=(key,)).model_dump_json()).keys == (key,)


def test_a_key_is_in_force_until_it_expires() -> None:
    now = datetime.now(UTC)
    _, lasts = new_key("anna", ["infer"], None, None)
    _, ends = new_key("ben", ["infer"], None, timedelta(days=1))
    keys = Keys([lasts, ends])
    assert [keys.has(each.id, now) for each in (lasts, ends)] == [True, True]
    assert [keys.has(each.id, now + timedelta(days=2)) for each in (lasts, ends)] == [True, False]
    assert not keys.has("0" * 16, now)
    assert not keys.has("", now)
    assert KeyRing(None).in_force("")
    assert not KeyRing(None).in_force(lasts.id)
