"""A label for every point, as a file. `write_answer` is the only door; one file of this package a format.

To add a format: write `write_NAME(answer: Labelled, out: BinaryIO) -> None` in a file of its own, and where it cannot hold everything
`check_NAME(file: CloudFile, label_map: LabelMap) -> None`, and add a line to ANSWERS. `out` is a file on disk or in memory, empty, that
can be sought and read; what is written there is written a block of rows at a time. Answers in the format of the file itself read
the file again (`answer.file.source`) and copy what is not a point.

What a JSON answer says of a labelled cloud is `summary`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from models.answers.csv import write_csv
from models.answers.label import write_label
from models.answers.labelled import Labelled
from models.answers.las import check_classes, check_las, check_laz, own_las, write_las, write_laz
from models.answers.lidarseg import check_lidarseg, write_lidarseg
from models.answers.npy import check_npy, write_npy
from models.answers.npz import check_npz, write_npz
from models.answers.pcd import check_pcd, write_pcd
from models.answers.ply import check_ply, write_ply
from models.answers.raw import write_raw
from models.answers.summary import Bounds, ClassSummary, summary
from models.answers.text import write_pts, write_xyz
from models.errors import BadOption, InputError, nearest
from models.io import CloudFile
from models.labels import LabelMap

__all__ = [
    "ANSWERS",
    "SAME",
    "AnswerFormat",
    "Bounds",
    "ClassSummary",
    "Labelled",
    "answer_format",
    "check_answer",
    "summary",
    "write_answer",
]


def _holds_all(file: CloudFile, label_map: LabelMap) -> None:
    """Of a format that has room for whatever a file and a map may have."""


@dataclass(frozen=True)
class AnswerFormat:
    """How an answer is written, and what its file and its body are called.

    check: raises BadOption where the format cannot hold a column of the file, or the classes of a map; called before anything is computed.
    check_named: the same, of what is done only where the format is asked for by its name.
    """

    write: Callable[[Labelled, BinaryIO], None]
    extension: str
    media_type: str
    check: Callable[[CloudFile, LabelMap], None] = _holds_all
    check_named: Callable[[CloudFile, LabelMap], None] = _holds_all


ANSWERS: dict[str, AnswerFormat] = {
    "ply": AnswerFormat(write_ply, ".ply", "application/ply", check_ply),
    "pcd": AnswerFormat(write_pcd, ".pcd", "application/pcd", check_pcd),
    "las": AnswerFormat(write_las, ".las", "application/vnd.las", check_las, check_classes),
    "laz": AnswerFormat(write_laz, ".laz", "application/vnd.laszip", check_laz, check_classes),
    "label": AnswerFormat(write_label, ".label", "application/octet-stream"),
    "lidarseg": AnswerFormat(write_lidarseg, "_lidarseg.bin", "application/octet-stream", check_lidarseg),
    "npy": AnswerFormat(write_npy, ".npy", "application/x-npy", check_npy),
    "npz": AnswerFormat(write_npz, ".npz", "application/x-npz", check_npz),
    "xyz": AnswerFormat(write_xyz, ".xyz", "text/plain"),
    "pts": AnswerFormat(write_pts, ".pts", "text/plain"),
    "csv": AnswerFormat(write_csv, ".csv", "text/csv"),
    "raw": AnswerFormat(write_raw, ".raw", "application/octet-stream"),
}
SAME = "same"  # the name that stands for the format of the file itself


def answer_format(name: str, file: CloudFile) -> str:
    """The name of ANSWERS that is meant for a file: for `same` how data sets give labels to files of its kind.

    Raises: BadOption (unknown, lists the known ones; or a kind of file that labels cannot be added to).
    """
    if name != SAME:
        if name not in ANSWERS:
            raise BadOption(f"unknown answer format {name!r}{nearest(name, (*ANSWERS, SAME))}", where="format", known=(*ANSWERS, SAME))
        return name
    found = own_las(file) if file.fmt == "las" else OWN.get(file.fmt, file.fmt)
    if found not in ANSWERS:
        raise BadOption(f"labels cannot be added to {file.fmt} files; ask for another format", where="format")
    return found


OWN = {"bin": "label", "nuscenes": "lidarseg"}  # what carries the labels of a kind of file, where that is not a file of its own kind


def check_answer(name: str, file: CloudFile, label_map: LabelMap) -> None:
    """Whether a format can hold the answer for a file, said before anything is computed. Raises: BadOption (lists those that can)."""
    try:
        chosen = ANSWERS[answer_format(name, file)]
        chosen.check(file, label_map)
        if name != SAME:
            chosen.check_named(file, label_map)
    except BadOption as error:
        if error.known:
            raise
        others = [each for each in ANSWERS if each != name and _can_hold(each, file, label_map)]
        raise BadOption(error.detail, where=error.where, known=others) from error


def _can_hold(name: str, file: CloudFile, label_map: LabelMap) -> bool:
    try:
        ANSWERS[name].check(file, label_map)
        ANSWERS[name].check_named(file, label_map)
    except InputError:
        return False
    return True


def write_answer(name: str, answer: Labelled, out: BinaryIO) -> None:
    """Write the answer into an empty file. Raises: BadOption, and what reading the file again raises; OSError."""
    ANSWERS[answer_format(name, answer.file)].write(answer, out)
