"""The columns of LAS points: what the point formats 0 to 10 store, and what extra bytes add.

n rows, r bytes a row. Source: ASPRS LAS specification 1.4 R15, tables 7 to 18 (point formats) and 24, 25 (extra bytes); the names are
those that laspy gives, so that scripts find them.
"""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import BadHeader, HeaderTooLarge
from models.io.records import BLOCK_ROWS, Table

BLOCK_BYTES = 4 << 20  # of points as they are stored
COLUMNS = 256  # of one file, as many as the properties of a PLY element

_HEAD = "X:i4 Y:i4 Z:i4 intensity:u2 bit_fields:u1 "
_OLD = _HEAD + "raw_classification:u1 scan_angle_rank:i1 user_data:u1 point_source_id:u2"
_NEW = _HEAD + "classification_flags:u1 classification:u1 user_data:u1 scan_angle:i2 point_source_id:u2 gps_time:f8"
_TIME, _RGB, _NIR = " gps_time:f8", " red:u2 green:u2 blue:u2", " nir:u2"
_WAVE = " wavepacket_index:u1 wavepacket_offset:u8 wavepacket_size:u4 return_point_wave_location:f4 x_t:f4 y_t:f4 z_t:f4"  # not the packets
_LAYOUTS = (
    *(_OLD, _OLD + _TIME, _OLD + _RGB, _OLD + _TIME + _RGB, _OLD + _TIME + _WAVE, _OLD + _TIME + _RGB + _WAVE),
    *(_NEW, _NEW + _RGB, _NEW + _RGB + _NIR, _NEW + _WAVE, _NEW + _RGB + _NIR + _WAVE),
)
POINT_FORMATS = tuple(
    np.dtype([(name, "<" + code) for name, _, code in (word.partition(":") for word in layout.split())]) for layout in _LAYOUTS
)
FIRST_NEW = 6  # the point format from which a class has a byte of its own

# parts of a byte: name, lowest bit, bits
_RETURNS_OLD = (("return_number", 0, 3), ("number_of_returns", 3, 3), ("scan_direction_flag", 6, 1), ("edge_of_flight_line", 7, 1))
_CLASS_OLD = (("classification", 0, 5), ("synthetic", 5, 1), ("key_point", 6, 1), ("withheld", 7, 1))
_FLAGS_NEW = (("synthetic", 0, 1), ("key_point", 1, 1), ("withheld", 2, 1), ("overlap", 3, 1))
_CHANNEL_NEW = (("scanner_channel", 4, 2), ("scan_direction_flag", 6, 1), ("edge_of_flight_line", 7, 1))
_PARTS_OLD = {"bit_fields": _RETURNS_OLD, "raw_classification": _CLASS_OLD}
_PARTS_NEW = {"bit_fields": (("return_number", 0, 4), ("number_of_returns", 4, 4)), "classification_flags": _FLAGS_NEW + _CHANNEL_NEW}

EXTRA_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")  # data types 1 to 10; 11 to 30 are two or three of them
EXTRA = struct.Struct("<2xBB32s4x24s24s24s3d3d32s")  # one description of extra bytes
SCALED, MOVED = 0b1000, 0b10000  # bits of its options: the scale and the offset count


@dataclass(frozen=True)
class ExtraField:
    """What one description of extra bytes says: `width` values of numpy's type `code` a row, each times its scale plus its offset.

    unknown: it says no more than that there are some bytes.
    """

    name: str
    code: str
    width: int
    scales: tuple[float, ...] | None
    offsets: tuple[float, ...] | None
    unknown: bool = False

    @property
    def bytes(self) -> int:
        return self.width * int(self.code[1:])


@dataclass(frozen=True)
class Column:
    """A column as it is read: a field of the stored row, one value or some bits of it; as it is stored, or times a scale plus an offset."""

    name: str
    dtype: np.dtype[np.generic]
    field: str
    element: int | None = None  # of a field of several values
    bits: tuple[int, int] | None = None  # lowest bit and number of bits
    scale: tuple[float, float] | None = None  # scale and offset

    def fill(self, stored: Table, out: npt.NDArray[np.generic]) -> None:
        """The values (n,) of rows as they are stored."""
        values = stored[self.field]
        if self.element is not None:
            values = values[:, self.element]
        if self.scale is not None:  # as laspy computes it: in double, first times, then plus
            np.multiply(values, self.scale[0], out=out, dtype=np.float64)
            np.add(out, self.scale[1], out=out)
        elif self.bits is not None:
            np.right_shift(values, self.bits[0], out=out)
            np.bitwise_and(out, (1 << self.bits[1]) - 1, out=out)
        else:
            out[:] = values


