"""Small good files of every format, in many dialects: what the fuzzer damages. All are made up, and always the same.

With FIP_DATA the small files of its ply-zoo and meshes come besides: see `real_seeds`.
"""

import io
import struct
import zipfile
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path

import laspy
import lazrs  # type: ignore[import-untyped]
import numpy as np
from plyfile import PlyData, PlyElement
from pypcd4.pypcd4 import Encoding, PointCloud

from tests.fuzz.e57 import seeds as e57_seeds
from tests.pcd_files import KINDS, NUMBERS, Fields, cube, pcd, random_values
from tests.sweep import sweep

POINTS = 12
REAL_BYTES = 40_000  # of a real file, at most
RNG_SEED = 6


def _rng() -> np.random.Generator:
    return np.random.default_rng(RNG_SEED)


def _xyz() -> np.ndarray:
    return _rng().normal(size=(POINTS, 3)).astype("<f4")


def _colours() -> np.ndarray:
    return _rng().integers(0, 256, (POINTS, 3), np.uint8)


# --- PLY and OFF


def _mesh_ply(form: str, body: bytes) -> bytes:
    """Faces before the points, lists among the columns of a point."""
    columns = "".join(
        f"property {kind}\n" for kind in ("list uchar int l", "float x", "double y", "int z", "float red", "float green", "float blue")
    )
    face = "element face 2\nproperty list uchar int vertex_indices\n"
    return f"ply\nformat {form} 1.0\ncomment made up\n{face}element vertex 2\n{columns}end_header\n".encode() + body


def _mesh_body(order: str) -> bytes:
    faces = struct.pack(order + "B3iB4i", 3, 0, 1, 0, 4, 0, 1, 0, 1)
    return faces + b"".join(struct.pack(order + "Bifdifff", 1, 7, i, i, i, 0.5, 1, 0.5) for i in range(2))


def _plyfile(text: bool, order: str) -> bytes:
    rows = np.empty(POINTS, [("x", "f8"), ("y", "f8"), ("z", "f8"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("intensity", "i2")])
    for place, axis in enumerate("xyz"):
        rows[axis] = _xyz()[:, place]
    for place, name in enumerate(("red", "green", "blue")):
        rows[name] = _colours()[:, place]
    rows["intensity"] = np.arange(POINTS)
    faces = np.empty(2, [("vertex_indices", "i4", (3,)), ("flag", "u1")])
    faces["vertex_indices"], faces["flag"] = [[0, 1, 2], [1, 2, 3]], 1
    elements = [PlyElement.describe(rows, "vertex", comments=["points"]), PlyElement.describe(faces, "face")]
    out = io.BytesIO()
    PlyData(elements, text=text, byte_order=order, comments=["by plyfile"], obj_info=["made up"]).write(out)
    return out.getvalue()


def _open3d() -> bytes:
    head = "ply\nformat binary_little_endian 1.0\ncomment Created by Open3D\nelement vertex 12\n"
    kinds = [f"property double {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz")]
    kinds += [f"property uchar {name}\n" for name in ("red", "green", "blue")]
    rows = np.empty(POINTS, "6<f8,3u1")
    rows["f0"], rows["f1"] = np.hstack([_xyz(), _xyz()]), _colours()
    return (head + "".join(kinds) + "end_header\n").encode() + rows.tobytes()


def _splat() -> bytes:
    names = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(9)), "opacity", "scale_0", "rot_0")
    head = "".join(f"property float {name}\n" for name in names)
    body = _rng().normal(size=(POINTS, len(names))).astype("<f4").tobytes()
    return f"ply\nformat binary_little_endian 1.0\nelement vertex {POINTS}\n{head}end_header\n".encode() + body


