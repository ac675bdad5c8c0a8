"""Small labelled scenes in the layouts that data sets have, for tests of what is done with them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

LABELS_YAML = """\
classes:
  - {name: ground, colour: [1, 2, 3], ids: [2, 5]}
  - {name: tree, colour: [0, 255, 0], ids: [7]}
ignore: [0]
"""
IDS = np.array([0, 2, 5, 7])  # those of LABELS_YAML
CLASSES = {0: -1, 2: 0, 5: 0, 7: 1}


def points(seed: int, count: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype("<f4")


def ids(seed: int, count: int = 40, choices: np.ndarray = IDS) -> np.ndarray:
    """Every choice is there."""
    drawn = np.random.default_rng(seed).choice(choices, count)
    drawn[: len(choices)] = choices
    return drawn


def scan(base: Path, title: str, seed: int, labels: np.ndarray | None = None, count: int = 40, xyz: np.ndarray | None = None) -> None:
    """A SemanticKITTI scan `08/000000` below `sequences`, with instances above the labels."""
    sequence, frame = title.split("/")
    velodyne, label = base / sequence / "velodyne" / f"{frame}.bin", base / sequence / "labels" / f"{frame}.label"
    for path in (velodyne, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    xyz = points(seed, count) if xyz is None else xyz
    np.hstack([xyz, np.linspace(0, 1, count, dtype="<f4")[:, None]]).astype("<f4").tofile(velodyne)
    values = ids(seed, count, np.array([0, 10, 40, 252])) if labels is None else labels
    (values.astype("<u4") | (np.arange(count, dtype="<u4") << 16)).astype("<u4").tofile(label)


def write_ply(path: Path, columns: Mapping[str, np.ndarray]) -> Path:
    """A binary PLY with one property a column, of its type."""
    kinds = {"f4": "float", "f8": "double", "u1": "uchar", "u2": "ushort", "u4": "uint", "i1": "char", "i2": "short", "i4": "int"}
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    dtypes = [(name, values.dtype.newbyteorder("<")) for name, values in arrays.items()]
    rows = np.empty(len(next(iter(arrays.values()))), dtypes)
    for name, values in arrays.items():
        rows[name] = values
    properties = "".join(f"property {kinds[values.dtype.str[1:]]} {name}\n" for name, values in arrays.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{properties}end_header\n"
    path.write_bytes(head.encode() + rows.tobytes())
    return path


def labelled_ply(path: Path, seed: int, column: str = "label", labels: np.ndarray | None = None) -> Path:
    xyz = points(seed)
    values = ids(seed) if labels is None else labels
    if values.dtype == np.int64:
        values = values.astype(np.int32)
    return write_ply(path, {"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2], column: values})


def labelled_bin(path: Path, seed: int, label: Path | None = None) -> Path:
    """A KITTI `.bin` and its labels, beside it unless said otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.hstack([points(seed), np.ones((40, 1), "<f4")]).astype("<f4").tofile(path)
    label = label or path.with_suffix(".label")
    label.parent.mkdir(parents=True, exist_ok=True)
    ids(seed).astype("<u4").tofile(label)
    return path


def expected(seed: int) -> np.ndarray:
    """Classes (N,) of the labels that `ids` draws, under LABELS_YAML."""
    return np.array([CLASSES[int(number)] for number in ids(seed)])


def labelled(root: Path, *names: str) -> Path:
    """A folder of labelled clouds with its labels.yaml, one different cloud a name."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "labels.yaml").write_text(LABELS_YAML)
    for seed, name in enumerate(names):
        path = root / name
        if path.suffix == ".ply":
            labelled_ply(path, seed)
        elif path.suffix == ".bin":
            labelled_bin(path, seed)
        elif path.suffix == ".npz":
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, xyz=points(seed), rgb=np.full((40, 3), 9, np.uint8), label=ids(seed).astype(np.uint8))
        else:
            raise ValueError(path.suffix)
    return root


ROOM_FILES = ("ceiling_1", "chair_1", "chair_2", "stairs_1", "clutter_1")


def room(folder: Path, seed: int, files: tuple[str, ...] = ROOM_FILES, count: int = 30) -> np.ndarray:
    """A room of S3DIS as text, `count` points a file: its rows (R, 6) in the order of the names of the files."""
    rng = np.random.default_rng(seed)
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    parts = []
    for name in sorted(files):
        rows = np.hstack([rng.integers(-20_000, 20_000, (count, 3)) / 1000, rng.integers(0, 256, (count, 3))])
        lines = [f"{x:.3f} {y:.3f} {z:.3f} {r:.0f} {g:.0f} {b:.0f}" for x, y, z, r, g, b in rows]
        (folder / "Annotations" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        parts.append(rows)
    return np.concatenate(parts)


def nuscenes(root: Path, version: str, scenes: Mapping[str, int]) -> Path:
    """A version of nuScenes with so many labelled scans of each scene, beside what else its tables hold; the folder of the tables."""
    tables: dict[str, list[dict[str, object]]] = {"scene": [], "sample": [], "sample_data": [], "lidarseg": []}
    for place, (scene, count) in enumerate(scenes.items()):
        tables["scene"].append({"token": f"s{place}", "name": scene, "description": "Rain, parked cars"})
        for frame in range(count):
            token = f"{place}-{frame}"
            scan = f"samples/LIDAR_TOP/n015-2018__LIDAR_TOP__{100 * place + frame:06d}.pcd.bin"
            label = f"lidarseg/{version}/d{token}_lidarseg.bin"
            tables["sample"].append({"token": token, "scene_token": f"s{place}"})
            image = {"token": f"c{token}", "sample_token": token, "filename": scan.replace("LIDAR_TOP", "CAM_FRONT"), "height": 900}
            sweep = {"token": f"w{token}", "sample_token": token, "filename": scan.replace("samples", "sweeps"), "height": 0}
            tables["sample_data"] += [image, {"token": f"d{token}", "sample_token": token, "filename": scan, "height": 0}, sweep]
            tables["lidarseg"].append({"token": f"d{token}", "sample_data_token": f"d{token}", "filename": label})
            for path in (root / scan, root / label):
                path.parent.mkdir(parents=True, exist_ok=True)
            np.hstack([points(frame), np.full((40, 2), frame)]).astype("<f4").tofile(root / scan)
            ids(frame, 40, np.array([0, 17, 24])).astype(np.uint8).tofile(root / label)
    (root / version).mkdir(parents=True)
    for name, records in tables.items():
        (root / version / f"{name}.json").write_text(json.dumps(records, indent=0))
    return root / version


def scannet(base: Path, *scenes: str) -> Path:
    """Scenes of ScanNet with faces, as their meshes have."""
    for seed, scene in enumerate(scenes):
        xyz, rgb = points(seed), np.random.default_rng(seed).integers(0, 256, (40, 4)).astype(np.uint8)
        columns = dict(zip(("x", "y", "z", "red", "green", "blue", "alpha"), [*xyz.T, *rgb.T], strict=True))
        folder = base / scene
        write_ply(folder / f"{scene}_vh_clean_2.ply", columns)
        labels = ids(seed, 40, np.array([0, 1, 13, 39]))
        write_ply(folder / f"{scene}_vh_clean_2.labels.ply", {**columns, "label": labels.astype(np.uint16)})
    return base
