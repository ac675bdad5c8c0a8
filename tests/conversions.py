"""Files of every format with known columns, and the columns of answers in every format, both as the libraries of the formats read them."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import laspy
import numpy as np
import pytest
from plyfile import PlyData
from pypcd4.pypcd4 import PointCloud

from tests.round_trip import ADDED
from tests.sweep import sweep
from tests.third_party import UTM, Columns, columns_of, in_metres, las_of, packed_colour, pcd_of, ply_of, text_of

COLOUR = ("red", "green", "blue")
Input = Callable[[Path], tuple[Path, Columns]]  # into a folder: the file and its columns


def _ply(folder: Path) -> tuple[Path, Columns]:
    return ply_of(folder / "a.ply", columns_of()), columns_of()


def _near_ply(folder: Path) -> tuple[Path, Columns]:
    return ply_of(folder / "near.ply", in_metres(columns_of()), text=True), in_metres(columns_of())


def _off(folder: Path) -> tuple[Path, Columns]:
    columns = {axis: columns_of()[axis] for axis in "xyz"}
    return text_of(folder / "a.off", columns, "%.17g", " ", f"OFF\n{len(columns['x'])} 0 0\n"), columns


def _npy(folder: Path) -> tuple[Path, Columns]:
    table = np.column_stack([each.astype("f8") for each in columns_of().values()])
    np.save(folder / "a.npy", table)
    names = ["x", "y", "z", *(f"column_{place}" for place in range(3, table.shape[1]))]
    return folder / "a.npy", dict(zip(names, table.T, strict=True))


def _npz(folder: Path) -> tuple[Path, Columns]:
    found = columns_of()
    xyz, rgb = (np.column_stack([found.pop(name) for name in names]) for names in (("x", "y", "z"), COLOUR))
    np.savez(folder / "a.npz", xyz=xyz, rgb=rgb, **found)
    return folder / "a.npz", columns_of()


def _scan(name: str, columns: tuple[str, ...]) -> Input:
    def write(folder: Path) -> tuple[Path, Columns]:
        rows = sweep(len(columns))
        rows.tofile(folder / name)
        return folder / name, dict(zip(columns, rows.T, strict=True))

    return write


def _pcd(encoding: str) -> Input:
    def write(folder: Path) -> tuple[Path, Columns]:
        path = pcd_of(folder / f"{encoding}.pcd", columns_of(), encoding)
        return path, _in_pcd(path)  # as text pypcd4 rounds

    return write


def _las(name: str, point_format: int) -> Input:
    def write(folder: Path) -> tuple[Path, Columns]:
        path = las_of(folder / name, columns_of(), point_format)
        found = laspy.read(path)
        out = {name: np.asarray(found[name]) for name in ("x", "y", "z", *found.point_format.dimension_names) if name not in "XYZ"}
        return path, {name: (each // 257).astype("u1") if name in COLOUR else each for name, each in out.items()}

    return write


def _text(name: str, separator: str, head: str) -> Input:
    def write(folder: Path) -> tuple[Path, Columns]:
        path = text_of(folder / name, columns_of(), "%.17g", separator, head)
        found = np.loadtxt(path, delimiter=separator, skiprows=1)
        return path, dict(zip(columns_of(), found.T, strict=True)) | {name: columns_of()[name] for name in COLOUR}

    return write


def _pts(folder: Path) -> tuple[Path, Columns]:
    found = {name: columns_of()[name] for name in ("x", "y", "z", "intensity", *COLOUR)}
    return text_of(folder / "a.pts", found, "%.17g", " ", f"{len(found['x'])}\n"), found


def _e57(folder: Path) -> tuple[Path, Columns]:
    """Two scans by pye57, at their places."""
    pye57 = pytest.importorskip("pye57", reason="the extra e57 is not installed")
    scans = []
    with pye57.E57(str(folder / "a.e57"), "w") as file:
        for seed in (0, 1):
            found = in_metres(columns_of(300, seed))
            raw = {f"cartesian{axis.upper()}": found[axis].astype("f8") for axis in "xyz"}
            raw |= {f"color{name.title()}": found[name] for name in COLOUR} | {"intensity": found["intensity"].astype("f4")}
            file.write_scan_raw(raw, translation=UTM + 40 * seed)
            scans.append({name: found[name] for name in COLOUR} | {"scan_index": np.full(300, seed, "u2"), "intensity": raw["intensity"]})
    with pye57.E57(str(folder / "a.e57")) as file:
        placed = [file.read_scan(number, ignore_missing_fields=True) for number in range(2)]
    axes = {axis: np.concatenate([each[f"cartesian{axis.upper()}"] for each in placed]) for axis in "xyz"}
    return folder / "a.e57", axes | {name: np.concatenate([each[name] for each in scans]) for name in scans[0]}


NAMES = list(columns_of())
INPUTS: dict[str, Input] = {
    "ply": _ply,
    "ply-near": _near_ply,
    "off": _off,
    "npy": _npy,
    "npz": _npz,
    "bin": _scan("a.bin", ("x", "y", "z", "intensity")),
    "nuscenes": _scan("a.pcd.bin", ("x", "y", "z", "intensity", "ring")),
    "pcd-ascii": _pcd("ascii"),
    "pcd-binary": _pcd("binary"),
    "pcd-compressed": _pcd("binary_compressed"),
    "las": _las("a.las", 3),
    "laz": _las("a.laz", 7),
    "xyz": _text("a.xyz", " ", "//" + " ".join(NAMES) + "\n"),
    "pts": _pts,
    "csv": _text("a.csv", ",", ",".join(NAMES) + "\n"),
    "e57": _e57,
}


# --- what is in an answer


def columns_in(path: Path) -> Columns:
    """All columns, the colour in three of a byte each; of text as float64."""
    return READERS[path.suffix](path)


def _in_ply(path: Path) -> Columns:
    vertex = PlyData.read(str(path))["vertex"]
    return {each.name: np.asarray(vertex[each.name]) for each in vertex.properties}


def _in_pcd(path: Path) -> Columns:
    found = PointCloud.from_path(path)
    out = {name: found.pc_data[name] for name in found.fields if name != "rgb"}
    if "rgb" in found.fields:
        bits = found.pc_data["rgb"].view(np.uint32)
        out |= {name: (bits >> shift & 255).astype("u1") for name, shift in zip(COLOUR, (16, 8, 0), strict=True)}
        np.testing.assert_array_equal(packed_colour(out).view(np.uint32), bits)
    return out


def _in_las(path: Path) -> Columns:
    """x, y, z in the unit of the file; colours of 16 bits as bytes; the intensity as it was before it was one of 16 bits."""
    found = laspy.read(path)
    out = {name: np.asarray(found[name]) for name in ("x", "y", "z", *found.point_format.dimension_names)}
    for name in COLOUR:
        if name in out:
            assert not (out[name] % 257).any()
            out[name] = (out[name] // 257).astype("u1")
    out["intensity"] = out.get("original_intensity", out["intensity"])
    return out


def _in_csv(path: Path) -> Columns:
    with path.open(newline="") as file:
        names = next(csv.reader(file))
    return dict(zip(names, np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2).T, strict=True))


def _in_xyz(path: Path) -> Columns:
    """The names in the first line, of which CloudCompare writes those of coordinates and colour as capitals."""
    first, rest = path.read_bytes().split(b"\n", 1)
    words = first.decode().removeprefix("//").split()
    usual = dict(zip(("X", "Y", "Z", "R", "G", "B"), ("x", "y", "z", *COLOUR), strict=True))
    return dict(zip([usual.get(word, word) for word in words], np.loadtxt(io.BytesIO(rest), ndmin=2).T, strict=True))


READERS: dict[str, Callable[[Path], Columns]] = {
    ".ply": _in_ply,
    ".pcd": _in_pcd,
    ".las": _in_las,
    ".laz": _in_las,
    ".csv": _in_csv,
    ".xyz": _in_xyz,
}
TEXTS = (".csv", ".xyz")
FINE_STEP = 1e-6  # metres: the points of a square kilometre are half a micrometre off at most


def assert_coordinates(path: Path, found: Columns, expected: Columns) -> None:
    """As exact as the format can hold: in LAS half a step of its scale, else to the last bit."""
    for place, axis in enumerate("xyz"):
        if path.suffix in (".las", ".laz"):
            with laspy.open(path) as file:
                step = file.header.scales[place]
            rounding = 2 * np.spacing(np.abs(expected[axis]).max(), dtype="f8")
            np.testing.assert_allclose(found[axis], expected[axis].astype("f8"), rtol=0, atol=step / 2 + rounding)
            assert step <= FINE_STEP
        else:
            np.testing.assert_array_equal(found[axis].astype(expected[axis].dtype), expected[axis])


def assert_columns(path: Path, found: Columns, expected: Columns) -> None:
    """Every other column is there with all its values, and no float has become a whole number but an intensity that was one."""
    for name in expected.keys() - set("xyz"):
        assert name in found, (name, sorted(found))
        np.testing.assert_array_equal(found[name].astype(expected[name].dtype), expected[name], name)
        if path.suffix not in TEXTS and name != "intensity":
            assert found[name].dtype.kind == expected[name].dtype.kind, name
    assert len(found.keys() & set(ADDED)) == len(ADDED)
