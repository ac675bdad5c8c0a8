"""LAS and LAZ files for tests, written by laspy: random bits in every field, extra bytes of every kind, records of many a use."""

import io
import struct

import laspy
import numpy as np
from laspy import ExtraBytesParams as Extra
from laspy.vlrs import VLR
from laspy.vlrs.vlrlist import VLRList

VERSIONS = {"1.1": (0, 1), "1.2": range(4), "1.3": range(6), "1.4": range(11)}
LAYOUTS = [(version, number) for version, numbers in VERSIONS.items() for number in numbers]
EXTRA = [
    Extra("height", "f4", description="above ground"),
    Extra("normal", "3f4"),
    Extra("scaled", "i2", scales=[0.01], offsets=[5.0]),
    Extra("scaled3", "3i4", scales=[0.01, 0.1, 1.0], offsets=[5.0, 0.0, 1e6]),
    Extra("bytes", "7u1"),
    Extra("count", "u8"),
    Extra("fine", "f8"),
]
SCALES, OFFSETS = [0.0001, 0.002, 0.25], [456000.0, 5432000.0, -7.5]  # UTM
CRS = 'PROJCS["WGS 84 / UTM zone 32N",AUTHORITY["EPSG","32632"]]'


def las_data(number: int, version: str, n: int, extra: list[Extra] = EXTRA, *, seed: int = 0) -> laspy.LasData:
    """Points whose stored bytes are random, but for floats, which are numbers; one scanner channel."""
    header = laspy.LasHeader(version=version, point_format=number)
    header.add_extra_dims(extra)
    header.scales, header.offsets = np.array(SCALES), np.array(OFFSETS)
    header.system_identifier, header.generating_software = "scanner", "unit test"
    header.vlrs.append(VLR("somebody", 7, "of unknown use", b"\0\1\2" * 100))
    header.vlrs.append(VLR("LASF_Projection", 2112, "wkt", CRS.encode() + b"\0"))
    raw = np.random.default_rng(seed).integers(0, 256, (n, header.point_format.size), np.uint8)
    table = np.frombuffer(raw.tobytes(), header.point_format.dtype()).copy()
    for name in table.dtype.names:
        if table.dtype[name].base.kind == "f":
            table[name] = np.random.default_rng(seed).normal(size=table[name].shape)
    if number >= 6:
        table["classification_flags"] &= 0xCF
    las = laspy.LasData(header)
    las.points = laspy.ScaleAwarePointRecord(table, header.point_format, header.scales, header.offsets)
    if version == "1.4":
        las.evlrs = VLRList([VLR("somebody", 8, "extended", b"waves" * 20000)])
    return las


def las_bytes(number: int, version: str, n: int = 300, extra: list[Extra] = EXTRA, *, compressed: bool = False, seed: int = 0) -> bytes:
    return bytes_of(las_data(number, version, n, extra, seed=seed), compressed=compressed)


def bytes_of(las: laspy.LasData, *, compressed: bool = False) -> bytes:
    out = io.BytesIO()
    las.write(out, do_compress=compressed, laz_backend=laspy.LazBackend.Lazrs if compressed else None)
    return out.getvalue()


def columns_of(las: laspy.LasData) -> dict[str, np.ndarray]:
    """What laspy reads: x, y, z, then its dimensions; those of several values a point as name_0, name_1, ..."""
    columns = {axis: np.asarray(las[axis]) for axis in "xyz"}
    for name in list(las.point_format.dimension_names)[3:]:
        values = np.asarray(las[name])
        columns |= {name: values} if values.ndim == 1 else {f"{name}_{i}": values[:, i] for i in range(values.shape[1])}
    return columns


def patched(data: bytes, place: int, form: str, *values: float) -> bytes:
    """With other numbers at a place, little-endian."""
    out = bytearray(data)
    struct.pack_into("<" + form, out, place, *values)
    return bytes(out)


def number_at(data: bytes, place: int, form: str) -> int:
    return int(struct.unpack_from("<" + form, data, place)[0])


def points_at(data: bytes) -> int:
    return number_at(data, 96, "I")


def record_at(data: bytes, user: bytes) -> int:
    """Where the header of the variable length record of a user id begins."""
    return data.index(user.ljust(16, b"\0")) - 2
