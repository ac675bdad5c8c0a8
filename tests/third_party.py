"""Cloud files as other programs write them, of made-up or given points: laspy, pypcd4, plyfile and numpy themselves, and texts as Open3D
and CloudCompare write them. N points; what is random is the same every time.
"""

from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path

import laspy
import numpy as np
from plyfile import PlyData, PlyElement
from pypcd4.pypcd4 import Encoding, PointCloud

Columns = dict[str, np.ndarray]
Writer = Callable[[Path], Path]
UTM = np.array([501_234.5, 5_412_345.25, 312.0])
WAVES = ("wavepacket_index", "wavepacket_offset", "wavepacket_size", "return_point_wave_location", "x_t", "y_t", "z_t")


def columns_of(n: int = 500, seed: int = 0) -> Columns:
    """x, y, z as whole millimetres in UTM, colours, an intensity of 16 bits, and three columns of other types."""
    rng = np.random.default_rng(seed)
    xyz = UTM + rng.integers(-100_000, 100_000, (n, 3)) / 1000
    rgb = rng.integers(0, 256, (n, 3), np.uint8)
    return {
        **dict(zip("xyz", xyz.T, strict=True)),
        **dict(zip(("red", "green", "blue"), rgb.T, strict=True)),
        "intensity": rng.integers(0, 65536, n, np.uint16),
        "height": rng.normal(size=n).astype("f4"),
        "count": rng.integers(-(1 << 31), 1 << 31, n).astype("i4"),
        "precise": rng.normal(size=n),
    }


def in_metres(columns: Columns) -> Columns:
    """The same near the origin, as float32."""
    near = {axis: (columns[axis] - UTM[place]).astype("f4") for place, axis in enumerate("xyz")}
    return columns | near


# --- laspy


def las(path: Path, point_format: int, minor: int, n: int = 1000, seed: int = 0) -> Path:
    """Any values in all fields, extra bytes of many types, records of our own before and behind the points."""
    rng = np.random.default_rng(seed)
    header = laspy.LasHeader(version=f"1.{minor}", point_format=point_format)
    header.scales, header.offsets = np.array([0.001, 0.001, 0.00025]), np.array([500_000.0, 5_400_000.0, -10.5])
    header.creation_date = date(2020, 2, 29)
    header.system_identifier, header.generating_software = "a scanner", "its program"
    types = ("u1", "i2", "f4", "f8", "u8", "3f4", "2i2")
    header.add_extra_dims([laspy.ExtraBytesParams(f"extra {code}", code, "any bits") for code in types])
    header.add_extra_dim(laspy.ExtraBytesParams("scaled", "i4", "in steps", scales=[0.01], offsets=[100.0]))
    header.vlrs += [laspy.VLR("tests", 7, "empty", b""), laspy.VLR("tests", 8, "a record", rng.bytes(777))]
    cloud = laspy.LasData(header)
    cloud.points = laspy.ScaleAwarePointRecord.zeros(n, header=header)
    array = cloud.points.array
    for name in array.dtype.names:
        array[name] = np.frombuffer(rng.bytes(n * array.dtype[name].itemsize), array.dtype[name]).reshape(array[name].shape)
    for name in "XYZ":
        array[name] = rng.integers(-(10**8), 10**8, n)
    if path.suffix == ".laz":
        for name in (each for each in WAVES if each in array.dtype.names):  # what lazrs packs wrongly: see models.answers.las_points
            array[name] = 0
        if point_format in (9, 10):
            array["classification_flags"] = array["classification_flags"] & 0xCF  # one scanner channel
    if minor == 4:
        cloud.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR("tests", 9, "behind", rng.bytes(99))])
    with np.errstate(invalid="ignore"):  # laspy looks for the least of values that are no numbers
        cloud.write(path)
    return path


LAS_KINDS = ((0, 1), (0, 2), (1, 2), (2, 2), (3, 2), (3, 3), (4, 3), (5, 3), (0, 4), (3, 4), (6, 4), (7, 4), (8, 4), (9, 4), (10, 4))


