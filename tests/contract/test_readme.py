"""README's table of codes is the table of the code."""

import ast
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import service.errors
from models import errors
from models.cli import exit_code
from models.commands.predict_folder import Unexpected
from service import problems
from service.jobs import records
from training.runstate import Busy

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (`[^|]+) \| (\d*) ?\| (\d*) ?\|$", re.MULTILINE)
# Families, never raised themselves.
FAMILIES = {errors.FipError, errors.InputError, errors.CloudError, errors.ModelError, errors.TrainingError}
USAGE = 2


def tree(kind: type[errors.FipError]) -> set[type[errors.FipError]]:
    return {kind}.union(*(tree(below) for below in kind.__subclasses__()))


def is_of_service_alone(kind: type[errors.FipError]) -> bool:
    """Whether no command ends with it."""
    return kind.__module__ in (service.errors.__name__, records.__name__) and not issubclass(kind, errors.ModelError)


def of_connections() -> Iterator[tuple[str, HTTPStatus]]:
    """Code and status of what service/protocol.py answers before there is a request that an error could be raised in."""
    for call in ast.walk(ast.parse((ROOT / "service/protocol.py").read_text())):
        match call:
            case ast.Call(args=[ast.Attribute(value=ast.Name(id="HTTPStatus"), attr=status), ast.Constant(value=str(code)), *_]):
                yield code, HTTPStatus[status]


def test_every_code_stands_in_the_readme_with_its_status_and_exit_code() -> None:
    stated: dict[str, tuple[str, str]] = {}
    for codes, status, code in ROW.findall((ROOT / "README.md").read_text()):
        stated |= dict.fromkeys(re.findall(r"`([a-z_]+)`", codes), (status, code))
    expected: dict[str, tuple[str, str]] = {}
    assert {Busy, Unexpected, records.JobFailure} <= tree(errors.FipError)  # those outside of errors.py are there, as they are imported
    for kind in tree(errors.FipError) - FAMILIES - {Unexpected}:  # of one file in a folder's journal: no answer, no exit code
        status = "" if issubclass(kind, errors.TrainingError) else str(int(problems.status_of(kind)))
        code = "" if is_of_service_alone(kind) else str(USAGE if kind is errors.BadOption else exit_code(kind("x")))
        expected[kind.code] = (status, code)
    found = {code: (str(int(status)), "") for code, status in of_connections()}
    assert {"bad_request", "slow_request", "too_many_connections"} <= set(found)
    assert stated == expected | found
