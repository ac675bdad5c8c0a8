"""What was labelled of a folder so far: a line of JSON a file, by which `fip predict --resume` goes on after any end.

The first line says which model and which settings the answers are of. A file has a line when it is begun, which makes the answer ours
to replace, and one when its answer is there, whole. The last line may be torn: then it was not written.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from models.durable import sync
from models.errors import FileError

NAME = ".fip-predict.jsonl"
VERSION = 1
Said = Mapping[str, object]


@dataclass(frozen=True)
class Head:
    """model: name, version and digest; settings: whatever else decides what answers say; replaces: answers of before may be replaced."""

    model: Said
    settings: Said
    replaces: bool = False

    def difference(self, other: "Head") -> str | None:
        """What of another run is not as here, in words; None where it is the same."""
        if self.model["digest"] != other.model["digest"]:
            return f"the model was {_called(other.model)}, and is now {_called(self.model)}"
        names = [name for name in self.settings if self.settings[name] != other.settings.get(name)]
        return "; ".join(f"{name} was {_told(other.settings.get(name))}, and is now {_told(self.settings[name])}" for name in names) or None


@dataclass(frozen=True, slots=True)
class Done:
    """A file that was labelled: size (bytes) and mtime_ns of the file, out, the answer's name beside the journal, and its size."""

    size: int
    mtime_ns: int
    out: str
    out_size: int
    points: int
    classes: dict[str, int]


@dataclass(frozen=True)
class Journal:
    """What was read of one. files: the last line of each, by its name in the folder, empty where it was only begun; as bytes a hundred
    thousand take 55 MB, as Done 190. end: where the next line goes, in bytes.
    """

    head: Head | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    end: int = 0

    def done(self, name: str) -> Done | None:
        """None of a file that was only begun, or not even that."""
        line = self.files.get(name)
        return _understood(line)[1] if line else None


class Writer:
    """Appends to a journal. What it says is on the disk before an answer of a file gets its name."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def begin(self, name: str) -> None:
        """Raises: OSError."""
        self._line({"file": name, "state": "begun"})
        sync(self._file)

    def done(self, name: str, done: Done) -> None:
        """Raises: OSError."""
        self._line({"file": name, "state": "done", **asdict(done)})

    def head(self, head: Head) -> None:
        """Raises: OSError."""
        self._line({"fip_predict": VERSION, **asdict(head)})
        sync(self._file)

    def _line(self, said: Said) -> None:
        self._file.write(json.dumps(said).encode() + b"\n")
        self._file.flush()


def read_journal(path: Path) -> Journal:
    """An empty one, where there is none. Raises: FileError (cannot be read, or is no journal of this version)."""
    try:
        with path.open("rb") as file:
            return _parsed(path, file)
    except FileNotFoundError:
        return Journal()
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _parsed(path: Path, file: BinaryIO) -> Journal:
    head: Head | None = None
    files: dict[str, bytes] = {}
    end = 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            break
        try:
            if head is None:
                head = _understood_head(line)
            else:
                name, done = _understood(line)
                files[name] = line if done else b""
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError("this line of the journal cannot be understood; --force starts over", where=f"{path}:{number}") from error
        end += len(line)
    return Journal(head, files, end)


def _understood(line: bytes) -> tuple[str, Done | None]:
    """The name of a file, and what is said of it. Raises: ValueError, KeyError, TypeError, AttributeError."""
    said = json.loads(line)
    name: str = said.pop("file")
    state = said.pop("state")
    return name, Done(**said) if state == "done" else None


def _understood_head(line: bytes) -> Head:
    """Raises: as `_understood`."""
    said = json.loads(line)
    if said.pop("fip_predict") != VERSION:
        raise ValueError("another version")
    return Head(**said)


@contextmanager
def appending(path: Path, journal: Journal, head: Head) -> Iterator[Writer]:
    """Go on behind what was read of a journal; one of which nothing was, begins anew. Whoever does holds its lock. Raises: OSError."""
    with path.open("r+b") as file:
        file.truncate(journal.end)
        file.seek(journal.end)
        writer = Writer(file)
        if not journal.end:
            writer.head(head)
        yield writer


def _called(model: Said) -> str:
    version = "" if model["version"] is None else f":{model['version']}"
    return f"{model['name']}{version} (sha256 {str(model['digest'])[:12]}…)"


def _told(value: object) -> str:
    return "not said" if value is None else str(value)
