"""What an analysis is asked for, and the clouds that this means."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.analyse.subject import Subject, balanced
from training.datasets import Clouds


@dataclass(frozen=True)
class Asked:
    """What whoever runs an analysis says. limit: clouds of each split, evenly over the classes; None = all."""

    data: Path
    kind: str | None = None
    split: str = "test"
    limit: int | None = None
    seed: int = 0

    @property
    def options(self) -> tuple[str, ...]:
        said = {"--kind": self.kind, "--split": None if self.split == "test" else self.split, "--limit": self.limit}
        return (*(f"{name} {value}" for name, value in said.items() if value is not None), f"--seed {self.seed}")


@dataclass(frozen=True)
class Shown:
    """Clouds that a net was shown. asked: the limit, None for all; of: how many there were; notes: what must be said of them."""

    split: str
    clouds: Clouds
    of: int
    asked: int | None
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, object]:
        counts = np.bincount(self.clouds.targets, minlength=len(self.clouds.names))
        per_class = {name: int(count) for name, count in zip(self.clouds.names, counts, strict=True)}
        facts = {"split": self.split, "clouds": len(self.clouds), "of": self.of, "limit": self.asked, "sha256": self.clouds.digest}
        return {**facts, "clouds_a_class": per_class, "notes": list(self.notes)}

    def __str__(self) -> str:
        number = f"all {self.of:,}" if len(self.clouds) == self.of else f"{len(self.clouds):,} of {self.of:,}, evenly over the classes,"
        return f"{number} {self.split} clouds (sha256 `{self.clouds.digest[:16]}`)"


def show(subject: Subject, asked: Asked, split: str | None = None) -> Shown:
    """The clouds that were asked for. Raises: BadDataset."""
    clouds, note = subject.clouds(asked.data, split or asked.split, asked.kind)
    chosen: Clouds = balanced(clouds, asked.limit, asked.seed)
    return Shown(split or asked.split, chosen, len(clouds), asked.limit, (note,) if note else ())


def command(what: str, subject: Subject, asked: Asked, *options: str) -> str:
    """The command line that asks for this, with names for folders."""
    data = "MODELNET40_HDF5" if (asked.data / "shape_names.txt").is_file() else "FOLDER"
    up = [f"--up {subject.up}"] if subject.up else []
    return " ".join(["fip analyse", what, subject.manifest.name, f"--data {data}", *up, *options, *asked.options])
