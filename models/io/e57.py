"""E57: the scans of a file, one after another, in the frame of the file. pye57 reads them, an extra, in a process of its own.

Source: ASTM E2807-11, section 7 (header and pages).
"""

import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np

from models.errors import BadBody, BadHeader, FileError, HeaderTooLarge, MissingCoordinates, TruncatedFile, UnsupportedFormat
from models.io.records import BLOCK_ROWS, Records, Table
from models.io.source import Source, on_disk

CHILD = Path(__file__).with_name("e57_child.py")
HEADER = struct.Struct("<8sIIQQQQ")  # signature, version, bytes of the file, place and bytes of the XML, bytes of a page
PAGE, CHECKSUM = 1024, 4  # bytes of a page, and of what its last ones are
XML_BYTES = 16 << 20
MEMORY_BYTES, XML_COPIES = 256 << 20, 40  # what the process may take, and more for each byte of XML
BYTES_A_SECOND, POINTS_A_SECOND = 5_000_000, 100_000  # it is given processor time as if it were no faster than that
SILENCE_S = 120  # nothing comes from a process that is stuck
ERRORS: dict[str, type[FileError]] = {
    each.__name__: each for each in (BadBody, HeaderTooLarge, MissingCoordinates, TruncatedFile, UnsupportedFormat)
}


def read_e57(source: Source) -> Records:
    """N points: x, y, z (float64, metres, poses applied), the fields that all scans have (intensity, red, green, blue, ...) and scan_index.

    Points that the file says have no coordinates are left out. Fields have the names of the file, but for colours.
    Raises: UnsupportedFormat (without pye57), BadHeader, HeaderTooLarge, TruncatedFile, MissingCoordinates, BadBody, TooManyPoints.
    """
    if find_spec("pye57") is None:
        raise UnsupportedFormat(
            "E57 is read where its extra is installed: pip install 'fip-server[e57]'; or convert the file to PLY or LAS"
        )
    xml_bytes = checked_header(source)
    seconds = 2 + source.size // BYTES_A_SECOND
    memory = MEMORY_BYTES + XML_COPIES * xml_bytes
    with _asked(source, {"limits": [seconds, memory], "most": source.max_points}) as child:
        answer = json.loads(b"".join(iter(lambda: child.take(1 << 16, whole=False), b"")))
    if "announced" in answer:
        source.admit(answer["announced"])
    seconds += answer["count"] // POINTS_A_SECOND
    return _records(source, answer["count"], np.dtype([(name, code) for name, code in answer["columns"]]), (seconds, memory))


def checked_header(source: Source) -> int:
    """The bytes of the XML that describes the file, once it is known that it is one. Raises: BadHeader, HeaderTooLarge, TruncatedFile."""
    head = source.read(0, HEADER.size)
    if head[:8] != b"ASTM-E57":
        raise BadHeader("an E57 file begins with ASTM-E57")
    if len(head) < HEADER.size:
        raise TruncatedFile(f"{len(head)} bytes are no E57 header, it has {HEADER.size}")
    _, major, _, size, xml_at, xml_bytes, page = HEADER.unpack(head)
    if major != 1:
        raise UnsupportedFormat(f"E57 of version {major} is not read", where="version")
    if page != PAGE:
        raise BadHeader(f"pages of {page} bytes, E57 has {PAGE}", where="page size")
    if size > source.size:
        raise TruncatedFile(f"the header announces {size} bytes, the file has {source.size}")
    if xml_bytes > XML_BYTES:
        raise HeaderTooLarge(f"{xml_bytes} bytes of XML, the limit is {XML_BYTES}", where="XML")
    pages = -(-xml_bytes // (PAGE - CHECKSUM)) + 1
    if xml_at + xml_bytes > size:
        raise TruncatedFile(f"{xml_bytes} bytes of XML from byte {xml_at} on, the file has {size}", where="XML")
    data = source.read(xml_at, pages * PAGE)
    first = PAGE - CHECKSUM - xml_at % PAGE  # bytes before the first checksum
    parts = [data[: max(first, 0)], *(data[at : at + PAGE - CHECKSUM] for at in range(PAGE - xml_at % PAGE, len(data), PAGE))]
    xml = b"".join(parts)[:xml_bytes]
    if not xml.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml") or b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
        raise BadHeader("no XML as E57 has it: in UTF-8, without definitions of its own", where="XML")
    return int(xml_bytes)


def _records(source: Source, count: int, row: np.dtype[np.void], limits: tuple[int, int]) -> Records:
    def read() -> Iterator[Table]:
        with _asked(source, {"limits": limits, "columns": [(name, row[name].str) for name in row.names or ()]}) as child:
            for start in range(0, count, BLOCK_ROWS):
                yield np.frombuffer(child.take(min(BLOCK_ROWS, count - start) * row.itemsize), row)

    def only(names: frozenset[str]) -> Records:
        chosen = [name for name in row.names or () if name in names]
        return _records(source, count, np.dtype([(name, row[name]) for name in chosen]), limits)

    return Records(count, row, read, only)


class _Child:
    """The process that reads, and what it says."""

    def __init__(self, process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> None:
        self._process, self._errors = process, errors
        assert process.stdout is not None
        self._pipe = process.stdout.fileno()
        self._ready = select.poll()  # select.select knows only the first 1,024 files of a process
        self._ready.register(self._pipe, select.POLLIN)

    def take(self, size: int, *, whole: bool = True) -> bytes:
        """So many bytes, or fewer at the end where that is allowed. Raises: FileError (what was wrong with the file)."""
        found = bytearray()
        while len(found) < size:
            if not self._ready.poll(SILENCE_S * 1000):
                raise BadBody(f"nothing was read of it in {SILENCE_S} s")
            piece = os.read(self._pipe, size - len(found))
            if not piece:
                break
            found += piece
        if len(found) < size:
            self._check_end()
            if whole:
                raise BadBody("it has fewer points than were counted")
        return bytes(found)

    def _check_end(self) -> None:
        """Raises: FileError, if the process did not end well."""
        code = self._process.wait()
        if code == 0:
            return
        self._errors.seek(0)
        text = self._errors.read(2000).decode("utf-8", "replace")
        kind, _, message = text.rpartition("\n")[2].partition(": ")
        if code > 0 and kind in ERRORS:
            raise ERRORS[kind](message)
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            raise BadBody("reading it takes more time than it may")
        raise BadBody(f"libE57Format ended with {code} at it")


@contextmanager
def _asked(source: Source, question: dict[str, object]) -> Iterator[_Child]:
    """The process that answers a question about a file; it ends with the block."""
    command = [sys.executable, "-P", str(CHILD), json.dumps(question)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as errors, on_disk(source) as file:
        process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=errors, env=environment)
        try:
            yield _Child(process, errors)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
