"""PCD files written value by value, for tests of the reader and of answers."""

import struct
from pathlib import Path

import lzf
import numpy as np

from models.io import open_cloud

KINDS = ("ascii", "binary", "binary_compressed")
NUMBERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
Fields = list[tuple[str, str, np.ndarray]]  # name, numpy's code, (n,) or (n, count)


def header_of(fields: Fields, data: str, n: int, **lines: str) -> bytes:
    """The usual lines; `lines` replace some of them, the empty text leaves one out."""
    found = {
        "VERSION": "0.7",
        "FIELDS": " ".join(name for name, _, _ in fields),
        "SIZE": " ".join(code[1:] for _, code, _ in fields),
        "TYPE": " ".join(code[0].upper() for _, code, _ in fields),
        "COUNT": " ".join(str(values.shape[1] if values.ndim > 1 else 1) for _, _, values in fields),
        "WIDTH": str(n),
        "HEIGHT": "1",
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(n),
        "DATA": data,
    } | lines
    found["DATA"] = found.pop("DATA")  # the last one
    return b"# .PCD v0.7 - Point Cloud Data file format\n" + "".join(f"{key} {text}\n" for key, text in found.items() if text).encode()


def body_of(fields: Fields, data: str, bare: bool = False) -> bytes:
    """The points as PCL stores them; `bare`: without padding, as it does in compressed files."""
    columns = [values.reshape(len(values), -1).astype(f"<{code}") for name, code, values in fields if not (bare and name == "_")]
    if data == "ascii":
        return "".join(
            " ".join(str(value) for column in columns for value in column[row].tolist()) + "\n" for row in range(len(columns[0]))
        ).encode()
    if data == "binary":
        return np.hstack([column.view(np.uint8).reshape(len(column), -1) for column in columns]).tobytes()
    plain = b"".join(column.tobytes() for column in columns)
    packed = lzf.compress(plain, 2 * len(plain) + 64)
    return struct.pack("<2I", len(packed), len(plain)) + packed


def pcd(fields: Fields, data: str = "binary", **lines: str) -> bytes:
    return header_of(fields, data, len(fields[0][2]), **lines) + body_of(fields, data)


def cube(code: str = "f4") -> Fields:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * 10
    return [(axis, code, corners[:, i]) for i, axis in enumerate("xyz")]


def table_of(path: Path) -> np.ndarray:
    """All rows of a file, its columns as the reader names them."""
    with open_cloud(path) as file:
        return np.concatenate([np.array(table) for table in file.records.read()])


def random_values(code: str, shape: int | tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if code[0] == "f":
        return (rng.normal(size=shape) * 10.0 ** rng.integers(-8, 8, shape)).astype(code)
    limits = np.iinfo(code)
    return rng.integers(limits.min, limits.max, shape, code, endpoint=True)


COLOURS = np.array([0, 0xFF0000, 0x00FF00, 0x0000FF, 0x123456, 0xFFFFFF, 0x808080, 0x010203], np.uint32)


def names_of(rows: np.ndarray) -> tuple[str, ...]:
    return rows.dtype.names or ()
