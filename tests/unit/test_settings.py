"""What settings refuse, and which variables of the environment are taken for mistyped ones."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import LONGEST_S, OTHERS, Settings, mistyped

ROOT = Path(__file__).parents[2]
READ = re.compile(r"environ(\.get\(|\[).FIP_|\$\{FIP_|^ENV .*FIP_|envvar=")


def timed() -> Iterator[str]:
    """Names of settings that may be fractions: all are times."""
    for name, schema in Settings.model_json_schema()["properties"].items():
        if any(choice.get("type") == "number" for choice in schema.get("anyOf", [schema])):
            yield name


def test_times_are_found() -> None:
    assert {"forward_seconds", "request_seconds", "lame_duck_seconds"} <= set(timed())


@pytest.mark.parametrize("value", ["inf", "nan", "-1", str(LONGEST_S + 1)])
@pytest.mark.parametrize("name", [*timed(), "drain_seconds"])
def test_times_are_finite_and_end_within_a_day(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"FIP_{name.upper()}", value)
    with pytest.raises(ValidationError) as error:
        Settings()
    [first, *_] = error.value.errors()
    assert first["loc"][0] == name


@pytest.mark.parametrize(("given", "accepted"), [("1", False), (str((768 << 20) - 1), False), (str(768 << 20), True), ("", True)])
def test_a_worker_has_the_memory_to_start(given: str, accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIP_WORKER_MEMORY_BYTES", given)
    if accepted:
        assert Settings().worker_memory_bytes == (int(given) if given else None)
    else:
        with pytest.raises(ValidationError, match="worker_memory_bytes"):
            Settings()


def test_mistyped_names_are_told_of_with_the_nearest() -> None:
    told = mistyped(
        ["FIP_MAX_WAITNG", "fip_prot", "FIP_MAX_WAITING_BYTE", "FIP_DRAIN_SECOND", "FIP_MAX_WAITING", "fip_port", "PATH", "FIP_X"]
    )
    assert told == [
        ("FIP_DRAIN_SECOND", "FIP_DRAIN_SECONDS"),
        ("FIP_MAX_WAITING_BYTE", "FIP_MAX_WAITING_BYTES"),
        ("FIP_MAX_WAITNG", "FIP_MAX_WAITING"),
        ("fip_prot", "FIP_PORT"),
    ]


def test_no_variable_of_ours_is_taken_for_a_mistyped_one() -> None:
    files = [path for folder in ("models", "service", "training", "tests") for path in (ROOT / folder).rglob("*.py")]
    files += [ROOT / name for name in ("docker-compose.yml", "Dockerfile", "Makefile")]
    lines = (line for path in files for line in path.read_text().splitlines() if READ.search(line))
    ours = {name for line in lines for name in re.findall(r"FIP_[A-Z_]+[A-Z]", line)}
    assert {"FIP_DATA", "FIP_CACHE", "FIP_TRAIN_DATA", "FIP_PORT"} <= ours
    assert mistyped(ours) == []
    assert set(OTHERS) <= ours
    assert not {name.removeprefix("FIP_").lower() for name in OTHERS} & set(Settings.model_fields)
