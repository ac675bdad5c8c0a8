"""A request's body: a small one in memory, a large one on disk, so that memory stays flat whatever is sent.

The event loop only takes chunks off the socket; writing and taking multipart apart happen in threads.
"""

import asyncio
import errno
import io
import math
import os
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import Request

from models.errors import EmptyFile
from models.io import choose_format
from models.io.ply_header import HEADER_BYTES, read_header
from models.io.source import Source
from service.admission import Ticket
from service.announced import announced_bytes
from service.errors import BodyTooLarge, SlowBody, SpoolFull, UnsupportedEncoding
from service.multipart import MultipartFile, boundary_of, file_name
from service.settings import Settings
from service.telemetry import Timings

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE)

T = TypeVar("T")


class Upload:
    """A received file, and what the request says about its format: the file's name and content type, as the caller wrote them.

    What is whole before any of it had to be written stays in memory (see Ticket.in_memory).
    """

    def __init__(self, spool: "Spool", request: Request, *, form: bool = True) -> None:
        """form: the body may be a multipart form with the file in it. Raises: BadMultipart."""
        self.spool = spool
        self.size = 0  # bytes of the body
        self._content_type = request.headers.get("content-type", "")
        self._file_name = file_name(_decoded(request.headers.get("x-filename", "")))
        boundary = boundary_of(self._content_type) if form else None
        self._part = MultipartFile(boundary, spool.write) if boundary is not None else None
        self._rest: list[bytes] = []
        self._waiting = 0

    @property
    def name(self) -> str:
        return self._part.name if self._part else self._file_name

    @property
    def content_type(self) -> str:
        return self._part.content_type if self._part else self._content_type

    def keep(self, chunk: bytes) -> int:
        """Take a chunk of the body; the bytes that wait to be written."""
        self.size += len(chunk)
        self._waiting += len(chunk)
        self._rest.append(chunk)
        return self._waiting

    def write(self) -> None:
        """Write what waits. In a thread. Raises: SpoolFull, BadMultipart."""
        write = self._part.feed if self._part else self.spool.write
        for chunk in self._rest:
            write(chunk)
        self._rest, self._waiting = [], 0

    def file(self) -> BinaryIO:
        """The whole file. In a thread. Raises: SpoolFull, BadMultipart, EmptyFile."""
        if self._part:
            if not self.spool.is_open:
                self.spool.hold(b"")
            self.write()
            self._part.finish()
        elif self.spool.is_open:
            self.write()
        else:
            self.spool.hold(b"".join(self._rest))
            self._rest = []
        if self.spool.size == 0:
            raise EmptyFile("the body is empty: send the file as the body, or as the one file of a multipart form")
        return self.spool.file()


class Spool:
    """A temporary file without a name, opened with its first bytes, or a file in memory; nothing stays behind, however the process ends.

    Used from threads only.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self.size = 0

    def write(self, chunk: bytes) -> None:
        """Raises: SpoolFull."""
        left = memoryview(chunk)
        try:
            while left:
                left = left[self.file().write(left) :]  # a disk that is nearly full takes a part
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise SpoolFull(f"no room for the body: {error.strerror}", where="body") from error
        self.size += len(chunk)

    def hold(self, data: bytes) -> None:
        """Be a file in memory that begins with this; nothing has been written yet."""
        self._file, self.size = io.BytesIO(data), len(data)
        self._file.seek(0, os.SEEK_END)

    def file(self) -> BinaryIO:
        """Raises: SpoolFull."""
        if self._file is None:
            try:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115  # `close` does it
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                raise SpoolFull(f"no room for the body: {error.strerror}", where="body") from error
        assert self._file is not None
        return self._file

    @property
    def is_open(self) -> bool:
        return self._file is not None

    def close(self) -> None:
        """Give its room back."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Pace:
    """How fast a body comes: the rate of each `pause` seconds by itself, so that a fast beginning does not pay for a trickle.

    Only the time in which a chunk is waited for counts: what comes while the service does something else waits for the service.
    """

    def __init__(self, pause: float, rate: int) -> None:
        """rate: bytes a second that it has to come at."""
        self._pause, self._rate = pause, rate
        self._waited, self._received = 0.0, 0

    def took(self, seconds: float, size: int) -> None:
        """A chunk was waited for. Raises: SlowBody."""
        self._waited += seconds
        self._received += size
        if self._waited >= self._pause:
            if self._received < self._waited * self._rate:
                raise SlowBody(f"the body came slower than {self._rate} bytes per second", where="body")
            self._waited, self._received = 0.0, 0


