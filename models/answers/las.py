"""Labelled LAS and LAZ: a file of this kind as it came, with the answer behind the fields of its points; any other cloud as LAS 1.4.

Programs find the answer in the extra bytes label, confidence and label_red, label_green, label_blue, and in the classification, whose
values a record names; a file that is to stay the same keeps its classification. Where a name is taken, the added one gets the prefix
`fip_`. What the classes of the label are called stands in a variable length record of user id `fip_server` and record id 1: UTF-8 text,
`0 car (id 10)` and so on, a line a class, at most 65,535 bytes; the id is that of the label map.
"""

from typing import BinaryIO

from models.answers.labelled import Labelled
from models.answers.las_new import check_new, write_new
from models.answers.las_same import check_own, most_classes, write_own
from models.errors import BadOption
from models.io import CloudFile
from models.io.las_header import is_compressed, read_header
from models.labels import LabelMap

OWN_FORMAT = "las"  # of FORMATS


def own_las(file: CloudFile) -> str:
    """The name of the answer that is of the kind of a LAS or LAZ file."""
    return "laz" if is_compressed(file.source) else "las"


def check_las(file: CloudFile, label_map: LabelMap) -> None:
    """Raises: BadOption (LAS has no room for what is added, or for a column of a file of another format)."""
    _check(file, label_map, compressed=False)


def check_laz(file: CloudFile, label_map: LabelMap) -> None:
    """Raises: BadOption (as `check_las`; points with more extra bytes than are packed, waveforms that are not packed well)."""
    _check(file, label_map, compressed=True)


def check_classes(file: CloudFile, label_map: LabelMap) -> None:
    """Whether the classification of points holds the classes. Raises: BadOption."""
    if file.fmt != OWN_FORMAT:
        return
    header = read_header(file.source)
    if len(label_map) > most_classes(header):
        raise BadOption(
            f"points of format {header.point_format} can be of {most_classes(header)} classes, the model has {len(label_map)}; "
            "ask for the same format, which leaves the classification as it is",
            where="format",
        )


def write_las(answer: Labelled, out: BinaryIO) -> None:
    """Points as they are. Raises: BadOption, what reading the file again raises; OSError."""
    _write(answer, out, compressed=False)


def write_laz(answer: Labelled, out: BinaryIO) -> None:
    """Points packed as LASzip does. Raises: BadOption, what reading the file again raises; OSError."""
    _write(answer, out, compressed=True)


def _check(file: CloudFile, label_map: LabelMap, compressed: bool) -> None:
    if file.fmt == OWN_FORMAT:
        check_own(file.source, label_map, compressed)
    else:
        check_new(file, label_map, compressed)


def _write(answer: Labelled, out: BinaryIO, compressed: bool) -> None:
    if answer.file.fmt == OWN_FORMAT:
        write_own(answer, out, compressed)
    else:
        write_new(answer, out, compressed)