def ply_seeds() -> list[bytes]:
    head = b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty uchar z\nend_header\n"
    plain = head + b"1 2 3\n-4.5e1 5 6\n7 8 9\n"
    every = "".join(
        f"property {kind} {name}\n"
        for kind, name in zip(("double", "float64", "float", "char", "uint8", "int16", "ushort", "int", "uint32"), "xyzabcdef", strict=True)
    )
    return [
        _mesh_ply("ascii", b"3 0 1 0\n4 0 1 0 1\n1 7 0 0 0 .5 1 .5\n1 7 1 1 1 .5 1 .5\n"),
        _mesh_ply("binary_little_endian", _mesh_body("<")),
        _mesh_ply("binary_big_endian", _mesh_body(">")),
        plain,
        plain.replace(b"\n", b"\r\n"),
        plain.replace(b"\n", b"\r"),
        f"ply\nformat binary_big_endian 1.0\nelement vertex 4\n{every}end_header\n".encode() + _rng().bytes(4 * 38),
        _plyfile(True, "="),
        _plyfile(False, "<"),
        _plyfile(False, ">"),
        _open3d(),
        _splat(),
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty uint packed_position\nend_header\n0\n1\n",
    ]


def off_seeds() -> list[bytes]:
    return [
        b"OFF\n4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n4 0 1 2 3\n",
        b"OFF 3 1 0\n0 0 0\n1 0 0\n0 1e0 0\n3 0 1 2\n",
        b"OFF4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n4 0 1 2 3 255 0 0\n",
        b"COFF\n# colours\n3 1 3\n0 0 0 255 0 0 255\n1 0 0 0 255 0 255\n\n0 1 0 0 0 255 255\n3 0 1 2 # a face\n",
        b"NOFF\r\n3 0 0\r\n0 0 0 0 0 1\r\n1 0 0 0 0 1\r\n0 1 0 0 0 1\r\n",
        b"OFF\n5 0\n" + b"".join(b"%d %d .5\n" % (i, -i) for i in range(5)),
    ]


# --- numpy


def _npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version)
    return out.getvalue()


def npy_seeds() -> list[bytes]:
    wide = np.hstack([_xyz(), _colours()]).astype("<f8")
    plain = [np.asarray(np.round(_xyz() * 10) + 60, kind) for kind in ("<f4", ">f4", "<f8", ">f8", "<f2", "<i4", "u1", ">i2", "<i8", "<u8")]
    ordered = [np.asfortranarray(_xyz()), wide, np.asfortranarray(wide), wide[:, :4].astype(">f4")]
    fields = np.zeros(POINTS, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("label", "u1")])
    versions = [_npy(_xyz(), version) for version in ((1, 0), (2, 0), (3, 0))]
    python2 = _npy(_xyz()).replace(b"(12, 3), }", b"(12L,3L),}")
    return [*map(_npy, plain), *map(_npy, ordered), *versions, _npy(fields), python2]


