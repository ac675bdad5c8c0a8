"""docs/serving.md and its plots, from what was recorded."""

import os
from collections.abc import Sequence
from pathlib import Path

from tests.bench.report import ROOT, machine
from tests.bench.service import plots
from tests.bench.service.records import Record
from tests.bench.service.rows import Row

PAGE = ROOT / "docs" / "serving.md"
ABOUT = """# The service under load and under fire

Every figure here was measured by `make bench-service` on the machine below: `fip serve` with default settings and the bundled models
in processes of its own, clients in another process on the same machine; under overload it stands back behind them (`nice`). The way of a
cloud to the worker and back counts as `forward`. A row that does not hold says so. What each row means stands
in the module of its group, tests/bench/service/GROUP.py.
"""


def write(records: Sequence[Record], page: Path = PAGE) -> Path:
    """The page; its path."""
    lines = [ABOUT, "| row | value | bar | |", "|---|---|---|---|"]
    lines += [table_line(row) for record in records for row in record.rows]
    lines += [
        "",
        "## When and of what",
        "",
        "| group | command | commit | began (UTC) | load average before | seconds |",
        "|---|---|---|---|---|---|",
    ]
    lines += [when_line(record) for record in records]
    lines += ["", machine(), ""]
    for name, caption in plots.draw(page.parent / page.stem, [record.group for record in records]).items():
        lines += [f"![{caption}]({page.stem}/{name})", "", caption, ""]
    lines += ["## Details", ""]
    for record in records:
        details = [line for row in record.rows for line in detail_lines(row)]
        if details:
            lines += [f"### {record.group}", "", *details, ""]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return page


def table_line(row: Row) -> str:
    verdict = "" if row["bar"] is None else "holds" if row["holds"] else "**does not hold**"
    return f"| `{row['name']}` | {row['value']} {row['unit']} | {row['bar'] or '–'} | {verdict} |"


def when_line(record: Record) -> str:
    load = " ".join(f"{each:g}" for each in record.load)
    commit = record.commit + (f" and changes to {', '.join(record.changed)}" if record.changed else "")
    return (
        f'| {record.group} | `make bench-service ARGS="--rows {record.group}"` | {commit} | {record.began} | {load} | {record.seconds:g} |'
    )


def detail_lines(row: Row) -> list[str]:
    rest = {name: value for name, value in row.items() if name not in ("name", "value", "unit", "bar", "holds")}
    if not rest:
        return []
    told = "; ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in rest.items())
    return [f"- `{row['name']}`: {told}"]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(each) for each in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value).replace(str(ROOT) + os.sep, "")
