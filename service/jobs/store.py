"""The rows of jobs in SQLite, on the disk before anybody is told of them. A state changes only from the one that it is expected in."""

import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from models.errors import BadOption
from service.errors import Overloaded, SpoolFull
from service.jobs.files import Name
from service.jobs.records import Asked, Held, Job, Result, State, Totals
from service.schemas import JobError

VERSION = 1  # of the tables
SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    key TEXT,
    state TEXT NOT NULL,
    created_s REAL NOT NULL,
    started_s REAL,
    finished_s REAL,
    runs INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL,
    asked TEXT NOT NULL,
    result TEXT,
    error TEXT
) STRICT;
CREATE UNIQUE INDEX jobs_key ON jobs (owner, key) WHERE key IS NOT NULL;
CREATE INDEX jobs_owner ON jobs (owner, number);
CREATE INDEX jobs_state ON jobs (state, number, bytes);
CREATE INDEX jobs_finished ON jobs (finished_s);
"""
COLUMNS = "number, id, owner, key, state, created_s, started_s, finished_s, runs, bytes, asked, result, error"
Row: TypeAlias = tuple[
    int, str, str, str | None, State, float, float | None, float | None, int, int, str, str | None, str | None
]  # as the columns, whose types the table is STRICT about
BEYOND = """number IN (
    SELECT number FROM (
        SELECT number, row_number() OVER (PARTITION BY owner ORDER BY number DESC) AS place FROM jobs WHERE finished_s IS NOT NULL
    ) WHERE place > ?
)"""  # the oldest of an owner that have ended
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
INCREMENTAL = 2
OPENING_S = 5.0  # for another program, a backup say, to let the file go
BUSY_S = 0.1  # the same later: all who look at jobs wait with the one who changes something
RETRY_AFTER_S = 5.0


class Store:
    """Belongs to the one thread that opened it."""

    def __init__(self, path: Path) -> None:
        """Raises: BadOption (the file cannot be used)."""
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=OPENING_S)
            self._shrinks()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            [version] = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        except sqlite3.Error as error:
            raise BadOption(f"{path} cannot be used: {error}", where="jobs_dir") from error
        self._db.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_S)}")
        if version not in (0, VERSION):
            raise BadOption(f"{path} was written by another version of fip-server: its tables are {version}", where="jobs_dir")

    def _shrinks(self) -> None:
        """Have the file give back what is removed from it; one that was made without that is written anew, if there is room."""
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if self._db.execute("PRAGMA auto_vacuum").fetchone() != (INCREMENTAL,):
            with suppress(sqlite3.OperationalError):
                self._db.execute("VACUUM")

    def close(self) -> None:
        self._db.close()

    def recover(self, most_runs: int, error: JobError, now_s: float) -> list[str]:
        """Put back what was running when the process died; of what it died over so many times, the ids, now failed with this error."""
        with self._transaction():
            rows = self._db.execute(
                "UPDATE jobs SET state = 'failed', finished_s = ?, bytes = 0, error = ? WHERE state = 'running' AND runs >= ? RETURNING id",
                (now_s, error.model_dump_json(), most_runs),
            ).fetchall()
            self._db.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")
        return [each for (each,) in rows]

    def files(self) -> dict[str, Name]:
        """What every job that has a file has."""
        rows = self._db.execute("SELECT id, state FROM jobs WHERE state IN ('queued', 'running', 'done')")
        return {each: "result" if state == "done" else "input" for each, state in rows}

    def insert(self, job: str, owner: str, key: str | None, asked: Asked, now_s: float) -> Job:
        """A new job, whose file is kept. Raises: SpoolFull, Overloaded."""
        with self._transaction():
            row = self._db.execute(
                "INSERT INTO jobs (id, owner, key, state, created_s, bytes, asked) VALUES (?, ?, ?, 'queued', ?, ?, ?) "
                f"RETURNING {COLUMNS}",
                (job, owner, key, now_s, asked.bytes, asked.model_dump_json()),
            ).fetchone()
        return _job(row)

    def get(self, job: str) -> Job | None:
        return self._one("WHERE id = ?", job)

    def by_key(self, owner: str, key: str) -> Job | None:
        return self._one("WHERE owner = ? AND key = ?", owner, key)

    def newest(self, owner: str, limit: int) -> list[tuple[Job, int]]:
        """The newest jobs of an owner, each with how many come before it in line."""
        rows = self._db.execute(f"SELECT {COLUMNS} FROM jobs WHERE owner = ? ORDER BY number DESC LIMIT ?", (owner, limit))
        jobs = [_job(row) for row in rows]
        line = [number for (number,) in self._db.execute("SELECT number FROM jobs WHERE state IN ('queued', 'running') ORDER BY number")]
        return [(job, bisect_left(line, job.number)) for job in jobs]

    def before(self, job: Job) -> int:
        """How many come before it in line, the running one among them."""
        counted = "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running') AND number < ?"
        return int(self._db.execute(counted, (job.number,)).fetchone()[0])

    def totals(self) -> Totals:
        rows = self._db.execute("SELECT state, count(*), sum(bytes) FROM jobs GROUP BY state").fetchall()
        active = "sum(state != 'done')"
        held = f"SELECT owner, {active}, sum(bytes) FROM jobs WHERE state IN ('queued', 'running', 'done') GROUP BY owner"
        owners = {owner: Held(count, size) for owner, count, size in self._db.execute(held)}
        return Totals(Counter({state: count for state, count, _ in rows}), sum(size for _, _, size in rows), owners)

    def waiting(self) -> list[tuple[str, str]]:
        """Those that are queued, the oldest first, each with its owner."""
        return self._db.execute("SELECT id, owner FROM jobs WHERE state = 'queued' ORDER BY number").fetchall()

    def claim(self, job: str, now_s: float) -> Job | None:
        """It begins to run; None if it is not queued. Raises: SpoolFull, Overloaded."""
        return self._changed("SET state = 'running', started_s = ?, runs = runs + 1 WHERE id = ? AND state = 'queued'", now_s, job)

    def put_off(self, job: str) -> Job | None:
        """It was not its fault that its run ended. Raises: SpoolFull, Overloaded."""
        return self._changed("SET state = 'queued', started_s = NULL, runs = runs - 1 WHERE id = ? AND state = 'running'", job)

    def done(self, job: str, result: Result, now_s: float) -> Job | None:
        """None if it was cancelled meanwhile. Raises: SpoolFull, Overloaded."""
        return self._changed(
            "SET state = 'done', finished_s = ?, bytes = ?, result = ? WHERE id = ? AND state = 'running'",
            *(now_s, result.bytes, result.model_dump_json(), job),
        )

    def failed(self, job: str, error: JobError, now_s: float) -> Job | None:
        """None if it was cancelled meanwhile. Raises: SpoolFull, Overloaded."""
        return self._changed(
            "SET state = 'failed', finished_s = ?, bytes = 0, error = ? WHERE id = ? AND state = 'running'",
            *(now_s, error.model_dump_json(), job),
        )

    def cancelled(self, job: str, now_s: float) -> Job | None:
        """None if it had ended. Raises: SpoolFull, Overloaded."""
        return self._changed(
            "SET state = 'cancelled', finished_s = ?, bytes = 0 WHERE id = ? AND state IN ('queued', 'running')", now_s, job
        )

    def expired(self, job: str) -> Job | None:
        """None unless it was done. Raises: SpoolFull, Overloaded."""
        return self._changed("SET state = 'expired', bytes = 0 WHERE id = ? AND state = 'done'", job)

    def due(self, done_before_s: float, most: int) -> list[str]:
        """Those whose result has been kept for its time, or is older than so many jobs of its owner that have ended."""
        rows = self._db.execute(f"SELECT id FROM jobs WHERE state = 'done' AND (finished_s <= ? OR {BEYOND})", (done_before_s, most))
        return [each for (each,) in rows]

    def forget(self, finished_before_s: float, most: int) -> int:
        """Remove the rows of jobs that have no files any more, all old ones and all older than so many of their owner; how many.

        The file shrinks with them. Raises: SpoolFull, Overloaded.
        """
        gone = f"DELETE FROM jobs WHERE state IN ('failed', 'cancelled', 'expired') AND (finished_s <= ? OR {BEYOND})"
        with self._transaction():
            forgotten = self._db.execute(gone, (finished_before_s, most)).rowcount
        self._db.executescript("PRAGMA incremental_vacuum")  # execute() would free one page
        return forgotten

    def _one(self, where: str, *values: str) -> Job | None:
        row = self._db.execute(f"SELECT {COLUMNS} FROM jobs {where}", values).fetchone()
        return None if row is None else _job(row)

    def _changed(self, change: str, *values: str | float) -> Job | None:
        """The row as it is now, None if there is none of that state."""
        with self._transaction():
            row = self._db.execute(f"UPDATE jobs {change} RETURNING {COLUMNS}", values).fetchone()
        return None if row is None else _job(row)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """On the disk when it ends, undone if it raises.

        Raises: SpoolFull (no room, or the file is damaged or may not be written), Overloaded (another program holds it).
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):  # mistakes of ours
            raise
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in LOCKED:
                raise Overloaded(f"another program holds the file of jobs: {error}", retry_after_s=RETRY_AFTER_S, where="jobs") from error
            raise SpoolFull(f"the job cannot be kept: {error}", where="jobs") from error


def _job(row: Row) -> Job:
    number, job, owner, key, state, created_s, started_s, finished_s, runs, size, asked, result, error = row
    return Job(
        *(number, job, owner, key, state, created_s, started_s, finished_s, runs, size),
        asked=Asked.model_validate_json(asked),
        result=None if result is None else Result.model_validate_json(result),
        error=None if error is None else JobError.model_validate_json(error),
    )
