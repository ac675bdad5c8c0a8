"""The keys in force, as the file has them: a key that is revoked there opens nothing a second or two later."""

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

from anyio import CapacityLimiter, to_thread

from service.auth.allowance import Allowance
from service.auth.keys import BadKeyFile, Key, KeyFile, Keys, read_keys

LOG = logging.getLogger("fip.service")
LOOK_S = 1.0  # how often the file is looked at, in a thread of its own: no request waits for its disk

Stamp = tuple[int, int, int]


class KeyRing:
    """`find` and `allowance` belong to the event loop. Without a file there are no keys, and nobody is asked for one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._keys = Keys()
        self._allowances: dict[str, Allowance] = {}
        self._seen: Stamp | None = None
        self._thread = CapacityLimiter(1)

    @property
    def required(self) -> bool:
        """Whether there are keys at all."""
        return self._path is not None

    def load(self) -> None:
        """Raises: BadKeyFile."""
        if self._path is not None:
            self._seen = _stamp(self._path)
            self._use(read_keys(self._path))

    def find(self, presented: bytes) -> Key | None:
        """The key that this is, unless it has expired."""
        key = self._keys.find(presented)
        return None if key is None or key.expired(datetime.now(UTC)) else key

    def in_force(self, key_id: str) -> bool:
        """Whether a key that let somebody in still would; true without keys."""
        return key_id == "" or self._keys.has(key_id, datetime.now(UTC))

    def allowance(self, key_id: str) -> Allowance | None:
        """None of a key that may send as much as it likes, or that is no more."""
        return self._allowances.get(key_id)

    async def follow(self) -> None:
        """Take over what changes in the file, for ever. Of a damaged or absent one the log tells, and the keys before it stay."""
        while self._path is not None:
            await asyncio.sleep(LOOK_S)
            try:
                changed = await to_thread.run_sync(self._look, self._path, limiter=self._thread, abandon_on_cancel=True)
            except BadKeyFile as error:
                LOG.error("keys not taken over", extra={"fields": {"code": error.code, "error": str(error)}})
                continue
            except Exception:  # whatever it was, it must not end the service
                LOG.exception("keys not looked at")
                continue
            if changed is not None:
                self._use(changed)
                LOG.info("keys taken over", extra={"fields": {"keys": len(self._keys)}})

    def _look(self, path: Path) -> KeyFile | None:
        """What the file has become, None if it is as it was. Runs in a thread. Raises: BadKeyFile, once for each change."""
        stamp = _stamp(path)
        if stamp == self._seen:
            return None
        try:
            kept = read_keys(path)
        except BadKeyFile as error:
            if stamp is None or not isinstance(error.__cause__, OSError):  # what cannot be read now is looked at again
                self._seen = stamp
            raise
        self._seen = stamp
        return kept

    def _use(self, kept: KeyFile) -> None:
        self._keys = Keys(kept.keys)
        limited = {key.id: key.points_per_second for key in kept.keys if key.points_per_second is not None}
        for gone in self._allowances.keys() - limited.keys():
            del self._allowances[gone]
        for key_id, rate in limited.items():
            if key_id in self._allowances:
                self._allowances[key_id].rate = rate
            else:
                self._allowances[key_id] = Allowance(rate)


def _stamp(path: Path) -> Stamp | None:
    """What changes with the file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
