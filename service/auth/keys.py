"""API keys: how one looks, what is kept of it, and whether what somebody presents is one.

A key is `fip_ID_SECRET`: 12 hexadecimal digits that name it in the file and in the log, and 256 random bits that are kept nowhere. At
rest there is only their sha256: a slow hash protects words that people choose, and nobody can try 2**256 of anything.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.durable import locked, write_whole
from models.errors import BadOption

Scope = Literal["infer", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = b"fip_"
ID_BYTES, SECRET_BYTES = 6, 32
ID = slice(len(PREFIX), len(PREFIX) + 2 * ID_BYTES)
SECRET = slice(ID.stop + 1, ID.stop + 1 + 43)  # in base64, without its padding
LARGEST_FILE = 16 << 20
FILE_MODE = 0o600


class BadKeyFile(BadOption):
    """The file of keys cannot be read as such."""

    code = "bad_key_file"


class Key(BaseModel):
    """What is kept of a key. points_per_second: of clouds, None for as many as one likes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    points_per_second: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and self.expires <= now


class KeyFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _ids_differ(self) -> "KeyFile":
        if len({key.id for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same id")
        return self


class Keys:
    """Those in force. `find` takes as long for an unknown id and for what is no key at all as for a wrong secret."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._by_id = {key.id.encode(): (key, bytes.fromhex(key.sha256)) for key in keys}
        self._nobody = (None, secrets.token_bytes(hashlib.sha256().digest_size))

    def __len__(self) -> int:
        return len(self._by_id)

    def has(self, key_id: str, now: datetime) -> bool:
        """Whether there is a key of this id, and it has not expired."""
        key, _ = self._by_id.get(key_id.encode(), self._nobody)
        return key is not None and not key.expired(now)

    def find(self, presented: bytes) -> Key | None:
        """The key that this is, also if it has expired. Of something long only the beginning is looked at, then it is none."""
        key, digest = self._by_id.get(presented[ID], self._nobody)
        right = hmac.compare_digest(hashlib.sha256(presented[SECRET]).digest(), digest)
        whole = b"%s%s_%s" % (PREFIX, presented[ID], presented[SECRET])
        return key if right and presented == whole else None


def new_key(name: str, scopes: Iterable[Scope], points_per_second: float | None, lasts: timedelta | None) -> tuple[str, Key]:
    """A key as its holder presents it, and what is kept of it. Raises: BadOption (a value that cannot be)."""
    key_id, secret, now = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES), datetime.now(UTC).replace(microsecond=0)
    kept = {
        "id": key_id,
        "name": name,
        "sha256": hashlib.sha256(secret.encode()).hexdigest(),
        "scopes": tuple(scopes),
        "points_per_second": points_per_second,
        "created": now,
        "expires": None if lasts is None else now + lasts,
    }
    try:
        return f"{PREFIX.decode()}{key_id}_{secret}", Key.model_validate(kept)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadOption(first["msg"], where=str(first["loc"][0])) from error


def read_keys(path: Path) -> KeyFile:
    """Raises: BadKeyFile, which says where it is damaged."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise BadKeyFile(f"the file of keys cannot be read: {error.strerror}", where=str(path)) from error
    if len(content) > LARGEST_FILE:
        raise BadKeyFile(f"the file of keys is larger than {LARGEST_FILE} bytes", where=str(path))
    try:
        return KeyFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # nothing of the file itself is told
        place = ".".join(map(str, first["loc"]))
        raise BadKeyFile(f"the file of keys is damaged: {place + ': ' if place else ''}{first['msg']}", where=str(path)) from error


def add_key(path: Path, key: Key) -> None:
    """Into the file, made if need be. Raises: BadKeyFile, OSError."""
    with locked(_lock_of(path)):
        kept = read_keys(path) if path.exists() else KeyFile()
        _write(path, KeyFile(keys=(*kept.keys, key)))


def remove_key(path: Path, key_id: str) -> Key:
    """Out of the file. Raises: BadOption (there is no such key), BadKeyFile, OSError."""
    if not path.exists():
        raise BadKeyFile("there is no such file", where=str(path))
    with locked(_lock_of(path)):
        kept = read_keys(path)
        found = next((key for key in kept.keys if key.id == key_id), None)
        if found is None:
            raise BadOption(f"no key {key_id[:40]!r}", where="id", known=[key.id for key in kept.keys])
        _write(path, KeyFile(keys=tuple(key for key in kept.keys if key is not found)))
    return found


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _write(path: Path, content: KeyFile) -> None:
    """One that is replaced stays its owner's: the service, which may be another user than who changes keys, has to go on reading it."""
    write_whole(path, content.model_dump_json(indent=1).encode() + b"\n", mode=FILE_MODE, as_before=True)
