"""A LAS or LAZ file as it came, and behind the fields of its points the answer as extra bytes: point format, scale, offset and stored
integers, header, records and what stands behind the points stay.

What has to change: how many bytes a point has and where things begin; the record that describes the extra bytes, and that of LASzip.
A record more, of the user id `fip_server`, lists the classes; one of ours that is there already makes way for it.
The index of a COPC file would point to wrong places: its two records stay under the user id `was copc`, the points are plain LAZ.

Unless the file is to be the same, the class of a point is also its classification. What that was before is then the column
`original_classification`, if it was not always 0, and what named the former classes stands under the user id `was LASF_Spec`.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from models.answers.copying import copy_bytes
from models.answers.labelled import ADDED, Labelled, added_names, added_types, prefixed
from models.answers.las_points import NEW_WAVES, PointWriter, count_chunks, laszip_record
from models.answers.las_records import (
    LEGEND,
    MEANINGS,
    Added,
    check_room,
    class_names,
    described_names,
    label_name,
    legend,
    no_longer,
    row_of,
    undescribed,
    vlr,
)
from models.errors import BadOption
from models.io.las import stored_rows
from models.io.las_columns import EXTRA, FIRST_NEW, POINT_FORMATS
from models.io.las_header import (
    COMPRESSED,
    EVLRS_AT,
    EXTRA_BYTES,
    LASZIP,
    LOOKUP,
    VLR,
    WAVEFORM_AT,
    Header,
    Vlr,
    read_header,
)
from models.io.laz import too_many_chunks
from models.io.records import Table
from models.io.source import Source
from models.labels import LabelMap

ORIGINAL = "original_classification"
COPC = b"copc"
CHANNEL_FIELD = "classification_flags"  # from format 6 on
CLASS_AT = {"raw_classification": 15, "classification": 16}  # byte of a point


def check_own(source: Source, label_map: LabelMap, compressed: bool) -> None:
    """Whether a file has room for what is added. Raises: BadOption."""
    header = read_header(source)
    added = _added(header, label_map, original=True)
    described = len(_described(source, header)) // EXTRA.size + len(added)
    base, row = POINT_FORMATS[header.point_format].itemsize, row_of(header.stored.itemsize, added)
    check_room(base, row, described, (each.name for each in added), compressed)
    if compressed and header.point_format in NEW_WAVES:
        blocks = stored_rows(source, header, fields=frozenset((CHANNEL_FIELD,)))
        chunks = count_chunks(block[CHANNEL_FIELD] for block in blocks)
        if too_many_chunks(chunks, header.count, row.itemsize - base):
            raise BadOption("waveforms of points whose scanner channel changes all the time are not packed; ask for las", where="format")


def most_classes(header: Header) -> int:
    """How many classes fit into the classification of a point."""
    return 256 if header.point_format >= FIRST_NEW else 32


def write_own(answer: Labelled, out: BinaryIO, compressed: bool) -> None:
    """Raises: BadOption, what reading the file again raises; OSError."""
    source, named = answer.file.source, not answer.same
    header = read_header(source)
    if named and len(answer.label_map) > most_classes(header):
        raise BadOption(f"points of format {header.point_format} can be of {most_classes(header)} classes", where="format")
    added = _added(header, answer.label_map, original=named and _had_classes(source, header))
    row = row_of(header.stored.itemsize, added)
    copy_bytes(source, 0, header.size, out)
    count = _write_vlrs(answer, header, added, row, compressed, out)
    behind_vlrs, before = out.tell(), header.vlrs[-1].end if header.vlrs else header.size
    copy_bytes(source, before, header.points_at, out)
    points_at = out.tell()
    writer = PointWriter(out, laszip_record(header.point_format, _extra(header, row)) if compressed else None)
    for block in _rows(answer, header, row, named):
        writer.write(block)
    writer.done()
    tail_at = out.tell()
    copy_bytes(source, header.tail_at, source.size, out)

    def moved(place: int) -> int:
        if place >= header.tail_at:
            return place - header.tail_at + tail_at
        return place - before + behind_vlrs if before <= place < header.points_at else place

    for each in header.evlrs:
        if each.user == COPC:
            out.seek(moved(each.offset) + 2)
            out.write(no_longer(COPC))
    _patch_header(source, header, out, points_at, count, row.itemsize, compressed)
    for place in _places(header):
        (old,) = struct.unpack("<Q", source.read_all(place, 8))
        if 0 < old < source.size:
            out.seek(place)
            out.write(struct.pack("<Q", moved(old)))
    out.seek(0, 2)


def _places(header: Header) -> list[int]:
    """Where the header says where something begins."""
    return [*([WAVEFORM_AT] if header.minor >= 3 else []), *([EVLRS_AT] if header.minor >= 4 else [])]


def _patch_header(source: Source, header: Header, out: BinaryIO, points_at: int, vlrs: int, row_bytes: int, compressed: bool) -> None:
    out.seek(96)
    kind = header.point_format | (COMPRESSED if compressed else 0)
    out.write(struct.pack("<IIBH", points_at, vlrs, kind, row_bytes))


def _extra(header: Header, row: np.dtype[np.void]) -> int:
    """The extra bytes of a labelled point."""
    return row.itemsize - POINT_FORMATS[header.point_format].itemsize


def _added(header: Header, label_map: LabelMap, original: bool) -> list[Added]:
    taken = [each.name for each in header.columns] + [each.name for each in header.extra]
    codes = [np.dtype(code).str[1:] for code in added_types(label_map)]
    added = [Added(name, code, MEANINGS[known]) for known, name, code in zip(ADDED, added_names(taken), codes, strict=True)]
    if original:
        added.append(Added(prefixed(ORIGINAL, taken), "u1", MEANINGS[ORIGINAL]))
    return added


def _described(source: Source, header: Header) -> bytes:
    """The descriptions of all extra bytes that there are; of some no more than that they are there."""
    found = header.find(EXTRA_BYTES)
    data = source.read_all(found.body, found.size // EXTRA.size * EXTRA.size) if found and header.extra else b""
    rest = header.stored["rest"].itemsize if "rest" in (header.stored.names or ()) else 0
    return data + undescribed(rest, described_names(data))


def _write_vlrs(answer: Labelled, header: Header, added: list[Added], row: np.dtype[np.void], compressed: bool, out: BinaryIO) -> int:
    """The records before the points; how many they are."""
    source, count = answer.file.source, 0
    body = _described(source, header) + b"".join(each.description for each in added)
    new = {EXTRA_BYTES: vlr(EXTRA_BYTES, body, "Extra Bytes Record"), LEGEND: legend(answer.label_map, label_name(added))}
    if compressed:
        new[LASZIP] = vlr(LASZIP, laszip_record(header.point_format, _extra(header, row)), "http://laszip.org")
    for each in header.vlrs:
        if each.key in new:  # the first of its kind, where it stood
            record = new.pop(each.key)
            out.write(record if each.key == LEGEND else _headed(source, each, record))
        elif each.key in (EXTRA_BYTES, LASZIP, LEGEND):  # a second one counts for nobody; that of LASzip not in LAS
            continue
        else:
            out.write(_kept(source, each, renamed=each.user == COPC or (each.key == LOOKUP and not answer.same)))
        count += 1
    if not answer.same:
        new[LOOKUP] = class_names(answer.label_map)
    for data in new.values():
        out.write(data)
    return count + len(new)


def _kept(source: Source, each: Vlr, renamed: bool) -> bytes:
    data = source.read_all(each.offset, each.head + each.size)
    return data[:2] + no_longer(each.user) + data[18:] if renamed else data


def _headed(source: Source, each: Vlr, new: bytes) -> bytes:
    """A new record under the reserved bytes and the description of the one that it replaces."""
    old = source.read_all(each.offset, VLR.size)
    return old[:20] + new[20:22] + old[22:] + new[VLR.size :]


def _classification(header: Header) -> tuple[str, int]:
    """The field that holds the class of a point, and which of its bits."""
    return ("classification", 0xFF) if header.point_format >= FIRST_NEW else ("raw_classification", 0x1F)


def _had_classes(source: Source, header: Header) -> bool:
    """Whether a point has another class than 0; read up to the first one."""
    field, bits = _classification(header)
    return any((stored[field] & bits).any() for stored in stored_rows(source, header, fields=frozenset((field,))))


def _rows(answer: Labelled, header: Header, row: np.dtype[np.void], named: bool) -> Iterator[Table]:
    """The labelled points, a block at a time."""
    field, bits = _classification(header)
    place = CLASS_AT[field]
    names = (row.names or ())[1:]
    done = 0
    for stored in stored_rows(answer.file.source, header):
        rows = slice(done, done + len(stored))
        done = rows.stop
        block = np.empty(len(stored), row)
        block["stored"] = stored.view(row["stored"])
        columns = answer.added(rows)
        if named:
            before = stored[field] & bits
            block.view(np.uint8).reshape(len(block), -1)[:, place] = (stored[field] & (0xFF ^ bits)) | columns[0].astype(np.uint8)
            columns.append(before)
        for name, column in zip(names, columns, strict=False):
            block[name] = column
        yield block
