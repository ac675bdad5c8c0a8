"""README's table of codes is the table of the code."""

import ast
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from models import errors
from models.cli import exit_code
from service import problems
from service.jobs import records

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (`[^|]+) \| (\d*) ?\| (\d*) ?\|$", re.MULTILINE)
SERVICE_ONLY = (
    problems.BodyTooLarge,
    problems.BadMultipart,
    problems.UnsupportedEncoding,
    problems.SpoolFull,
    problems.Overloaded,
    problems.RateLimited,
    problems.TooManyJobs,
    problems.Unauthorized,
    problems.Forbidden,
    problems.ForeignOrigin,
    problems.ForeignHost,
    problems.SlowBody,
    problems.DeadlineExceeded,
    problems.OutOfMemory,
    problems.WorkerFailed,
    problems.NotReady,
    problems.BadInference,
    problems.BadTensor,
    problems.UnsupportedExtension,
    problems.AnswerTooLarge,
    problems.UnknownJob,
    problems.NotDone,
    problems.Expired,
    problems.KeyInUse,
    problems.KeyReused,
    problems.TooManyJobs,
    problems.TooManyListeners,
    problems.JobsOff,
    *(records.JobFailure, records.GaveUp, records.InputLost, records.ModelChanged),
)
# Families, never raised themselves.
FAMILIES = {errors.FipError, errors.InputError, errors.CloudError, errors.ModelError, errors.TrainingError}
USAGE = 2


def tree(kind: type[errors.FipError]) -> set[type[errors.FipError]]:
    return {kind}.union(*(tree(below) for below in kind.__subclasses__()))


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
    for kind in tree(errors.FipError) - FAMILIES:
        status = "" if issubclass(kind, errors.TrainingError) else str(int(problems.status_of(kind)))
        code = "" if kind in SERVICE_ONLY else str(USAGE if kind is errors.BadOption else exit_code(kind("x")))
        expected[kind.code] = (status, code)
    found = {code: (str(int(status)), "") for code, status in of_connections()}
    assert {"bad_request", "slow_request", "too_many_connections"} <= set(found)
    assert stated == expected | found
