"""The command line: starts light, helps with wrong names, keeps its exit codes."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from models import errors
from models.cli import COMMAND_GROUP, EPILOG, EXIT_CODES, describe, exit_code, fip, run

HEAVY = ("torch", "numpy", "pydantic", "fastapi", "h5py", "matplotlib")


def tree(kind: type[errors.FipError]) -> Iterator[type[errors.FipError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from tree(below)


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in ("predict", "doctor", "models", "train", "serve")),
        ["models", "rm", "--help"],
    ],
)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    program = (
        f"import sys; from models.cli import run; code = run({args!r}); print([m for m in {HEAVY!r} if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_loads_and_has_a_line_of_help() -> None:
    result = CliRunner().invoke(fip, ["--help"])
    for entry in importlib.metadata.entry_points(group=COMMAND_GROUP):
        command = entry.load()
        assert isinstance(command, click.Command)
        assert command.get_short_help_str(), entry.name
        assert entry.name in result.output
    assert "Not available" not in result.output


def test_help_documents_every_exit_code() -> None:
    shown = CliRunner().invoke(fip, ["--help"]).output
    assert [line for line in EPILOG.splitlines()[2:] if line not in shown] == []
    for _, code in EXIT_CODES:
        assert f"\n  {code} " in EPILOG


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pedict"]) == 2
    assert "did you mean 'predict'?" in capsys.readouterr().err


def test_unknown_option_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "--modle", "x", "chair.ply"]) == 2
    assert "--model" in capsys.readouterr().err


def test_error_codes_are_unique_and_each_kind_has_its_exit_code() -> None:
    kinds = list(tree(errors.FipError))
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes)
    expected = {errors.InputError: 3, errors.ModelError: 4, errors.TrainingError: 5}
    for root, code in expected.items():
        assert {exit_code(kind("x")) for kind in tree(root) if not issubclass(kind, errors.BadOption)} == {code}
        assert exit_code(errors.BadOption("x")) == 2
    assert exit_code(errors.FipError("x")) == 1


def test_an_error_is_one_line_with_code_place_and_known_values() -> None:
    error = errors.UnknownModel("no model 'x'", where="registry", known=["a", "b"])
    assert describe(error) == "error [unknown_model]: registry: no model 'x' (known: a, b)"
    assert describe(errors.EmptyFile("nothing in it")) == "error [empty_file]: nothing in it"


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)  # what an import of something absent does
    monkeypatch.delitem(sys.modules, "service.settings", raising=False)
    assert run(["serve"]) == 1
    assert "'pydantic' is not installed" in capsys.readouterr().err