class Uploads:
    """Receives files within the limits of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.spool_dir
        self._limit = settings.max_body_bytes
        self._pause = settings.body_pause_seconds
        self._rate = settings.body_bytes_per_second
        self._threads = CapacityLimiter(settings.readers + 4)  # apart from the readers, so that parsing never delays receiving

    @asynccontextmanager
    async def receive(
        self, request: Request, input_format: str | None, timings: Timings, ticket: Ticket, *, raw_limit: int | None = None
    ) -> AsyncGenerator[Upload, None]:
        """Spool the body, raw or multipart (stage `read`); the file is closed on leaving, if its reader has not done so before.

        raw_limit: the body is no file of points, whatever it is called, and may have so many bytes.

        Raises: BodyTooLarge (from Content-Length before anything is read, else at the limit), SlowBody, BadMultipart, SpoolFull,
        UnsupportedEncoding, Overloaded; of what does not stay in memory, soon, what is wrong with its head (see `check_head`).
        """
        # FastAPI's own max_body_size answers in plain text, hence the check here
        limit = self._limit if raw_limit is None else raw_limit
        largest = self._largest_size(request, limit)
        upload = Upload(Spool(self._folder), request, form=raw_limit is None)

        def check() -> None:
            if raw_limit is None:
                check_head(upload, input_format, largest)

        try:
            with timings.stage("read"):
                await self._fill(request, upload, check, limit, ticket)
            ticket.take_place()
            yield upload
        finally:
            if upload.spool.is_open:
                with CancelScope(shield=True):
                    await self._in_thread(upload.spool.close)

    def _largest_size(self, request: Request, limit: int) -> int:
        """What the body may come to. Raises: BodyTooLarge, UnsupportedEncoding."""
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedEncoding("send the file as it is, without Content-Encoding", where="Content-Encoding", known=("identity",))
        length = announced_bytes(request.headers)
        if length is None:
            return limit
        if length > limit:
            raise _too_large(limit)
        return length

    async def _fill(self, request: Request, upload: Upload, check: Callable[[], None], limit: int, ticket: Ticket) -> None:
        """Take the body, piece by piece to the disk (see Ticket.in_memory); after the first comes `check`, the last waits in memory."""

        def write_first() -> None:
            upload.write()
            check()

        write: Callable[[], None] = write_first
        if (read_on := request.scope["state"].get("read_on")) is not None:
            read_on()
        pace, stream, clock = (
            Pace(self._pause, self._rate),
            request.stream(),
            asyncio.get_running_loop().time,
        )  # which AnyIO asks the long way
        with CancelScope() as patience:
            while True:
                began = clock()
                patience.deadline = began + self._pause
                chunk = await anext(stream, None)
                patience.deadline, seconds = math.inf, clock() - began
                if chunk is None:
                    return
                waiting = upload.keep(chunk)
                if upload.size > limit:
                    raise _too_large(limit)
                ticket.hold_bytes(upload.size)
                if waiting > ticket.in_memory:
                    await self._in_thread(write)
                    write = upload.write
                pace.took(seconds, len(chunk))
        raise SlowBody(f"nothing of the body came for {self._pause:g} s", where="body")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await to_thread.run_sync(work, limiter=self._threads)


def _decoded(header: str) -> str:
    """A header's text, in whose bytes clients write UTF-8, although HTTP reads Latin-1."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeDecodeError:
        return header


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes", where="body")


def check_head(upload: Upload, input_format: str | None, largest: int) -> None:
    """Refuse a file by its head while the rest is still on its way. `largest`: bytes that the whole may come to.

    Raises: UnsupportedFormat; for PLY BadHeader, HeaderTooLarge, TruncatedFile.
    """
    head = os.pread(upload.spool.file().fileno(), HEADER_BYTES, 0)
    if choose_format(input_format, upload.name, upload.content_type, head=head) == "ply":
        read_header(Source(io.BytesIO(head), largest))
