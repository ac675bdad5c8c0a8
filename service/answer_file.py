"""The file that answers a request: small ones stay in memory, others go to the disk, and both leave a megabyte at a time."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from anyio import CancelScope, to_thread
from fastapi import Response
from starlette.types import Receive, Scope, Send

from service.admission import HeldBytes
from service.errors import SpoolFull
from service.uploads import NO_ROOM

IN_MEMORY_BYTES = 1 << 20
PIECE = 1 << 20


class AnswerFile:
    """A file without a name, written once, then read; nothing stays behind, however the process ends. Used from threads only."""

    def __init__(self, folder: Path | None, write: Callable[[BinaryIO], None]) -> None:
        """Raises: SpoolFull, and what `write` raises."""
        self._file = cast(BinaryIO, tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES, dir=None if folder is None else str(folder)))  # noqa: SIM115  # `close` does it
        try:
            write(self._file)
            self.size = self._file.seek(0, os.SEEK_END)
            self._file.seek(0)
        except OSError as error:
            self._file.close()
            if error.errno not in NO_ROOM:
                raise
            raise SpoolFull(f"no room for the answer: {error.strerror}", where="answer") from error
        except BaseException:
            self._file.close()
            raise

    @property
    def in_memory(self) -> bool:
        return self.size <= IN_MEMORY_BYTES

    def read(self) -> bytes:
        """The next megabyte, empty at the end."""
        return self._file.read(PIECE)

    def close(self) -> None:
        self._file.close()


class KeptAnswer:
    """An answer that was kept on the disk, open; it can be removed meanwhile. Used from threads only."""

    in_memory = False

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size

    def read(self) -> bytes:
        """The next megabyte, empty at the end."""
        return self._file.read(PIECE)

    def close(self) -> None:
        self._file.close()


class InPieces(Response):
    """Sent as fast as the client takes it: sent whole, a large body would be held in memory, and once more in copies on its way."""

    def __init__(self, file: AnswerFile | KeptAnswer, headers: Mapping[str, str], media_type: str, held: HeldBytes) -> None:
        """held: the room that the answer takes, given back when it is out."""
        super().__init__(headers={**headers, "Content-Length": str(file.size)}, media_type=media_type)
        self._file, self._held = file, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        in_memory = self._file.in_memory
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while piece := self._file.read() if in_memory else await to_thread.run_sync(self._file.read):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._held.release()
            if in_memory:
                self._file.close()
            else:
                with CancelScope(shield=True):
                    await to_thread.run_sync(self._file.close)
