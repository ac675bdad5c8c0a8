"""`fip keys`, and where `fip serve` listens only with them."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from models.errors import BadOption
from service.auth.cli import keys
from service.auth.keys import BadKeyFile, Keys, read_keys

ROOT = Path(__file__).parents[2]
SERVE = "import sys; from models.cli import run; sys.exit(run(['serve', *sys.argv[1:]]))"


def fip_keys(*args: str, file: Path) -> Result:
    return CliRunner().invoke(keys, [*args, "--file", str(file)], catch_exceptions=True)


def test_make_list_revoke(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    options = ["--name", "the lab", "--scopes", "infer, metrics", "--points-per-second", "5e5", "--expires-days", "30"]
    made = fip_keys("new", *options, file=file)
    assert made.exit_code == 0, made.output
    text = made.output.strip()
    assert re.fullmatch(r"fip_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", text)
    key = Keys(read_keys(file).keys).find(text.encode())
    assert key is not None
    assert (key.name, key.scopes, key.points_per_second) == ("the lab", ("infer", "metrics"), 5e5)
    assert key.expires is not None
    assert (key.expires - key.created).days == 30
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = fip_keys("new", "--name", "other", file=file).output.strip()
    listed = fip_keys("list", file=file).output.splitlines()
    assert [line.split()[0] for line in listed] == [text[4:16], other[4:16]]
    assert "infer,metrics  500000 points/s  until 20" in listed[0]
    assert "infer  any rate  for ever  other" in listed[1]
    assert not [secret for secret in (text[17:], other[17:]) if secret in "".join(listed)]
    assert fip_keys("revoke", key.id, file=file).exit_code == 0
    assert [key.name for key in read_keys(file).keys] == ["other"]


def test_what_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    wrong = fip_keys("new", "--name", "x", "--scopes", "infer,root", file=file)
    assert isinstance(wrong.exception, BadOption)
    assert wrong.exception.known == ("infer", "admin", "metrics")
    assert isinstance(fip_keys("new", "--name", "x", "--scopes", "", file=file).exception, BadOption)
    assert isinstance(fip_keys("new", "--name", "x", file=tmp_path / "none" / "keys.json").exception, BadOption)
    assert isinstance(fip_keys("list", file=file).exception, BadKeyFile)
    assert not file.exists()
    assert fip_keys("new", "--name", "x", file=file).exit_code == 0
    unknown = fip_keys("revoke", "0" * 12, file=file)
    assert isinstance(unknown.exception, BadOption)
    file.write_text("{}{")
    for command in (["new", "--name", "y"], ["revoke", "0" * 12], ["list"]):
        assert isinstance(fip_keys(*command, file=file).exception, BadKeyFile)
    assert file.read_text() == "{}{"  # what cannot be read is not replaced


def test_it_starts_without_pydantic() -> None:
    code = "import sys, service.auth.cli; print([name for name in ('pydantic', 'numpy', 'torch', 'fastapi') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout == "[]\n"


def start(*args: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`fip serve` as far as it gets."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FIP_")}
    command = [sys.executable, "-c", SERVE, "--port", "0", *args]
    return subprocess.run(command, capture_output=True, text=True, env=clean | environment, cwd=ROOT, timeout=120, check=False)


@pytest.mark.e2e
def test_others_are_not_listened_to_without_keys(tmp_path: Path) -> None:
    refused = start("--host", "0.0.0.0")
    assert refused.returncode == 2, refused.stderr
    [said] = refused.stderr.splitlines()
    assert "0.0.0.0 can be reached from other machines, and there are no keys" in said
    for way_out in ("FIP_KEYS", "127.0.0.1", "FIP_ALLOW_ANONYMOUS=true"):
        assert way_out in said
    assert start("--host", "", FIP_HOST="0.0.0.0").returncode == 2
    (tmp_path / "keys.json").write_text("no keys")
    damaged = start("--host", "0.0.0.0", FIP_KEYS=str(tmp_path / "keys.json"))
    assert damaged.returncode == 2
    assert "the file of keys is damaged" in damaged.stderr
    absent = start("--host", "0.0.0.0", FIP_KEYS=str(tmp_path / "none.json"))
    assert absent.returncode == 2
    assert "FIP_KEYS" in absent.stderr


@pytest.mark.e2e
@pytest.mark.parametrize("how", ["keys", "anonymous"])
def test_others_are_listened_to_with_keys_or_when_told_so(tmp_path: Path, how: str) -> None:
    fip_keys("new", "--name", "x", file=tmp_path / "keys.json")
    given = {"FIP_KEYS": str(tmp_path / "keys.json")} if how == "keys" else {"FIP_ALLOW_ANONYMOUS": "true"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FIP_")}
    command = [sys.executable, "-c", SERVE, "--port", "0", "--host", "0.0.0.0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean | given, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert "http://0.0.0.0:" in process.stdout.readline()
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
