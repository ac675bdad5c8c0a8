"""What is on disk of finished trials, and whether it is of the same recipe, weights and data."""

from pathlib import Path

from models.errors import BadOption
from training.reproduce.trial import Inputs, Record, Trial, Up, digest_of, kind_of, read_record, weights_of

UPS: tuple[Up, ...] = ("z", "y")


class Records:
    """Read once a trial. inputs: what new trials are made of; None for pages, which are made of records alone."""

    def __init__(self, folder: Path, inputs: Inputs | None = None) -> None:
        self._folder = folder
        self._inputs = inputs
        self._found: dict[str, Record] = {}
        self._data: dict[str, tuple[str | None, str]] = {}

    def known(self, trial: Trial) -> Record | None:
        """None where there is none, or one of another recipe.

        Raises: BadOption (of other data, up axis or weights than others, or than these).
        """
        if trial.name not in self._found:
            found = read_record(self._folder, trial)
            up = next((up for up in UPS if found and found.inputs["recipe"] == digest_of(trial, up)), None)
            if found is None or up is None:
                return None
            self._check(trial, found)
            if self._inputs and digest_of(trial, self._inputs.up) != digest_of(trial, up):
                raise BadOption(f"the records here are of files whose {up} is up; choose another --out", where=self._place(trial))
            self._found[trial.name] = found
        return self._found[trial.name]

    def trainable(self, trial: Trial) -> bool:
        """Whether the 2D weights of its network are here; without them no arm of it is trained."""
        return self._inputs is not None and kind_of(trial.base) == self._inputs.kind and trial.network in self._inputs.weights

    def _check(self, trial: Trial, found: Record) -> None:
        kind = kind_of(trial.base)
        mine = self._inputs.of(trial) if self._inputs and self._inputs.kind == kind else {}
        for what in ("train", "test", "weights"):
            place = f"{what} of {kind}" if what != "weights" else f"2D weights of {weights_of(trial)}"
            digest = found.inputs[what]
            expected, where = self._data.setdefault(place, (digest, trial.name)) if digest else (None, "")
            if digest != expected:
                raise BadOption(f"the record is of another {place} than {where}", where=self._place(trial))
            if digest and mine.get(what) and mine[what] != digest:
                raise BadOption(
                    f"the records here are of another {place} (sha256 {digest[:12]}…) than yours; choose another --out",
                    where=self._place(trial),
                )

    def _place(self, trial: Trial) -> str:
        return str(self._folder / f"{trial.name}.json")
