"""The record of a run: scalars.jsonl for programs, TensorBoard for people, one line an epoch on the terminal."""

import json
import time
from pathlib import Path

import click
from tensorboardX import SummaryWriter

SCALARS = "scalars.jsonl"


class RunLog:
    """Writes scalars of a run directory; opened again, it goes on where it was."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / SCALARS
        torn = path.is_file() and not path.read_bytes().endswith(b"\n")
        self._lines = path.open("a", encoding="utf-8")
        if torn:  # a stop in the middle of a line
            self._lines.write("\n")
        self._board = SummaryWriter(str(run_dir / "tensorboard"))

    def epoch(self, epoch: int, scalars: dict[str, float]) -> None:
        """Record one epoch (1, 2, …) and say it in one line."""
        self._lines.write(json.dumps({"epoch": epoch, "time": round(time.time(), 3), **scalars}) + "\n")
        self._lines.flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, epoch)
        click.echo(f"epoch {epoch}: " + "  ".join(f"{name} {value:.4g}" for name, value in scalars.items()))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._board.close()


def read_scalars(run_dir: Path) -> list[dict[str, float]]:
    """The recorded epochs of a run, oldest first; a repeated epoch (after a resume) counts once, the later one."""
    path = run_dir / SCALARS
    if not path.is_file():
        return []
    rows = [row for line in path.read_text(encoding="utf-8").splitlines() if (row := _row(line)) is not None]
    return [row for _, row in sorted({int(row["epoch"]): row for row in rows}.items())]


def _row(line: str) -> dict[str, float] | None:
    """A recorded epoch, or None for a line that a stop tore."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "epoch" in row else None