def las_of(path: Path, columns: Columns, point_format: int = 3) -> Path:
    """Columns as LAS, in millimetres; colours in 16 bits; those that it has no field for as extra bytes."""
    header = laspy.LasHeader(version="1.4", point_format=point_format)
    xyz = np.column_stack([columns[axis] for axis in "xyz"]).astype(np.float64)
    header.scales, header.offsets = np.full(3, 0.001), np.floor(xyz.min(axis=0))
    own = set(header.point_format.dimension_names)
    header.add_extra_dims(
        [laspy.ExtraBytesParams(name, each.dtype.str[1:]) for name, each in columns.items() if name not in (*own, *"xyz")]
    )
    cloud = laspy.LasData(header)
    cloud.x, cloud.y, cloud.z = xyz.T
    for name, each in columns.items():
        if name not in "xyz":
            cloud[name] = each.astype(np.uint16) * 257 if name in ("red", "green", "blue") else each
    cloud.write(path)
    return path


# --- pypcd4 and plyfile


def pcd_of(path: Path, columns: Columns, encoding: str = "binary") -> Path:
    """The colour in one field of type F, as PCL has it; so do Open3D and ROS."""
    fields, values = [], []
    for name, each in columns.items():
        if name in ("green", "blue"):
            continue
        fields.append("rgb" if name == "red" else name)
        values.append(packed_colour(columns) if name == "red" else each)
    types = tuple(each.dtype.type for each in values)
    PointCloud.from_points(values, tuple(fields), types).save(path, encoding=Encoding(encoding))
    return path


def packed_colour(columns: Columns) -> np.ndarray:
    red, green, blue = (columns[name].astype(np.uint32) for name in ("red", "green", "blue"))
    return (red << 16 | green << 8 | blue).view(np.float32)


def ply_of(path: Path, columns: Columns, text: bool = False, order: str = "<", faces: bool = True) -> Path:
    rows = np.empty(len(columns["x"]), [(name, each.dtype) for name, each in columns.items()])
    for name, each in columns.items():
        rows[name] = each
    elements = [PlyElement.describe(rows, "vertex", comments=["of points"])]
    if faces:
        table = np.empty(2, [("vertex_indices", "i4", (3,)), ("flag", "u1")])
        table["vertex_indices"], table["flag"] = [[0, 1, 2], [2, 1, 0]], [7, 8]
        elements.append(PlyElement.describe(table, "face"))
    PlyData(elements, text=text, byte_order=order, comments=["by plyfile"], obj_info=["num_cols 3"]).write(str(path))
    return path


# --- texts


def text_of(
    path: Path, columns: Columns, form: str = "%.18e", separator: str = " ", head: str = "", end: str = "\n", tail: str = ""
) -> Path:
    """Rows by numpy.savetxt. head, tail: what stands before and behind them."""
    table = np.column_stack([each.astype(np.float64) for each in columns.values()])
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(head.replace("\n", end))
        np.savetxt(file, table, form, separator, end)
        file.write(tail.replace("\n", end))
    return path


def _pick(columns: Columns, *names: str) -> Columns:
    return {name: columns[name] for name in names}


def texts() -> Iterator[tuple[str, Writer]]:
    """Dialects; each is told by the ending of its name."""
    every, n = columns_of(), len(columns_of()["x"])
    xyz, rgb = ("x", "y", "z"), ("red", "green", "blue")
    unit = _pick(every, *xyz) | {name: every[name] / 255 for name in rgb}
    colours = _pick(every, *xyz, *rgb)
    mixed = ["%.3f"] * 3 + ["%d"] * 3
    yield "savetxt.xyz", lambda path: text_of(path, _pick(every, *xyz))
    yield "savetxt-g.txt", lambda path: text_of(path, _pick(every, *xyz), "%.12g")
    yield "savetxt.csv", lambda path: text_of(path, colours, mixed, ",", "x,y,z,red,green,blue\n")
    yield "header-comment.txt", lambda path: text_of(path, colours, mixed, " ", "# x y z red green blue\n", tail="# the end\n")
    yield "open3d.xyz", lambda path: text_of(path, _pick(every, *xyz), "%.10f")
    yield "open3d.xyzrgb", lambda path: text_of(path, unit, "%.10f")
    yield (
        "open3d.pts",
        lambda path: text_of(path, _pick(every, *xyz, "intensity", *rgb), ["%.10f"] * 3 + ["%d"] * 4, " ", f"{n}\r\n", "\r\n"),
    )
    yield "cloudcompare.asc", lambda path: text_of(path, colours, ["%.8f"] * 3 + ["%d"] * 3, " ", f"//X Y Z R G B\n{n}\n")
    yield "comma.txt", lambda path: _decimal_comma(text_of(path, _pick(every, *xyz), "%.3f", ";"))
    yield "quoted.csv", lambda path: text_of(path, _pick(every, *xyz, "height"), '"%.6f"', ",", '"x","y","z","height"\n', "\r\n")
    yield "tabs.csv", lambda path: text_of(path, every, "%.17g", "\t", "\t".join(every) + "\n")
    yield "blank-lines.xyz", lambda path: text_of(path, _pick(every, *xyz), "  %.3f", " ", "\n\n", "\n", "\n\n")
    yield "old-mac.xyz", lambda path: text_of(path, _pick(every, *xyz), "%.3f", " ", "", "\r")


