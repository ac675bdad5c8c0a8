"""What became of the files of a folder: counted as `fip predict` goes, and told at its end."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from models.commands.predict_journal import Done
from models.commands.predict_rows import Answered, Row, shown
from models.errors import FipError

MOST_CLASSES, MOST_FAILURES, MOST_NAMED = 10, 20, 5


@dataclass
class Report:
    """points: of the files labelled now, in `seconds`; counts: of each class, in these and in the files that had their answer already.

    unit: what is counted, points or, of whole files that get a class, files. doubtful: the first of the files passed over that have the
    ending of clouds, num_doubtful how many there are.
    """

    unit: str = "points"
    labelled: int = 0
    skipped: int = 0
    failed: int = 0
    passed_over: int = 0
    num_doubtful: int = 0
    doubtful: list[str] = field(default_factory=list)
    points: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Row] = field(default_factory=list)
    _start: float = field(default_factory=time.monotonic)

    def add_answer(self, answered: Answered) -> None:
        self.labelled += 1
        self.points += answered.points
        self.counts.update(answered.counts)

    def add_skipped(self, done: Done) -> None:
        self.skipped += 1
        self.counts.update(done.classes)

    def add_failure(self, name: str, error: FipError) -> None:
        self.failed += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures.append({"file": name, "code": error.code, "detail": error.detail, "where": error.where})

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    @property
    def points_per_second(self) -> float:
        return self.points / max(self.seconds, 1e-3)

    def row(self) -> Row:
        """One object, as the last line of JSON has it."""
        total = self.counts.total()
        classes = [{"name": name, self.unit: count, "share": count / total} for name, count in self.counts.most_common()]
        said: Row = {name: getattr(self, name) for name in ("labelled", "skipped", "failed", "passed_over", "points")}
        said |= {"seconds": round(self.seconds, 3), "points_per_second": round(self.points_per_second)}
        return {"summary": said | {"classes": classes, "failures": self.failures, "passed_over_texts": self.doubtful}}

    def table(self) -> str:
        """The same for a reader: the first classes, and the first files that failed."""
        seconds, rate = f"{self.seconds:,.1f}", f"{self.points_per_second:,.0f}"
        files = [
            ("files labelled", self.labelled),
            ("already there", self.skipped),
            ("failed", self.failed),
            ("passed over", self.passed_over),
        ]
        rows = [
            *((name, f"{count:,}") for name, count in [*files, ("points labelled now" if self.skipped else "points", self.points)]),
            ("seconds", seconds),
            ("points per second", rate),
        ]
        parts = [aligned(rows)]
        if self.counts:
            parts.append(self._classes())
        if self.num_doubtful:
            parts.append(self._doubtful())
        if self.failed:
            parts.append(self._failures())
        return "\n\n".join(parts)

    def _classes(self) -> str:
        total = self.counts.total()
        best = self.counts.most_common(MOST_CLASSES)
        head = "class (all files)" if self.skipped else "class"  # the points above are those of this run
        rows = [(head, self.unit, "share"), *((name, f"{count:,}", f"{100 * count / total:.1f} %") for name, count in best)]
        return aligned(rows) + and_more(len(self.counts) - len(best), "classes")

    def _doubtful(self) -> str:
        names = self.doubtful[:MOST_NAMED]
        lines = ["passed over, because they are no rows of numbers:", *map(shown, names)]
        return "\n".join(lines) + and_more(self.num_doubtful - len(names), "files")

    def _failures(self) -> str:
        lines = [f"{shown(str(each['file']))}: [{each['code']}] {shown(str(each['detail']))}" for each in self.failures]
        return "\n".join(["failed:", *lines]) + and_more(self.failed - len(lines), "files")


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns: the first to the left, the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def and_more(count: int, what: str) -> str:
    """what: the plural of what there are more of."""
    one = {"classes": "class", "files": "file"}
    return f"\nand {count:,} more {one[what] if count == 1 else what}" if count > 0 else ""
