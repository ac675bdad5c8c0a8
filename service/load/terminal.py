"""A run on the terminal: how far it is, Ctrl-C, and the table at the end. Plain lines where there is no terminal."""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from service.load.client import Progress, run_load
from service.load.plan import LoadPlan
from service.load.records import LoadResult
from service.load.summary import Summary
from service.load.tables import Section, sections

REFRESH = 2  # a second: drawing costs the processor that the service may need
PLAIN_S = 5.0  # between lines of progress where there is no terminal


def run_with_progress(plan: LoadPlan) -> LoadResult:
    """Carry out a plan; Ctrl-C ends it early, a second one at once."""
    with _progress(plan) as show:
        return asyncio.run(_run(plan, show))


async def _run(plan: LoadPlan, show: Callable[[Progress], None]) -> LoadResult:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        stop.set()

    loop.add_signal_handler(signal.SIGINT, end)
    return await run_load(plan, show, stop=stop)


@contextmanager
def _progress(plan: LoadPlan) -> Iterator[Callable[[Progress], None]]:
    """Shows on stderr."""
    if not sys.stderr.isatty():
        yield _plain_progress()
        return
    columns = (BarColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), transient=True, refresh_per_second=REFRESH) as bar:
        task = bar.add_task("starting", total=plan.duration_s)
        yield lambda now: bar.update(task, completed=min(now.elapsed_s, plan.duration_s), description=progress_line(now))


def _plain_progress() -> Callable[[Progress], None]:
    shown = 0.0

    def show(now: Progress) -> None:
        nonlocal shown
        if now.elapsed_s - shown >= PLAIN_S:
            shown = now.elapsed_s
            print(progress_line(now), file=sys.stderr, flush=True)

    return show


def progress_line(now: Progress) -> str:
    answers = ", ".join(f"{count} × {status or 'no answer'}" for status, count in sorted(now.statuses.items()))
    return f"{now.elapsed_s:.0f} of {now.duration_s:g} s: {now.sent} sent, {now.in_flight} in flight; {answers or 'no answers yet'}"


def report(summary: Summary) -> None:
    """The result on stdout."""
    console = Console()
    for section in sections(summary):
        if console.is_terminal:
            console.print(_table(section))
        else:
            print("\n".join(section.lines()))


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=bool(section.columns))
    for index, column in enumerate(section.columns or [""] * len(section.rows[0])):
        table.add_column(column, justify="right" if index and section.columns else "left")
    for row in section.rows:
        table.add_row(*row)
    return table