def _decimal_comma(path: Path) -> Path:
    path.write_bytes(path.read_bytes().replace(b".", b","))
    return path


OPEN3D_PLY = """ply
format {form} 1.0
comment Created by Open3D
element vertex {n}
property double x
property double y
property double z
property double nx
property double ny
property double nz
property uchar red
property uchar green
property uchar blue
end_header
"""
OPEN3D_PCD = """# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS x y z rgb
SIZE 4 4 4 4
TYPE F F F F
COUNT 1 1 1 1
WIDTH {n}
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS {n}
DATA {form}
"""


def open3d_ply(path: Path, columns: Columns, text: bool = False) -> Path:
    names = ("x", "y", "z", "nx", "ny", "nz", "red", "green", "blue")
    found = columns | {f"n{axis}": np.sin(columns[axis]) for axis in "xyz"}
    head = OPEN3D_PLY.format(form="ascii" if text else "binary_little_endian", n=len(columns["x"])).encode()
    if text:
        body = "".join(
            " ".join(f"{value:g}" for value in row) + "\n" for row in zip(*(found[name].tolist() for name in names), strict=True)
        )
        path.write_bytes(head + body.encode())
        return path
    rows = np.empty(len(columns["x"]), [(name, "u1" if name in ("red", "green", "blue") else "<f8") for name in names])
    for name in names:
        rows[name] = found[name]
    path.write_bytes(head + rows.tobytes())
    return path


def open3d_pcd(path: Path, columns: Columns, text: bool = False) -> Path:
    near = in_metres(columns)
    table = np.column_stack([near["x"], near["y"], near["z"], packed_colour(columns)]).astype("<f4")
    head = OPEN3D_PCD.format(form="ascii" if text else "binary", n=len(table)).encode()
    rows = "".join(f"{x:.10g} {y:.10g} {z:.10g} {c:.10g}\n" for x, y, z, c in table.tolist()).encode()
    path.write_bytes(head + (rows if text else table.tobytes()))
    return path


# --- all of them


def synthetic() -> Iterator[tuple[str, Writer]]:
    """Names of files, and what writes each."""
    columns, near = columns_of(), in_metres(columns_of())
    for kind, minor in LAS_KINDS:
        for packed in ("las", "laz"):
            yield f"laspy-{kind}-{minor}.{packed}", partial(las, point_format=kind, minor=minor)
    yield "laspy-two-chunks.laz", partial(las, point_format=7, minor=4, n=120_000)
    yield "laspy-two-blocks.las", partial(las, point_format=3, minor=2, n=120_000)
    for encoding in ("ascii", "binary", "binary_compressed"):
        yield f"pypcd4-{encoding}.pcd", partial(pcd_of, columns=columns, encoding=encoding)
        yield f"pypcd4-near-{encoding}.pcd", partial(pcd_of, columns=near, encoding=encoding)
    for text, order in ((True, "="), (False, "<"), (False, ">")):
        yield f"plyfile-{text}-{order}.ply", partial(ply_of, columns=columns, text=text, order=order)
    for text in (False, True):
        yield f"open3d-{text}.ply", partial(open3d_ply, columns=columns, text=text)
        yield f"open3d-{text}.pcd", partial(open3d_pcd, columns=columns, text=text)
    yield from texts()
    yield from arrays()


