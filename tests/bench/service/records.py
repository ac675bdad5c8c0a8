"""What was measured, a file a group, kept as soon as it is there: docs/serving/records/GROUP.json; all rows in build/bench/service.json."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.report import ROOT
from tests.bench.service.rows import Row

FOLDER = ROOT / "docs" / "serving" / "records"  # committed: a page of all groups can be written anywhere
UNION = ROOT / "build" / "bench" / "service.json"


@dataclass(frozen=True)
class Record:
    """One group. changed: files of the service that differed from the commit; load: averages over 1, 5 and 15 minutes before it began."""

    group: str
    commit: str
    changed: list[str]
    began: str
    load: list[float]
    seconds: float
    rows: list[Row]


def measure(group: str, rows: Callable[[], list[Row]]) -> Record:
    """Run a group and keep its record."""
    began, load, clock = datetime.now(UTC), os.getloadavg(), time.monotonic()
    found = rows()
    seconds = time.monotonic() - clock
    record = Record(
        group, commit(group), changed(), began.isoformat(timespec="seconds"), [round(x, 2) for x in load], round(seconds, 1), found
    )
    keep(FOLDER / f"{group}.json", asdict(record))
    return record


def recorded(group: str) -> Record | None:
    """None of a group that was never measured."""
    path = FOLDER / f"{group}.json"
    return Record(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def is_done(group: str) -> bool:
    """Whether it was measured as the code is now."""
    record = recorded(group)
    return record is not None and (record.commit, record.changed) == (commit(group), []) and not changed()


def keep(path: Path, content: object) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def keep_series(group: str, series: object) -> None:
    """What the plots of a group are drawn from."""
    keep(FOLDER / f"{group}-series.json", series)


def series(group: str) -> dict[str, list[list[float]]]:
    """Empty where there is none."""
    path = FOLDER / f"{group}-series.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def commit(group: str) -> str:
    """The newest commit that touched what is measured or how; others change no figure."""
    return _git("log", "-1", "--format=%h", "--abbrev=12", "--", "models", "service", f"tests/bench/service/{group}.py") or "unknown"


def changed() -> list[str]:
    """Files of the program that are not as committed."""
    return [line[3:] for line in _git("status", "--porcelain", "--", "models", "service").splitlines()]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.rstrip()
