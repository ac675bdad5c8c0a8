"""Bare numbers, for scripts that count bytes: no header, nothing to parse."""

from typing import BinaryIO

from models.answers.labelled import Labelled


def write_raw(answer: Labelled, out: BinaryIO) -> None:
    """First the class of every point, then the confidence of every point, both in the order of the file.

    With L classes in the model: L ≤ 256: N uint8, then N float16, 3·N bytes in all; L > 256: N uint16, then N float16, 4·N bytes.
    Everything is little-endian; nothing is padded. float16 rounds a confidence by at most 2.5e-4.
    """
    out.write(answer.indices.data)
    out.write(answer.confidence.astype("<f2").data)