def arrays() -> Iterator[tuple[str, Writer]]:
    """By numpy.save, savez and savez_compressed."""
    columns = columns_of()
    table = np.column_stack([np.asarray(each, np.float64) for each in columns.values()])
    for name, array in {
        "f8": table,
        "f4-xyz": table[:, :3].astype("f4"),
        "f4-big-endian": table[:, :4].astype(">f4"),
        "f8-fortran": np.asfortranarray(table),
        "version-3": table,
    }.items():
        yield f"save-{name}.npy", partial(_saved, array=array, version=(3, 0) if name == "version-3" else None)
    xyz, rgb = table[:, :3], np.column_stack([columns[name] for name in ("red", "green", "blue")])
    members = {"xyz": xyz, "rgb": rgb, "intensity": columns["intensity"], "count": columns["count"], "names": np.array(["a", "b"])}
    other = {"points": np.asfortranarray(xyz), "labels": members["count"]}
    for save in (np.savez, np.savez_compressed):
        yield f"{save.__name__}.npz", partial(_zipped, save=save, members=members)
        yield f"{save.__name__}-other.npz", partial(_zipped, save=save, members=other)


def _saved(path: Path, array: np.ndarray, version: tuple[int, int] | None) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    return path


def _zipped(path: Path, save: Callable[..., None], members: Columns) -> Path:
    save(path, **members)
    return path


# --- real points, as their data sets or other programs have them


def real(data: Path, folder: Path) -> Iterator[Path]:
    """Files of the data of FIP_DATA: as they are, or where they are stored otherwise written anew, into `folder`."""
    yield from sorted((data / "ply-zoo").glob("*.ply"))
    yield data / "rgbd" / "redwood_frag_115.ply"
    yield from sorted((data / "semantickitti" / "sequences").rglob("velodyne/*.bin"))
    yield data / "lidar_camera" / "kitti_000008.bin"
    yield data / "lidar_camera" / "nuscenes_n015.pcd.bin"
    yield from (data / name for name in ("s3dis/crop_labelled_xyzrgb.npz", "s3dis/room_labelled_xyz.npz", "rgbd/sunrgbd_000017_points.npz"))
    yield data / "scannet" / "scene0000_00_unlabelled.npz"
    room, scene = _stored(data / "s3dis" / "crop_labelled_xyzrgb.npz"), _stored(data / "scannet" / "scene0000_00_unlabelled.npz")
    plain = _pick(room, "x", "y", "z", "red", "green", "blue")
    yield text_of(folder / "s3dis-room.txt", plain, ["%.3f"] * 3 + ["%d"] * 3)  # as published
    yield _saved(folder / "s3dis-room.npy", np.column_stack([each.astype("f8") for each in room.values()]), None)  # as prepared by many
    yield ply_of(folder / "scannet.ply", scene | {"alpha": np.full(len(scene["x"]), 255, "u1")})
    scan = dict(
        zip(("x", "y", "z", "intensity"), np.fromfile(data / "lidar_camera" / "kitti_000008.bin", "<f4").reshape(-1, 4).T, strict=True)
    )
    for encoding in ("ascii", "binary", "binary_compressed"):
        yield pcd_of(folder / f"kitti-{encoding}.pcd", scan, encoding)
        yield pcd_of(folder / f"s3dis-{encoding}.pcd", room, encoding)
    for kind in (2, 3, 7, 8):
        for packed in ("las", "laz"):
            yield las_of(folder / f"s3dis-{kind}.{packed}", plain | {"kind": room["label"]}, kind)


def _stored(path: Path) -> Columns:
    """The columns of a data set's npz."""
    with np.load(path) as found:
        out = dict(zip(("x", "y", "z"), found["xyz"].T, strict=True)) | dict(zip(("red", "green", "blue"), found["rgb"].T, strict=True))
        return out | ({"label": found["label"]} if "label" in found else {})