def extra_fields(data: bytes) -> list[ExtraField]:
    """What the record of extra bytes describes. Raises: BadHeader (an unknown type), HeaderTooLarge."""
    fields: list[ExtraField] = []
    if len(data) // EXTRA.size > COLUMNS:
        raise HeaderTooLarge(f"{len(data) // EXTRA.size} extra bytes fields, the limit is {COLUMNS}", where="extra bytes")
    for values in EXTRA.iter_unpack(data[: len(data) // EXTRA.size * EXTRA.size]):
        kind, options, name, _, _, _, *numbers, _ = values
        scales, offsets = tuple(numbers[:3]), tuple(numbers[3:])
        if kind > 3 * len(EXTRA_TYPES):
            raise BadHeader(f"extra bytes of the unknown type {kind}", where=f"extra bytes field {len(fields)}")
        word = text_of(name)
        if kind == 0:  # undocumented: the options are the number of bytes
            fields.append(ExtraField(word, "u1", options, None, None, unknown=True))
            continue
        width, place = divmod(kind - 1, len(EXTRA_TYPES))
        fields.append(
            ExtraField(word, EXTRA_TYPES[place], width + 1, scales if options & SCALED else None, offsets if options & MOVED else None)
        )
    return fields


def rows_a_block(row: np.dtype[np.void]) -> int:
    """How many points are read at once."""
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // row.itemsize))


def text_of(data: bytes) -> str:
    """Text of fixed length that ends at its first zero byte."""
    data = data.partition(b"\0")[0]
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError:
        return data.decode("latin-1").strip()


def stored_type(point_format: int, row_bytes: int, extra: list[ExtraField]) -> np.dtype[np.void]:
    """The row as it is stored: the fields of the point format, then `extra 0`, `extra 1`, ..., then `rest`, what nothing describes.

    Names with a blank cannot be those of standard fields.
    """
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    base = POINT_FORMATS[point_format]
    fields += [(name, base[name].str) for name in base.names or ()]
    fields += [(f"extra {i}", "<" + each.code, (each.width,)) for i, each in enumerate(extra)]
    rest = row_bytes - base.itemsize - sum(each.bytes for each in extra)
    return np.dtype([*fields, *([("rest", "u1", (rest,))] if rest else [])])


def columns_of(
    point_format: int, stored: np.dtype[np.void], extra: list[ExtraField], scales: tuple[float, ...], offsets: tuple[float, ...]
) -> tuple[Column, ...]:
    """The columns of a file, each name once: x, y, z, the other fields of the point format, the extra bytes.

    Bytes of unknown use are left out where there would be more columns than a file may have. Raises: HeaderTooLarge.
    """
    double = np.dtype(np.float64)
    found = [Column(axis, double, axis.upper(), scale=each) for axis, *each in zip("xyz", scales, offsets, strict=True)]  # type: ignore[arg-type]
    parts = _PARTS_NEW if point_format >= FIRST_NEW else _PARTS_OLD
    for name in (POINT_FORMATS[point_format].names or ())[3:]:
        if name in parts:
            found += [Column(part, np.dtype(np.uint8), name, bits=(low, bits)) for part, low, bits in parts[name]]
        else:
            found.append(Column(name, stored[name], name))
    fields = [(each, f"extra {place}") for place, each in enumerate(extra)]
    if "rest" in (stored.names or ()):
        fields.append((ExtraField("ExtraBytes", "u1", stored["rest"].shape[0], None, None, unknown=True), "rest"))
    known = len(found) + sum(each.width for each, _ in fields if not each.unknown)
    if known > COLUMNS:
        raise HeaderTooLarge(f"{known} columns, the limit is {COLUMNS}", where="extra bytes")
    for each, stored_as in fields:
        if not each.unknown or known + each.width <= COLUMNS:
            found += _extra_columns(each, stored_as)
            known += each.width if each.unknown else 0
    return _each_name_once(found)


def _extra_columns(field: ExtraField, stored_as: str) -> list[Column]:
    name, plain = field.name or "extra_bytes", np.dtype("<" + field.code)
    columns = []
    for i in range(field.width):
        word = name if field.width == 1 else f"{name}_{i}"
        if field.scales is None and field.offsets is None:
            columns.append(Column(word, plain, stored_as, i))
        else:
            scale = (field.scales[i] if field.scales else 1.0, field.offsets[i] if field.offsets else 0.0)
            columns.append(Column(word, np.dtype(np.float64), stored_as, i, scale=scale))
    return columns


def _each_name_once(columns: list[Column]) -> tuple[Column, ...]:
    """A name that is there already gets `_2`, `_3`, ..."""
    taken: dict[str, Column] = {}
    for each in columns:
        name, number = each.name, 1
        while name in taken:
            number += 1
            name = f"{each.name}_{number}"
        taken[name] = Column(name, each.dtype, each.field, each.element, each.bits, each.scale)
    return tuple(taken.values())
