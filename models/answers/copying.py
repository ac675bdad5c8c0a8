"""What stands in a file beside its points, taken over as it is."""

from typing import BinaryIO

from models.io.source import Source

PIECE_BYTES = 1 << 20


def copy_bytes(source: Source, start: int, stop: int, out: BinaryIO) -> None:
    """The bytes of a file from `start` to before `stop`, in pieces of a megabyte. Raises: TruncatedFile (it became shorter)."""
    while start < stop:
        piece = source.read_all(start, min(PIECE_BYTES, stop - start))
        out.write(piece)
        start += len(piece)
