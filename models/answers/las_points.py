"""Points of LAS as they are written, packed or not.

lazrs packs them, up to 0.8.2 with two faults at the waveform fields, which LASzip 3.5 and lazrs itself then cannot read. They are kept
out of its way here: formats 4 and 5 pack these fields as LASzip does, by version 1 of their coder; formats 9 and 10 begin a chunk
wherever the scanner channel changes.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import lazrs
import numpy as np
import numpy.typing as npt

from models.io.laz import ITEM, VLR
from models.io.records import Table

OLD_WAVES, NEW_WAVES = (4, 5), (9, 10)  # point formats
WAVE_ITEM = 9  # of LASzip's record, of the formats 4 and 5
CHUNK = 50_000  # points that are packed as one
FLAGS_AT, CHANNEL = 15, 0x30  # the byte of a point of format 9 or 10 that holds its scanner channel, and which bits of it


def laszip_record(point_format: int, extra_bytes: int) -> bytes:
    """What LASzip's record says of points of a format with some extra bytes."""
    record = bytearray(lazrs.LazVlr.new_for_compression(point_format, extra_bytes, point_format in NEW_WAVES).record_data())
    for place in range(VLR.size, len(record), ITEM.size):
        kind, size, _ = ITEM.unpack_from(record, place)
        if point_format in OLD_WAVES and kind == WAVE_ITEM:
            ITEM.pack_into(record, place, kind, size, 1)
    return bytes(record)


def count_chunks(flags: Iterable[npt.NDArray[np.uint8]]) -> int:
    """How many chunks points of format 9 or 10 are packed into; flags: the bytes that hold their channels, block by block."""
    chunks, last = 0, -1
    for block in flags:
        channels = block & CHANNEL
        chunks += int(np.count_nonzero(np.diff(channels))) + int(channels[0] != last) + len(block) // CHUNK
        last = int(channels[-1])
    return chunks


class PointWriter:
    """Writes points where a file stands; packed, if there is a record of LASzip that says how."""

    def __init__(self, out: BinaryIO, record: bytes | None) -> None:
        self._out = out
        vlr = None if record is None else lazrs.LazVlr(record)
        self._packer = None if vlr is None else lazrs.LasZipCompressor(out, vlr)
        self._by_channel = vlr is not None and vlr.uses_variable_size_chunks()
        self._in_chunk, self._channel = 0, -1

    def write(self, block: Table) -> None:
        """Raises: OSError."""
        data = block.view(np.uint8)
        if self._packer is None:
            self._out.write(data.data)
            return
        with _packing():
            if self._by_channel:
                self._write_runs(self._packer, data.reshape(len(block), -1))
            else:
                self._packer.compress_many(data)

    def done(self) -> None:
        """Raises: OSError."""
        if self._packer is not None:
            with _packing():
                self._packer.done()
            self._out.seek(0, os.SEEK_END)

    def _write_runs(self, packer: "lazrs.LasZipCompressor", data: npt.NDArray[np.uint8]) -> None:
        """Points (n, r), in chunks of one channel each."""
        channels = data[:, FLAGS_AT] & CHANNEL
        starts = [0, *(np.flatnonzero(np.diff(channels)) + 1).tolist(), len(data)]
        for start, stop in itertools.pairwise(starts):
            if self._in_chunk and (channels[start] != self._channel or self._in_chunk >= CHUNK):
                packer.finish_current_chunk()
                self._in_chunk = 0
            packer.compress_many(data[start:stop].ravel())
            self._in_chunk, self._channel = self._in_chunk + stop - start, int(channels[start])


@contextmanager
def _packing() -> Iterator[None]:
    """What lazrs raises when it cannot write."""
    try:
        yield
    except lazrs.LazrsError as error:
        raise OSError(f"packed points cannot be written: {error}") from error
