"""LAS 1.4 for a cloud that came as something else: points of format 6, or 7 where it has colour; what LAS has no field for as extra bytes.

Coordinates are whole multiples of a power of ten, the scale, counted from an offset near the smallest one. The scale is the same for
x, y and z, and fine enough for what the type of the coordinates can tell apart where they are largest; not coarser than 0.001 and not
finer than 32 bits can count over the extent of the cloud. A coordinate is at most half a scale off: 0.5 µm for a KITTI scan in
float32, 0.5 µm for a square kilometre in doubles, 0.5 mm for 1,000 km.

Colours are 257 times what they were, so that 255 is 65535. Intensity of whole numbers up to 65535 is kept; of 0 to 1 times 65535, other
values over their range; then they also stay as they are in `original_intensity`. gps_time, user_data, point_source_id and scan_angle go
where LAS has them, a classification into `original_classification`, further names of LAS get `_2`.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from models.answers.labelled import ADDED, WIDENED, Labelled, added_names, added_types, code_of
from models.answers.las_points import PointWriter, laszip_record
from models.answers.las_records import MEANINGS, Added, check_room, class_names, label_name, legend, row_of, vlr
from models.errors import BadOption
from models.io import CloudFile
from models.io.columns import roles_of
from models.io.las_columns import EXTRA_TYPES, POINT_FORMATS, columns_of
from models.io.las_header import COMPRESSED, EXTRA_BYTES, LASZIP, SIZES
from models.io.names import numbered
from models.io.records import BLOCK_ROWS, Table
from models.labels import LabelMap
from models.pointcloud import PointCloud

KEPT = ("gps_time", "user_data", "point_source_id", "scan_angle")  # columns that LAS has a field for, if their values fit
COARSEST = 1e-3  # unless the extent demands it
MOST_STEPS = (1 << 31) - 1
MOST_CLASSES, MOST_INTENSITY = 256, 65535
WKT = 0x10  # of the global encoding: coordinate systems are given as text; formats 6 and above must say so
RETURNS = 0x11  # the first return of one


@dataclass(frozen=True)
class Plan:
    """Where the columns of a file go. fields: columns of LAS; extra: of the others, with the column that each is."""

    point_format: int
    fields: tuple[str, ...]
    extra: tuple[tuple[str, Added], ...]
    intensity: str | None


def check_new(file: CloudFile, label_map: LabelMap, compressed: bool) -> None:
    """Raises: BadOption (more classes or columns than LAS can hold, a name or a type that it has not)."""
    if len(label_map) > MOST_CLASSES:
        raise BadOption(f"LAS can hold {MOST_CLASSES} classes, the model has {len(label_map)}; ask for another format", where="format")
    plan = plan_of(file, label_map, keep_intensity=True)
    added = _all_added(plan, label_map)
    base = POINT_FORMATS[plan.point_format].itemsize
    check_room(base, row_of(base, added), len(added), (each.name for each in added), compressed)


def plan_of(file: CloudFile, label_map: LabelMap, keep_intensity: bool) -> Plan:
    """Raises: BadOption (a column of a type that LAS has not)."""
    records = file.records
    roles = roles_of(records.names)
    point_format = 7 if roles.rgb else 6
    layout = POINT_FORMATS[point_format]
    fields = tuple(name for name in roles.extra if name in KEPT and np.can_cast(records.dtype[name], layout[name], "safe"))
    others = [(name, "original_classification" if name == "classification" else name) for name in roles.extra if name not in fields]
    if roles.intensity is not None and keep_intensity:
        others.insert(0, (roles.intensity, "original_intensity"))
    taken = {each.name.lower() for each in columns_of(point_format, layout, [], (1.0,) * 3, (0.0,) * 3)} | {"x", "y", "z"}
    extra = []
    for name, word in others:
        dtype = records.dtype[name]
        code = WIDENED.get(code_of(dtype), code_of(dtype))
        if code not in EXTRA_TYPES:
            raise BadOption(f"LAS cannot hold the column {name[:80]!r} ({dtype}); ask for another format", where="format")
        free = numbered(word.replace("\0", "_") or "extra_bytes", taken, key=str.lower)
        taken.add(free.lower())
        extra.append((name, Added(free, code)))
    return Plan(point_format, fields, tuple(extra), roles.intensity)


def _all_added(plan: Plan, label_map: LabelMap) -> list[Added]:
    columns = columns_of(plan.point_format, POINT_FORMATS[plan.point_format], [], (1.0,) * 3, (0.0,) * 3)
    taken = [each.name for each in columns] + [each.name for _, each in plan.extra]
    codes = [np.dtype(code).str[1:] for code in added_types(label_map)]
    added = [Added(name, code, MEANINGS[known]) for known, name, code in zip(ADDED, added_names(taken), codes, strict=True)]
    return [each for _, each in plan.extra] + added


def write_new(answer: Labelled, out: BinaryIO, compressed: bool) -> None:
    """Raises: BadOption, what reading the file again raises; OSError."""
    if len(answer.label_map) > MOST_CLASSES:
        raise BadOption(f"LAS can hold {MOST_CLASSES} classes, the model has {len(answer.label_map)}", where="format")
    as_it_is, intensity_scale, intensity_offset = _intensity(answer)
    plan = plan_of(answer.file, answer.label_map, keep_intensity=not as_it_is)
    added = _all_added(plan, answer.label_map)
    layout = POINT_FORMATS[plan.point_format]
    row = np.dtype(
        [*((name, layout[name]) for name in layout.names or ()), *((f"added {i}", "<" + each.code) for i, each in enumerate(added))]
    )
    scale, offset = scaling(answer.cloud.xyz, _spacing(answer))
    vlrs = [vlr(EXTRA_BYTES, b"".join(each.description for each in added), "Extra Bytes Record"), class_names(answer.label_map)]
    vlrs.append(legend(answer.label_map, label_name(added)))
    record = laszip_record(plan.point_format, row.itemsize - layout.itemsize) if compressed else None
    if record is not None:
        vlrs.append(vlr(LASZIP, record, "http://laszip.org"))
    head = _header(answer.cloud, plan.point_format | (COMPRESSED if compressed else 0), row.itemsize, vlrs, scale, offset)
    out.write(head + b"".join(vlrs))
    writer = PointWriter(out, record)
    wanted = [*plan.fields, *(name for name, _ in plan.extra)]
    for rows, table in _tables(answer, wanted):
        block = np.zeros(rows.stop - rows.start, row)
        _fill_standard(block, answer, rows, scale, offset)
        if answer.cloud.intensity is not None:
            block["intensity"] = np.rint((answer.cloud.intensity[rows].astype(np.float64) - intensity_offset) * intensity_scale)
        for name in plan.fields:
            block[name] = table[name]
        columns = [table[name] for name, _ in plan.extra] + answer.added(rows)
        for place, column in enumerate(columns):
            block[f"added {place}"] = column
        writer.write(block)
    writer.done()


def scaling(xyz: npt.NDArray[np.floating], spacing: float) -> tuple[float, npt.NDArray[np.float64]]:
    """The scale, a power of ten, and the offset (3,) of coordinates (N, 3) that lie `spacing` apart at the least."""
    low, high = xyz.min(axis=0).astype(np.float64), xyz.max(axis=0).astype(np.float64)
    offset = np.array([_rounded_down(*each) for each in zip(low.tolist(), high.tolist(), strict=True)])
    finest = max(_power(math.floor(math.log10(spacing))) if spacing < COARSEST else COARSEST, 1e-15)
    if spacing == 1:
        finest = 1.0
    steps = float((high - offset).max()) / MOST_STEPS
    return max(finest, _power(math.ceil(math.log10(steps)))) if steps > 0 else finest, offset


def _rounded_down(low: float, high: float) -> float:
    """A number with few digits, at most as far below `low` as the extent."""
    if high == low:
        return low
    unit = _power(math.floor(math.log10(high - low)))
    return math.floor(low / unit) * unit


def _power(exponent: int) -> float:
    """10 to some power, the nearest double to it."""
    return float(f"1e{max(exponent, -300)}")


def _spacing(answer: Labelled) -> float:
    """How far apart coordinates of the type of the file are where they are largest; 1 where they are whole by their type."""
    types = [answer.file.records.dtype[name] for name in roles_of(answer.file.records.names).xyz]
    if all(each.kind in "iub" for each in types):
        return 1.0
    largest = max(abs(float(answer.cloud.xyz.min())), abs(float(answer.cloud.xyz.max())))
    coarsest = min((each for each in types if each.kind == "f"), key=lambda each: each.itemsize)
    return float(np.spacing(np.asarray(largest, coarsest.newbyteorder("="))))


def _intensity(answer: Labelled) -> tuple[bool, float, float]:
    """Whether LAS holds the intensity as it is; what it is multiplied by, after what is taken off it."""
    values, name = answer.cloud.intensity, roles_of(answer.file.records.names).intensity
    if values is None or name is None:
        return True, 1.0, 0.0
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > MOST_INTENSITY:
        return False, MOST_INTENSITY / (high - low) if high > low else 1.0, low
    whole = all((block == np.rint(block)).all() for block in np.array_split(values, len(values) // BLOCK_ROWS + 1))
    if whole and answer.file.records.dtype[name].kind == "f" and answer.file.records.dtype[name].itemsize > 4:
        tables = answer.file.records.only((name,)).read()
        whole = all((table[name] == np.rint(table[name])).all() for table in tables)  # as float32 they may only seem to be
    if whole:
        return True, 1.0, 0.0
    return False, MOST_INTENSITY if high <= 1 else 1.0, 0.0


def _tables(answer: Labelled, wanted: list[str]) -> Iterator[tuple[slice, Table]]:
    """The rows of the file with some of its columns; it is not read again for none."""
    if wanted:
        yield from answer.file.records.only(wanted).blocks()
        return
    for start in range(0, len(answer.cloud), BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, len(answer.cloud)))
        yield rows, np.empty(rows.stop - rows.start, np.dtype([("none", "u1")]))


def _fill_standard(block: Table, answer: Labelled, rows: slice, scale: float, offset: npt.NDArray[np.float64]) -> None:
    """Coordinates, colour, class, and that each point is the only return."""
    for axis, name in enumerate("XYZ"):
        block[name] = np.rint((answer.cloud.xyz[rows, axis].astype(np.float64) - offset[axis]) / scale)
    if answer.cloud.rgb is not None:
        for channel, name in enumerate(("red", "green", "blue")):
            block[name] = answer.cloud.rgb[rows, channel].astype(np.uint16) * 257
    block["classification"] = answer.labels[rows]
    block["bit_fields"] = RETURNS


def _header(cloud: PointCloud, kind: int, row_bytes: int, vlrs: list[bytes], scale: float, offset: npt.NDArray[np.float64]) -> bytes:
    """Of LAS 1.4. It has no date: the same question gives the same bytes."""
    size, count = SIZES[4], len(cloud)
    ends = [np.rint((each.astype(np.float64) - offset) / scale) * scale + offset for each in (cloud.xyz.max(axis=0), cloud.xyz.min(axis=0))]
    return b"".join(
        [
            struct.pack("<4sHH16xBB32s32sHH", b"LASF", 0, WKT, 1, 4, b"OTHER", b"fip-server", 0, 0),
            struct.pack("<HIIBH24x", size, size + sum(map(len, vlrs)), len(vlrs), kind, row_bytes),
            struct.pack("<6d", *[scale] * 3, *offset),
            np.stack(ends, axis=1).astype("<f8").tobytes(),
            struct.pack("<QQIQ15Q", 0, 0, 0, count, count, *[0] * 14),
        ]
    )
