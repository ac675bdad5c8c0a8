"""nuScenes lidarseg in its publishers' layout: tables in v1.0-*/, scans in samples/LIDAR_TOP/, labels in lidarseg/v1.0-*/.

A scan is float32 x, y, z, intensity, ring (metres, sensor frame); a label file one uint8 a point.
Source: Fong et al., Panoptic nuScenes, RA-L 2022; the lists of scenes are those of utils/splits.py of nutonomy/nuscenes-devkit.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from models.labels import LabelMap
from models.pointcloud import PointCloud
from training.datasets.file_scenes import FileScenes, as_paths, listed, refuse

LABEL_MAP = "nuscenes16"
SPLITS = {"train": "train", "val": "val", "test": "val"}  # the scenes of the benchmark's test come without labels
OWN_SPLITS = "splits.json"
MINI_VALIDATION = (103, 916)
VALIDATION = (
    *(3, *range(12, 19), 35, 36, 38, 39, *range(92, 111), 221, *range(268, 279), *range(329, 333), *range(344, 347)),
    *(*range(519, 525), *range(552, 566), *range(625, 628), 629, 630, *range(632, 639), 770, 771, 775, 777, 778),
    *(*range(780, 785), *range(794, 801), 802, *range(904, 918), *range(919, 932), 962, 963, *range(966, 970), 971, 972),
    *range(1059, 1074),
)
_VALIDATION = {"v1.0-mini": MINI_VALIDATION, "v1.0-trainval": VALIDATION}  # all other scenes of a version are to train on
_POINT_BYTES = 20
_RECORD = re.compile(rb"\{[^{}]*\}")
_BLOCK_BYTES = 1 << 24

Record = Mapping[str, object]


def read_nuscenes(root: Path, split: str, label_map: LabelMap, exclude: tuple[str, ...] = ()) -> FileScenes:
    """The labelled scans of a split, in the order of scene and time; titles are `scene-0061/` and the name of the scan.

    root: the folder of a version (v1.0-mini), or the one above where there is only one version with labels. Which scenes are to
    train on: splits.json beside, {"train": [...], "val": [...]}, where there is one, else the official lists. exclude: titles to
    leave out, of any split. Raises: BadDataset (no lidarseg, damaged tables, scans or labels missing or of wrong length).
    """
    tables = _tables(root)
    base = tables.parent
    scans = _scans(tables)
    wanted = _wanted(tables, sorted({scene for scene, _, _ in scans}), SPLITS[split])
    rows = [scan for scan in scans if scan[0] in wanted]
    if not rows:
        raise BadDataset(f"no labelled scans of the {split} split", where=str(tables))
    problems = [problem for _, scan, label in rows for problem in _problem(base, scan, label)]
    refuse(base, f"{len(problems):,} of the {len(rows):,} scans of the {split} split cannot be used:", problems)
    titles = [_title(scene, scan) for scene, scan, _ in rows]
    scenes = FileScenes(
        as_paths(base, [scan for _, scan, _ in rows]),
        as_paths(base, [label for _, _, label in rows]),
        as_paths(base, titles),
        np.arange(len(rows)),
        label_map,
        lidarseg_ids,
    )
    return scenes.without(exclude, {_title(scene, scan) for scene, scan, _ in scans}.__contains__)


def lidarseg_ids(cloud: PointCloud, path: Path) -> npt.NDArray[np.uint8]:
    """The class (N,) of every point of a `_lidarseg.bin`."""
    return np.fromfile(path, np.uint8)


def _tables(root: Path) -> Path:
    """The folder with the tables of the version that is meant. Raises: BadDataset."""
    found = [root] if (root / "lidarseg.json").is_file() else sorted(path.parent for path in root.glob("v1.0-*/lidarseg.json"))
    if not found:
        raise BadDataset("needs v1.0-*/lidarseg.json, samples/LIDAR_TOP/ and lidarseg/ (nuScenes with nuScenes-lidarseg)", where=str(root))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise BadDataset(
            f"more than one version in it, {names}: name the folder of one", where=str(root), known=[path.name for path in found]
        )
    return found[0].resolve()


def _scans(tables: Path) -> list[tuple[str, str, str]]:
    """(scene, scan, label file) of every labelled scan, paths relative to the folder above the tables, in the order of scene and time."""
    names = {_text(each, "token", tables): _text(each, "name", tables) for each in _records(tables / "scene.json")}
    samples = {_text(each, "token", tables): _text(each, "scene_token", tables) for each in _records(tables / "sample.json")}
    labels = {_text(each, "sample_data_token", tables): _text(each, "filename", tables) for each in _records(tables / "lidarseg.json")}
    found = []
    for each in _records(tables / "sample_data.json", b"/LIDAR_TOP/"):
        label = labels.pop(_text(each, "token", tables), None)
        if label is not None:
            scene = names.get(samples.get(_text(each, "sample_token", tables), ""))
            if scene is None:
                raise BadDataset(f"the scan {each['filename']} is of no scene", where=str(tables / "sample.json"))
            found.append((scene, _text(each, "filename", tables), label))
    if labels:
        text = f"{len(labels):,} label files are of no scan of LIDAR_TOP: {listed(sorted(labels.values()))}"
        raise BadDataset(text, where=str(tables / "lidarseg.json"))
    return sorted(found)


def _records(path: Path, needle: bytes = b"") -> Iterator[Record]:
    """The records of a table, those that contain `needle`, a block at a time: the largest table takes a gigabyte. Raises: BadDataset."""
    try:
        with path.open("rb") as file:
            rest = b""
            while block := file.read(_BLOCK_BYTES):
                rest += block
                end = 0
                for match in _RECORD.finditer(rest):
                    end = match.end()
                    if needle in match[0]:
                        yield json.loads(match[0])
                rest = rest[end:]
                if len(rest) > _BLOCK_BYTES:
                    raise BadDataset("not a table of nuScenes: no records in it", where=str(path))
    except OSError as error:
        raise BadDataset(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise BadDataset(f"not a table of nuScenes: {error}", where=str(path)) from error
    if rest.strip() not in (b"]", b"[]"):
        raise BadDataset("the table is cut off", where=str(path))


def _text(record: Record, key: str, tables: Path) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise BadDataset(f"a record without {key!r}: {str(record)[:80]}", where=str(tables))
    return value


def _wanted(tables: Path, scenes: list[str], split: str) -> set[str]:
    """Names of the scenes of a split. Raises: BadDataset (no list is known, or splits.json is damaged)."""
    own = next((path for path in (tables.parent / OWN_SPLITS, tables / OWN_SPLITS) if path.is_file()), None)
    if own is not None:
        return _own_split(own, split)
    if tables.name not in _VALIDATION:
        text = f'no list of scenes is known for {tables.name}; put {OWN_SPLITS} beside it: {{"train": ["scene-0001", …], "val": […]}}'
        raise BadDataset(text, where=str(tables), known=_VALIDATION)
    validation = {f"scene-{number:04d}" for number in _VALIDATION[tables.name]}
    return {scene for scene in scenes if (scene in validation) == (split == "val")}


def _own_split(path: Path, split: str) -> set[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadDataset(f"cannot be read: {error}", where=str(path)) from error
    names = content.get(split) if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadDataset(f'must be {{"train": [names of scenes], "val": [names of scenes]}}; no such list under {split!r}', where=str(path))
    return set(names)


def _problem(base: Path, scan: str, label: str) -> list[str]:
    """What is wrong with a scan and its label file, by their lengths."""
    sizes = [(base / name).stat().st_size if (base / name).is_file() else None for name in (scan, label)]
    if missing := [name for name, size in zip((scan, label), sizes, strict=True) if size is None]:
        return [f"{missing[0]} is missing"]
    points, labels = (size or 0 for size in sizes)
    if points // _POINT_BYTES != labels:
        return [f"{label} holds {labels:,} labels, for a scan of {points // _POINT_BYTES:,} points"]
    return []


def _title(scene: str, scan: str) -> str:
    return f"{scene}/{Path(scan).name.removesuffix('.bin').removesuffix('.pcd')}"
