"""Annotation files of S3DIS: lines of `x y z r g b` as text, with the damage that the published files have.

R points. In every damaged line that is known of, one byte has lost its bit 0x20: `185\\x00187` was `185 187`, `103.0\\x100000` was
`103.000000`, and `-9.1\\x160` stands among neighbours of -9.160. Setting the bit again repairs them all, and nothing else is touched.
Sources: github.com/loicland/superpoint_graph/issues/29, charlesq34/pointnet/issues/45, zeliu98/CloserLook3D/issues/15.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from models.io.decimals import plain_decimals

COLUMNS = 6
BLOCK_BYTES = 1 << 19
_RESTORED = b" .0123456789"
_DAMAGED = bytes(byte ^ 0x20 for byte in _RESTORED)
_REPAIR = bytes.maketrans(_DAMAGED, _RESTORED)
_TEXT = b"+-.0123456789eE \t\r\n"
_SHOWN_BYTES = 60

Points = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]


def read_points(path: Path, name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], int]:
    """xyz (R, 3) metres, rgb (R, 3) and how many bytes were repaired. name: of the file, for errors.

    Raises: BadDataset (any other damage; names the line), OSError.
    """
    text = path.read_bytes()
    mended = text.translate(_REPAIR)
    repaired = len(text) - len(text.translate(None, _DAMAGED))
    xyz, rgb, lines = [np.empty((0, 3), np.float32)], [np.empty((0, 3), np.uint8)], 0
    for block in _blocks(mended):
        strange = block.translate(None, _TEXT)
        values = None if strange else plain_decimals(block, COLUMNS)
        if values is None or not _usable(values).all():
            values = _line_by_line(block, lines, name)
        xyz.append(values[:, :3].astype(np.float32))
        rgb.append(values[:, 3:].astype(np.uint8))
        lines += block.count(b"\n")
    return np.concatenate(xyz), np.concatenate(rgb), repaired


def _blocks(text: bytes) -> Iterator[bytes]:
    """Whole lines, about half a megabyte of them at a time."""
    start = 0
    while start < len(text):
        stop = text.find(b"\n", start + BLOCK_BYTES) + 1 or len(text)
        yield text[start:stop]
        start = stop


def _line_by_line(block: bytes, before: int, name: str) -> npt.NDArray[np.float64]:
    """The numbers of a block that the fast way does not take: exponents, blank lines, or something wrong. Raises: BadDataset."""
    rows = []
    for number, line in enumerate(block.split(b"\n"), before + 1):
        if line.strip():
            rows.append(_numbers(line, f"{name}, line {number}"))
    return np.array(rows, np.float64).reshape(-1, COLUMNS)


def _numbers(line: bytes, where: str) -> list[float]:
    words = line.split()
    shown = repr(line[:_SHOWN_BYTES])[1:]
    if len(words) != COLUMNS:
        raise BadDataset(f"{len(words)} numbers instead of x y z r g b: {shown}", where=where)
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise BadDataset(f"not six numbers: {shown}", where=where) from error
    if line.translate(None, _TEXT) or not _usable(np.array([values]))[0]:
        raise BadDataset(f"coordinates must be finite, colours whole numbers from 0 to 255: {shown}", where=where)
    return values


def _usable(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """(R,) whether each row (R, 6) holds finite coordinates and colours that are bytes."""
    colours = values[:, 3:]
    whole = (colours >= 0) & (colours <= 255) & (colours == np.rint(colours))
    return np.asarray(np.isfinite(values).all(axis=1) & whole.all(axis=1))
