"""NumPy's `.npz`, for scripts in Python; not compressed, because that would take longer than reading the cloud.

An npz file comes back with everything that is in it: its bytes are taken over up to the list of its members, so that every one stays as
it was packed, what nobody can read and pickles too; the arrays of the answer go behind them.
"""

import zipfile
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from models.answers.arrays import Values, write_array_header, write_column
from models.answers.copying import copy_bytes
from models.answers.labelled import Labelled, index_type, prefixed
from models.errors import BadBody, BadOption
from models.io import CloudFile
from models.io.npz import DIRECTORY_BYTES, MEMBERS, UNZIPPED_BYTES
from models.io.source import Source
from models.labels import LabelMap

ARRAYS = ("labels", "ids", "confidence", "names")
ENTRY_BYTES = 128  # in the list of members, of an array: 46, its name, and 64-bit sizes
HEADER_BYTES = 256  # before an array, at most
ZIP_BYTES = (1 << 32) - 1  # above, a zip has another kind of list of members, which our own reader refuses


def check_npz(file: CloudFile, label_map: LabelMap) -> None:
    """Raises: BadOption (an npz file that would have more members, or more in them, than our own reader admits)."""
    if file.fmt != "npz":
        return
    members = _members(file.source)
    if len(members) + len(ARRAYS) > MEMBERS:
        raise BadOption(f"{len(members)} arrays and {len(ARRAYS)} more; npz answers hold {MEMBERS}; ask for another format", where="format")
    listed = sum(46 + len(each.orig_filename.encode()) + len(each.extra) + len(each.comment) for each in members)
    if listed + len(ARRAYS) * ENTRY_BYTES > DIRECTORY_BYTES:
        raise BadOption("the names of the arrays leave no room for more; ask for another format", where="format")
    added = file.records.count * (np.dtype(index_type(label_map)).itemsize + 8) + _names(label_map).nbytes + len(ARRAYS) * HEADER_BYTES
    unpacked = sum(each.file_size for each in members if each.filename.endswith(".npy"))
    if unpacked + added > UNZIPPED_BYTES or file.source.size + added > ZIP_BYTES:
        raise BadOption(f"with the labels the arrays are larger than {UNZIPPED_BYTES >> 20} MB; ask for another format", where="format")


def write_npz(answer: Labelled, out: BinaryIO) -> None:
    """Arrays labels (N,) uint8 or uint16 (classes), ids (N,) uint32, confidence (N,) float32, names (L,) text.

    `names[labels[i]]` is the class of point i. Loads with `allow_pickle=False`. The same answer gives the same bytes. In an npz file the
    arrays get the prefix `fip_` where it has one of that name.
    """
    source, count = answer.file.source, len(answer.labels)
    taken: set[str] = set()
    if answer.file.fmt == "npz":
        taken = {each.filename.removesuffix(".npy").lower() for each in _members(source)}
        copy_bytes(source, 0, source.size, out)
    arrays: tuple[tuple[str, Callable[[slice], Values]], ...] = (
        (index_type(answer.label_map), lambda rows: answer.labels[rows]),
        ("<u4", lambda rows: answer.label_map.ids_of(answer.labels[rows])),
        ("<f4", lambda rows: answer.confidence[rows]),
    )
    labels, ids, confidence, names = (prefixed(name, taken) for name in ARRAYS)
    with zipfile.ZipFile(out, "a" if taken else "w") as archive:  # what is appended takes the place of the list of members
        for name, (code, values) in zip((labels, ids, confidence), arrays, strict=True):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_array_header(member, np.dtype(code), (count,))
                write_column(member, np.dtype(code), count, values)
        with archive.open(f"{names}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, _names(answer.label_map), allow_pickle=False)


def _names(label_map: LabelMap) -> Values:
    return np.array(label_map.names, np.str_)


def _members(source: Source) -> list[zipfile.ZipInfo]:
    """What the file lists; its reader has bounded the list. Raises: BadBody."""
    try:
        with zipfile.ZipFile(source.file) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise BadBody(f"the zip cannot be read: {error}") from error
