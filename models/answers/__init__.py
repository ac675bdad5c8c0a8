"""A label for every point, as bytes of a file. `encode` is the only door; one file of this package a format.

To add a format: write `encode_NAME(answer: Labelled) -> bytes` in a file of its own, and add a line to ANSWERS.
What a JSON answer says of a labelled cloud is `summary`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.answers.label import encode_label
from models.answers.labelled import Labelled
from models.answers.npz import encode_npz
from models.answers.ply import encode_ply
from models.answers.raw import encode_raw
from models.answers.summary import Bounds, ClassSummary, summary
from models.errors import BadOption, nearest
from models.labels import LabelMap
from models.pointcloud import PointCloud

__all__ = ["ANSWERS", "AnswerFormat", "Bounds", "ClassSummary", "Labelled", "answer_format", "encode", "summary"]


@dataclass(frozen=True)
class AnswerFormat:
    """How an answer is written, and what its file and its body are called."""

    encode: Callable[[Labelled], bytes]
    extension: str
    media_type: str


ANSWERS: dict[str, AnswerFormat] = {
    "ply": AnswerFormat(encode_ply, ".ply", "application/ply"),
    "label": AnswerFormat(encode_label, ".label", "application/octet-stream"),
    "npz": AnswerFormat(encode_npz, ".npz", "application/x-npz"),
    "raw": AnswerFormat(encode_raw, ".raw", "application/octet-stream"),
}


def answer_format(name: str) -> AnswerFormat:
    """The format of that name. Raises: BadOption (unknown; lists the known ones)."""
    if name not in ANSWERS:
        raise BadOption(f"unknown answer format {name!r}{nearest(name, ANSWERS)}", where="format", known=ANSWERS)
    return ANSWERS[name]


def encode(
    fmt: str,
    cloud: PointCloud,
    labels: npt.NDArray[np.integer],
    confidence: npt.NDArray[np.float32],
    label_map: LabelMap,
) -> bytes:
    """The file that answers with a class (N,) and a confidence (N,) for every point of a cloud.

    Raises: BadOption (unknown format, or one that cannot hold a column of this cloud).
    """
    return answer_format(fmt).encode(Labelled(cloud, labels, confidence, label_map))