def zipped(members: dict[str, bytes], method: int) -> bytes:
    """A zip as numpy makes it, of 1980: the same bytes at any time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, data)
    return out.getvalue()


def npz_seeds() -> list[bytes]:
    out = []
    for save in (np.savez, np.savez_compressed):
        for arrays in (
            {"xyz": _xyz(), "rgb": _colours(), "intensity": np.arange(POINTS) / 7},
            {"points": np.asfortranarray(_xyz().astype(">f8")), "label": np.arange(POINTS), "names": np.array(["a"])},
            {"pos": np.hstack([_xyz(), _xyz()]), "colors": _colours(), "scale": np.float32(1), "a": np.arange(POINTS) > 3},
        ):
            buffer = io.BytesIO()
            save(buffer, allow_pickle=True, **arrays)
            out.append(buffer.getvalue())
    return out


# --- bare records, PCD, LAS


def bin_seeds() -> list[bytes]:
    return [sweep(4, 60).tobytes(), sweep(4, 200).tobytes(), np.arange(16, dtype="<f4").tobytes()]


def nuscenes_seeds() -> list[bytes]:
    return [sweep(5, 60).tobytes(), sweep(5, 200).tobytes(), np.arange(20, dtype="<f4").tobytes()]


def _pypcd4(kind: str) -> bytes:
    fields, types = ("x", "y", "z", "rgb", "intensity", "ring", "t"), (np.float32,) * 5 + (np.uint16, np.float64)
    colour = _colours().astype(np.uint32)
    packed = (colour[:, 0] << 16 | colour[:, 1] << 8 | colour[:, 2]).view(np.float32)
    rest = [np.arange(POINTS, dtype=kind) for kind in types[4:]]
    cloud = PointCloud.from_points([*_xyz().T, packed, *rest], fields, types)
    out = io.BytesIO()
    cloud.save(out, encoding=Encoding(kind))
    return out.getvalue()


def pcd_seeds() -> list[bytes]:
    numbers: Fields = [(f"n{place}", code, random_values(code, 8)) for place, code in enumerate(NUMBERS)]
    padded: Fields = [*cube(), ("_", "u1", np.zeros((8, 4), np.uint8)), ("rgb", "f4", np.zeros(8)), ("_", "u1", np.zeros((8, 3), np.uint8))]
    wide: Fields = [*cube("f8"), ("fpfh", "f4", random_values("f4", (8, 33)))]
    bare: Fields = cube()
    old = {"VERSION": "", "SIZE": "", "TYPE": "", "COUNT": "", "VIEWPOINT": "", "POINTS": ""}
    made = [pcd(fields, kind) for kind in KINDS for fields in (bare, [*bare, *numbers], padded, wide)]
    return [*made, pcd(bare, "ascii", **old), pcd(bare, "binary", WIDTH="4", HEIGHT="2"), *map(_pypcd4, KINDS)]


def _las(point_format: int, minor: int, packed: bool, extra: bool = False) -> bytes:
    header = laspy.LasHeader(version=f"1.{minor}", point_format=point_format)
    header.scales, header.offsets = np.array([0.001, 0.001, 0.01]), np.array([500_000.0, 5_000_000.0, 0.0])
    header.creation_date = date(2026, 1, 1)
    header.generating_software = "made up"
    if extra:
        header.add_extra_dim(laspy.ExtraBytesParams("height", "f4", "above ground"))
        header.add_extra_dim(laspy.ExtraBytesParams("normal", "3i2", "scaled", scales=[0.1] * 3, offsets=[0.0] * 3))
        header.vlrs.append(laspy.VLR("tests", 7, "one", b"of our own"))
    las = laspy.LasData(header)
    las.x, las.y, las.z = (_xyz() * 50 + np.array([500_100, 5_000_100, 80])).T
    las.intensity = np.arange(POINTS) * 900
    las.classification = np.arange(POINTS) % 5
    for place, name in enumerate(("red", "green", "blue")):
        if name in las.point_format.dimension_names:
            las[name] = _colours()[:, place].astype(np.uint16) * 257
    if "gps_time" in las.point_format.dimension_names:
        las.gps_time = np.arange(POINTS) * 0.1 + 3e5
    if extra:
        las.height = np.arange(POINTS, dtype="f4")
        if minor == 4:
            las.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR("tests", 8, "long", b"behind the points" * 3)])
    out = io.BytesIO()
    las.write(out, do_compress=packed)
    return out.getvalue()


def _chunked(las: bytes, points: int) -> bytes:
    """The LAZ of a LAS without any records, packed in chunks of `points` each, which laspy cannot be told to do."""
    (begin,), (kind, row) = struct.unpack_from("<I", las, 96), struct.unpack_from("<BH", las, 104)
    vlr = lazrs.LazVlr.new_for_compression(kind, 0, use_variable_size_chunks=True)
    record = vlr.record_data()
    head = bytearray(las[:begin])
    struct.pack_into("<IIB", head, 96, begin + 54 + len(record), 1, kind | 0x80)
    head += struct.pack("<H16sHH32s", 0, b"laszip encoded", 22204, len(record), b"") + record
    out = io.BytesIO(head)
    out.seek(0, io.SEEK_END)
    packer = lazrs.LasZipCompressor(out, vlr)
    for start in range(0, POINTS, points):
        packer.compress_many(np.frombuffer(las, np.uint8, min(points, POINTS - start) * row, begin + start * row))
        packer.finish_current_chunk()
    packer.done()
    return out.getvalue()


def las_seeds() -> list[bytes]:
    old = [_las(kind, minor, packed) for kind, minor in ((0, 1), (1, 2), (2, 2), (3, 2), (4, 3), (5, 3)) for packed in (False, True)]
    new = [_las(kind, 4, packed) for kind in range(6, 11) for packed in (False, True)]
    more = [_las(kind, minor, packed, True) for kind, minor in ((3, 2), (6, 4), (7, 4)) for packed in (False, True)]
    chunked = [_chunked(_las(kind, minor, False), points) for kind, minor, points in ((3, 2, 5), (6, 4, 4), (7, 4, 12))]
    return [*old, *new, *more, *chunked]


# --- texts


def _rows(columns: int, separator: str, form: str = "{:.3f}") -> str:
    table = np.hstack([_xyz(), _colours()[:, : max(0, columns - 3)]])[:, :columns]
    return "".join(separator.join([*(form.format(v) for v in row[:3]), *(f"{v:.0f}" for v in row[3:])]) + "\n" for row in table.tolist())


def xyz_seeds() -> list[bytes]:
    texts = [
        _rows(3, " "),
        _rows(6, "\t"),
        _rows(4, "   ", "{:.17g}").replace("\n", "\r\n"),
        _rows(6, " ", "{:.6e}"),
        "//X Y Z R G B\n12\n" + _rows(6, " "),
        "# a scan\n# x y z red green blue\n\n" + _rows(6, " ") + "% done\n",
        _rows(3, ";").replace(".", ","),
        "x\ty\tz\tname\n" + "".join(f"{line}\ttree {n}\n" for n, line in enumerate(_rows(3, "\t").splitlines())),
        _rows(3, " ").replace("\n", "\r"),
        "1 2 nan\n" + _rows(3, " ") + "inf -inf 0\n\n",
    ]
    return [text.encode() for text in texts] + [b"\xef\xbb\xbf" + _rows(3, " ").encode(), "größe x y z\n".encode("latin-1") + b"1 2 3 4\n"]


def pts_seeds() -> list[bytes]:
    rows = [f"{x:.5f} {y:.5f} {z:.5f} {i} {r} {g} {b}" for i, ((x, y, z), (r, g, b)) in enumerate(zip(_xyz(), _colours(), strict=True))]
    body = "\n".join(rows) + "\n"
    texts = [
        f"{POINTS}\n{body}",
        f"{POINTS}\r\n{body}".replace("\n", "\r\n"),
        f"{POINTS}\n{body}{POINTS}\n{body}",
        "3\n" + _rows(3, " ")[:0] + "1 2 3\n" * 3,
    ]
    return [text.encode() for text in texts]


def csv_seeds() -> list[bytes]:
    quoted = "".join(f'"{line.split(",")[0]}",{",".join(line.split(",")[1:])},"a, ""b"""\n' for line in _rows(3, ",").splitlines())
    texts = [
        "x,y,z\n" + _rows(3, ","),
        "X,Y,Z,Red,Green,Blue\n" + _rows(6, ",").replace("\n", "\r\n"),
        '"x","y","z","what, it is"\n' + quoted,
        "x;y;z\n" + _rows(3, ";").replace(".", ","),
        "Points:0,Points:1,Points:2\n" + _rows(3, ","),
        "x,y,z,intensity\n" + "".join(f"{line},\n" for line in _rows(3, ",").splitlines()) + "1,2,3,4\n",
        _rows(6, ","),
    ]
    return [text.encode() for text in texts]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "ply": ply_seeds,
    "off": off_seeds,
    "npy": npy_seeds,
    "npz": npz_seeds,
    "bin": bin_seeds,
    "nuscenes": nuscenes_seeds,
    "pcd": pcd_seeds,
    "las": las_seeds,
    "xyz": xyz_seeds,
    "pts": pts_seeds,
    "csv": csv_seeds,
    "e57": e57_seeds,
}


@cache
def seeds_of(fmt: str) -> tuple[bytes, ...]:
    return tuple(SEEDS[fmt]())


@cache
def real_seeds(fmt: str, data: Path) -> tuple[bytes, ...]:
    """The small files of FIP_DATA of a format, in the order of their names."""
    folders = ("ply-zoo", "meshes/off", "meshes/modelnet")
    paths = sorted(path for folder in folders for path in (data / folder).glob(f"*.{fmt}"))
    return tuple(path.read_bytes() for path in paths if 0 < path.stat().st_size <= REAL_BYTES)
