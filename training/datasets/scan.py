"""One pass over all files of a listing: what each one holds, or why it cannot be used. Nothing of the clouds is kept.

F files. Every file is read as training and the service read it, and brought to the unit sphere once, so that what passes
here does not fail in the middle of an epoch.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset, FileError, FipError, InputError
from models.io import read_cloud
from models.manifest import InputSpec
from models.voxelize import prepare
from training.datasets.listing import Listing
from training.progress import progress

VERSION = 1
REASONS_KEPT = 1000  # with their text; of further unusable files only the code is kept
REASON_CHARS = 300
USABLE = 0
FACTS = np.dtype(
    [
        ("points", "<i8"),
        ("low", "<f8", (3,)),
        ("high", "<f8", (3,)),
        ("radius", "<f8"),
        ("has_rgb", "?"),
        ("has_intensity", "?"),
        ("sha256", "u1", (32,)),
        ("problem", "u1"),
    ]
)
_UNIT_SPHERE = InputSpec(features=(), voxel_size=1.0, normalise="unit_sphere")


@dataclass(frozen=True)
class Scan:
    """What F files hold: facts (F,) of dtype FACTS, of the listing with this digest.

    points; low, high: corners of the bounding box, and radius: of the farthest point about the mean, in file units; has_rgb,
    has_intensity; sha256 of the bytes; all are 0 where a file cannot be used. problem: 0, or 1 + the place in `codes` of the
    error it met; reasons: its text, of the first thousand.
    """

    listing_digest: str
    facts: npt.NDArray[np.void]
    codes: tuple[str, ...]
    reasons: Mapping[int, str]

    @property
    def points(self) -> npt.NDArray[np.int64]:
        """(F,)"""
        return np.asarray(self.facts["points"], np.int64)

    @property
    def extents(self) -> npt.NDArray[np.float64]:
        """(F, 3) sides of the bounding boxes in file units."""
        return np.asarray(self.facts["high"] - self.facts["low"], np.float64)

    @property
    def sha256(self) -> npt.NDArray[np.uint8]:
        """(F, 32)"""
        return np.asarray(self.facts["sha256"], np.uint8)

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """(F,) whether each file can be trained on."""
        return np.asarray(self.facts["problem"] == USABLE, np.bool_)

    def code(self, row: int) -> str:
        """The error code of an unusable file."""
        return self.codes[int(self.facts["problem"][row]) - 1]

    def reason(self, row: int) -> str:
        """What is wrong with an unusable file; its code where the text was not kept."""
        return self.reasons.get(row, self.code(row))

    def save(self, path: Path) -> None:
        """Write to `path`, beside it first. Raises: BadDataset (cannot be written)."""
        words = {"version": VERSION, "listing": self.listing_digest, "codes": self.codes, "reasons": self.reasons}
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                np.savez(file, words=np.frombuffer(json.dumps(words).encode(), np.uint8), facts=self.facts)
            part.replace(path)
        except OSError as error:
            raise BadDataset(f"the scan cannot be kept: {error.strerror}", where=str(path)) from error

    @staticmethod
    def load(path: Path, listing: Listing) -> "Scan | None":
        """A scan that was saved, or None: there is none, it is damaged, or it is of other files than those of `listing`."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                words = json.loads(stored["words"].tobytes())
                if words["version"] != VERSION or words["listing"] != listing.digest:
                    return None
                facts = stored["facts"]
            reasons = {int(row): str(text) for row, text in words["reasons"].items()}
            scan = Scan(words["listing"], facts, tuple(words["codes"]), reasons)
        except (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile):  # what a damaged zip ends in
            return None
        return scan if facts.dtype == FACTS and facts.shape == (len(listing),) else None


def scan_folder(listing: Listing, known: Scan | None = None) -> Scan:
    """Read every file of a listing once. A file that cannot be used is noted, not raised. Ctrl-C stops it at once.

    known: an earlier scan of the listing, of which only the files that could not be used are looked at again.
    """
    facts = np.zeros(len(listing), FACTS) if known is None else np.where(known.usable, known.facts, np.zeros((), FACTS))
    todo = np.arange(len(listing)) if known is None else np.flatnonzero(~known.usable)
    codes: dict[str, int] = {}
    reasons: dict[int, str] = {}
    for row in progress(map(int, todo), "looking at files", len(todo)):
        path = listing.path(row)
        try:
            facts[row] = _look_at(path)
        except (InputError, OSError) as error:
            facts["problem"][row] = 1 + codes.setdefault(error.code if isinstance(error, FipError) else FileError.code, len(codes))
            if len(reasons) < REASONS_KEPT:
                reasons[row] = _reason(error, path)
    return Scan(listing.digest, facts, tuple(codes), reasons)


def _look_at(path: Path) -> tuple[object, ...]:
    """One row of FACTS. Raises: InputError, OSError."""
    cloud = read_cloud(path).checked()
    unit = prepare(cloud, _UNIT_SPHERE)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    low, high = ([float(corner(column)) for column in cloud.xyz.T] for corner in (np.min, np.max))
    column = int(np.argmax(np.subtract(high, low)))
    radius = (high[column] - low[column]) / float(np.ptp(unit.xyz[:, column]))
    return len(cloud), low, high, radius, cloud.rgb is not None, cloud.intensity is not None, np.frombuffer(digest, np.uint8), USABLE


def _reason(error: Exception, path: Path) -> str:
    """One printable line that does not repeat the path."""
    text = error.detail if isinstance(error, FipError) and error.where in (None, str(path)) else str(error)
    return "".join(char if char.isprintable() else " " for char in text)[:REASON_CHARS]
