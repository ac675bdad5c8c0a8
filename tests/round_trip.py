"""Whether an answer is the file that came with columns added, as the libraries of its format read both: never our own readers."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import laspy
import numpy as np
from plyfile import PlyData, PlyListProperty
from pypcd4.pypcd4 import PointCloud

from models.answers import Labelled, check_answer, write_answer
from models.io import open_cloud
from models.labels import LabelMap
from tests.in_memory import guessed

ADDED = ("label", "confidence", "label_red", "label_green", "label_blue")
SIX_DECIMALS = 0.5e-6 + 1e-7  # confidences as text are rounded to six decimals, and perhaps read as float32
LAZ_RECORD = ("laszip encoded", 22204)
EXTRA_RECORD = ("LASF_Spec", 4)


@dataclass(frozen=True)
class Answer:
    """A file with labels (N,) and confidences (N,) that were made up for it, as it is at `path`. fmt: of the file that came."""

    path: Path
    fmt: str
    labels: np.ndarray
    confidence: np.ndarray
    label_map: LabelMap

    @property
    def colours(self) -> np.ndarray:
        return self.label_map.colours[self.labels]


def answer_file(before: Path, after: Path, name: str, label_map: LabelMap) -> Answer:
    """Write the answer for a file, in the format `name` or the `same`."""
    with open_cloud(before) as file, after.open("w+b") as out:
        labels, confidence = guessed(file.records.count, len(label_map))
        check_answer(name, file, label_map)
        write_answer(name, Labelled(file, file.cloud(extra=False), labels, confidence, label_map, same=name == "same"), out)
        return Answer(after, file.fmt, labels, confidence, label_map)


def check_same(before: Path, answer: Answer) -> None:
    """N labels for N points, and without them the file that came, bit for bit."""
    kinds = {"ply": same_ply, "las": same_las, "pcd": same_pcd, "npy": same_npy, "npz": same_npz, "bin": bare_ids, "nuscenes": bare_ids}
    kinds.get(answer.fmt, same_text)(before, answer)


def same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(expected).tobytes()


def added_are(columns: dict[str, np.ndarray], answer: Answer, tolerance: float = 0.0) -> None:
    """The added columns hold the answer."""
    np.testing.assert_array_equal(columns["label"], answer.labels)
    np.testing.assert_allclose(columns["confidence"], answer.confidence, rtol=0, atol=tolerance)
    for place, name in enumerate(ADDED[2:]):
        np.testing.assert_array_equal(columns[name], answer.colours[:, place])


def free(taken: set[str]) -> list[str]:
    """What the added columns are called in a file that has columns of these names."""
    out = []
    for name in ADDED:
        while name in taken:
            name = f"fip_{name}"
        out.append(name)
    return out


# --- one a format


def same_ply(before: Path, answer: Answer) -> None:
    old, new = PlyData.read(str(before)), PlyData.read(str(answer.path))
    assert (new.text, new.byte_order, new.obj_info) == (old.text, old.byte_order, old.obj_info)
    assert new.comments[: len(old.comments)] == old.comments
    assert [(each.name, each.count) for each in new] == [(each.name, each.count) for each in old]
    for was, now in zip(old, new, strict=True):
        kept = len(was.properties)
        assert [str(each) for each in now.properties][:kept] == [str(each) for each in was.properties]
        assert len(now.properties) == kept + (len(ADDED) if was.name == "vertex" else 0)
        for each in was.properties:
            if isinstance(each, PlyListProperty):
                for a, b in zip(now[each.name], was[each.name], strict=True):
                    same_bits(a, b)
            else:
                same_bits(now[each.name], was[each.name])
    names = free({each.name for each in old["vertex"].properties})
    added_are({plain: new["vertex"][name] for plain, name in zip(ADDED, names, strict=True)}, answer, SIX_DECIMALS if old.text else 0)


def same_las(before: Path, answer: Answer) -> None:
    """Stored integers, flags, header and records; LAZ is unpacked by lazrs for both."""
    old, new = laspy.read(before), laspy.read(answer.path)
    was, now = old.points.array, new.points.array
    assert now.dtype.names[: len(was.dtype.names)] == was.dtype.names
    for name in was.dtype.names:
        same_bits(now[name], was[name])
    assert len(now.dtype.names) == len(was.dtype.names) + len(ADDED)
    facts = ("version", "point_count", "creation_date", "system_identifier", "generating_software", "uuid", "file_source_id")
    for each in (*facts, "are_points_compressed"):
        assert getattr(new.header, each) == getattr(old.header, each), each
    assert (new.header.point_format.id, new.header.global_encoding.value) == (old.header.point_format.id, old.header.global_encoding.value)
    for each in ("scales", "offsets", "mins", "maxs", "number_of_points_by_return"):
        same_bits(getattr(new.header, each), getattr(old.header, each))
    assert _records(old.header.vlrs) <= _records(new.header.vlrs)
    assert _records(old.evlrs or []) == _records(new.evlrs or [])
    names = free(set(was.dtype.names))
    added_are({plain: np.asarray(new[name]) for plain, name in zip(ADDED, names, strict=True)}, answer)


def _records(vlrs: list) -> set[tuple[str, int, str, bytes]]:
    """All but those that say how points are packed and what extra bytes there are."""
    keys = ((each.user_id, each.record_id, each) for each in vlrs)
    return {(user, number, each.description, each.record_data_bytes()) for user, number, each in keys
            if (user, number) not in (LAZ_RECORD, EXTRA_RECORD)}  # fmt: skip


def same_pcd(before: Path, answer: Answer) -> None:
    old, new = PointCloud.from_path(before), PointCloud.from_path(answer.path)
    assert new.fields[: len(old.fields)] == old.fields
    assert new.types[: len(old.types)] == old.types
    for name in old.fields:
        same_bits(new.pc_data[name], old.pc_data[name])
    facts = ("version", "width", "height", "viewpoint", "points", "data")
    assert [getattr(new.metadata, each) for each in facts] == [getattr(old.metadata, each) for each in facts]
    names = free(set(old.fields))
    assert new.fields[len(old.fields) :] == tuple(names)
    rounding = SIX_DECIMALS if new.metadata.data == "ascii" else 0
    added_are({plain: new.pc_data[name] for plain, name in zip(ADDED, names, strict=True)}, answer, rounding)


def same_npy(before: Path, answer: Answer) -> None:
    old, new = np.load(before), np.load(answer.path)
    assert new.shape == (len(old), old.shape[1] + 2)
    same_bits(new[:, :-2], old)
    np.testing.assert_array_equal(new[:, -2], answer.labels)
    np.testing.assert_array_equal(new[:, -1].astype(np.float32), answer.confidence)


def same_npz(before: Path, answer: Answer) -> None:
    with zipfile.ZipFile(before) as old, zipfile.ZipFile(answer.path) as new:
        names = old.namelist()
        assert new.namelist()[: len(names)] == names
        assert [new.read(name) for name in names] == [old.read(name) for name in names]
    with np.load(before) as was, np.load(answer.path) as now:
        taken = set(was.files)
        npz_holds(now, answer, {name: f"fip_{name}" if name in taken else name for name in ("labels", "ids", "confidence", "names")})


def npz_holds(arrays: np.lib.npyio.NpzFile, answer: Answer, called: dict[str, str] | None = None) -> None:
    named = called or {name: name for name in ("labels", "ids", "confidence", "names")}
    np.testing.assert_array_equal(arrays[named["labels"]], answer.labels)
    np.testing.assert_array_equal(arrays[named["ids"]], answer.label_map.ids_of(answer.labels))
    same_bits(arrays[named["confidence"]], answer.confidence)
    assert tuple(arrays[named["names"]]) == tuple(answer.label_map.names)


def bare_ids(before: Path, answer: Answer) -> None:
    """What data sets have beside a scan: the id of every point, in four bytes (KITTI) or in one (nuScenes)."""
    code, columns = ("<u4", 4) if answer.fmt == "bin" else ("u1", 5)
    found = np.fromfile(answer.path, code)
    assert len(found) == len(np.fromfile(before, "<f4")) // columns
    np.testing.assert_array_equal(found, answer.label_map.ids_of(answer.labels))


def same_text(before: Path, answer: Answer) -> None:
    """Every line begins as it did; without what was added to them the lines are those that came, their ends too."""
    old, new = before.read_bytes(), answer.path.read_bytes()
    end = b"\n" if b"\n" in old else b"\r"
    was, now = old.split(end), new.split(end)
    assert len(now) == len(was)
    added = []
    for a, b in zip(was, now, strict=True):
        start = a.removesuffix(b"\r")
        assert b.startswith(start)
        assert b.endswith(b"\r") == a.endswith(b"\r")
        if rest := b[len(start) :].removesuffix(b"\r"):
            added.append(rest)
    names = [each for each in added if b"confidence" in each]
    rows = [each for each in added if b"confidence" not in each]
    assert len(names) <= 1
    assert len(rows) == len(answer.labels)
    separator = rows[0][:1].decode()
    table = b"\n".join(each[1:] for each in rows)
    if b"," in table and separator != ",":
        table = table.replace(b",", b".")
    found = np.loadtxt(io.BytesIO(table), delimiter=separator, ndmin=2)
    added_are(dict(zip(ADDED, found.T, strict=True)), answer, SIX_DECIMALS)
