"""The service under load and under fire: every row of the table in docs/serving.md, which this writes.

    FIP_DATA=... python -m tests.bench.bench_service [--rows overload,cancel] [--again] [--report]

A group of rows is recorded when it is finished; groups that were recorded of the same code are not measured again.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module

from tests.bench.service import records
from tests.bench.service.report import write
from tests.bench.service.rows import Row

# In this order; each is a module of tests.bench.service with `rows()`.
GROUPS = (
    *("ready", "overhead", "cancel", "worker_kill", "slow", "schema", "throughput", "overload", "swap", "residents"),
    *("jobs", "large", "soak"),
)
FULL_SOAK = 100_000


def main() -> int:
    arguments = parse()
    failed = [] if arguments.report else run(arguments)
    found = [record for group in GROUPS if (record := records.recorded(group))]
    records.keep(records.UNION, [row for record in found for row in record.rows])
    sys.stdout.write(f"written: {write(found)} and {records.UNION}\n")
    missing = sorted(set(GROUPS) - {record.group for record in found})
    if missing:
        sys.stdout.write(f"never measured: {', '.join(missing)}\n")
    return 1 if failed or not all(row["holds"] for record in found for row in record.rows) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_service", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=groups, default=GROUPS, metavar="GROUP,...", help=", ".join(GROUPS))
    parser.add_argument("--again", action="store_true", help="also what was recorded of the same code")
    parser.add_argument("--report", action="store_true", help="measure nothing; write the page from what was recorded")
    parser.add_argument("--requests", type=int, default=FULL_SOAK, help="of the soak; with fewer than 100,000 it is shown, not recorded")
    return parser.parse_args()


def groups(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(GROUPS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return names


def run(arguments: argparse.Namespace) -> list[str]:
    """Measure; the groups that ended in an error."""
    failed = []
    for group in arguments.rows:
        if not arguments.again and records.is_done(group):
            sys.stdout.write(f"{group}: recorded already\n")
            continue
        try:
            rows: Callable[[], list[Row]] = import_module(f"tests.bench.service.{group}").rows
            if group == "soak" and arguments.requests != FULL_SOAK:
                show(rows(requests=arguments.requests))  # type: ignore[call-arg]
                continue
            show(records.measure(group, partial(rows)).rows)
        except Exception:
            failed.append(group)
            sys.stdout.write(f"{group}: not measured\n{traceback.format_exc()}\n")
    return failed


def show(rows: list[Row]) -> None:
    for row in rows:
        verdict = "" if row["bar"] is None else "holds" if row["holds"] else "DOES NOT HOLD"
        sys.stdout.write(f"{row['name']:<42} {row['value']!s:>10} {row['unit']:<5} {row['bar'] or '':<9} {verdict}\n")
        rest = {name: value for name, value in row.items() if name not in ("name", "value", "unit", "bar", "holds")}
        if rest:
            sys.stdout.write(f"    {json.dumps(rest)[:2000]}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
