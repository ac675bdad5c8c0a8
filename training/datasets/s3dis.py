"""S3DIS: rooms of six areas. From its publishers' text, Area_N/ROOM/Annotations/CLASS_NUMBER.txt, or as `fip data prepare` wrote it.

Source: Armeni et al., 3D Semantic Parsing of Large-Scale Indoor Spaces, CVPR 2016; Image2Point §4.3.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset, BadLabels
from models.labels import BUNDLED, LabelMap
from models.pointcloud import PointCloud
from training.datasets.file_scenes import FileScenes, as_paths, listed, refuse
from training.datasets.s3dis_rooms import CLUTTER, NAMES, area_folders, cache_folder, cached_rooms, find_rooms, repaired_bytes, write_rooms
from training.datasets.scene_listing import LABELS_YAML

LABEL_MAP = "s3dis13"
TEST_AREA = 5
SPLITS = ("train", "test")


@dataclass(frozen=True)
class RoomIds:
    """Reads the labels of a prepared room. ids: what the label map calls the classes of NAMES."""

    ids: tuple[int, ...]

    def __call__(self, cloud: PointCloud, path: Path) -> npt.NDArray[np.uint32]:
        """(N,) Raises: BadLabels (not a room as `fip data prepare` writes it)."""
        labels = cloud.extra.get("label")
        if labels is None or labels.dtype != np.uint8 or (len(labels) and int(labels.max()) >= len(self.ids)):
            raise BadLabels(f"no labels from 0 to {len(self.ids) - 1} in it; prepare the rooms again")
        return np.asarray(np.array(self.ids, np.uint32)[labels])


def read_s3dis(root: Path, split: str, label_map: LabelMap, exclude: tuple[str, ...] = (), *, test_area: int = TEST_AREA) -> FileScenes:
    """The rooms of a split, test_area to test on and all others to train on; titles are `Area_5/office_1`.

    Rooms of the publishers' layout are read from their text once, and kept in the cache of this machine. exclude: titles to leave
    out, of any split. Raises: BadDataset (not S3DIS, damaged text beyond the known kind, an unknown title).
    """
    areas = area_folders(root)
    if not areas:
        raise BadDataset("needs Area_N/ROOM/Annotations/CLASS_NUMBER.txt, or rooms from `fip data prepare s3dis` (S3DIS)", where=str(root))
    wanted = [number for _, number in areas if (number == test_area) == (split == "test")]
    if not wanted:
        found = ", ".join(path.name for path, _ in areas)
        text = f"no area of the {split} split (test: area {test_area}; train: the others); there are {found}"
        raise BadDataset(text, where=str(root))
    scenes = _prepared(root, wanted, label_map) or _raw(root, wanted, label_map)
    return scenes.without(exclude, lambda title: (root / title / "Annotations").is_dir() or (root / f"{title}.npz").is_file())


def _prepared(root: Path, areas: list[int], label_map: LabelMap) -> FileScenes | None:
    """Rooms that were prepared, Area_N/ROOM.npz, if there are any."""
    titles = [
        f"{folder.name}/{path.stem}" for folder, number in area_folders(root) if number in areas for path in sorted(folder.glob("*.npz"))
    ]
    if titles and not (root / LABELS_YAML).is_file():
        raise BadDataset(f"no {LABELS_YAML} beside the prepared rooms: `fip data prepare s3dis` was stopped; run it again", where=str(root))
    return _scenes(root, [f"{title}.npz" for title in titles], titles, label_map, []) if titles else None


def _raw(root: Path, areas: list[int], label_map: LabelMap) -> FileScenes:
    rooms, problems = find_rooms(root, areas)
    refuse(root, "rooms without annotations:", problems)
    if not rooms:
        raise BadDataset(f"no rooms in the areas {', '.join(map(str, areas))}", where=str(root))
    strange = sorted({name for room in rooms for name in room.strange})
    notes = [f"classes that S3DIS does not have, taken as clutter: {listed(strange)}"] if strange else []
    folder = cache_folder()
    paths = cached_rooms(rooms, folder)
    return _scenes(folder, [path.name for path in paths], [room.title for room in rooms], label_map, notes)


def _scenes(root: Path, names: list[str], titles: list[str], label_map: LabelMap, notes: list[str]) -> FileScenes:
    clouds = as_paths(root, names)
    mended = [(title, repaired_bytes(root / name) or 0) for name, title in zip(names, titles, strict=True)]
    if any(count for _, count in mended):
        rooms = listed([title for title, count in mended if count])
        notes = [*notes, f"{sum(count for _, count in mended)} damaged bytes of the text were repaired: {rooms}"]
    return FileScenes(
        clouds, clouds, as_paths(root, titles), np.arange(len(titles)), label_map, RoomIds(ids_in(label_map)), notes=tuple(notes)
    )


def ids_in(label_map: LabelMap) -> tuple[int, ...]:
    """What a map calls each of NAMES, by their names; stairs, where it has none, as it calls clutter. Raises: BadLabels."""
    known = {each.name: each.ids[0] for each in label_map.classes}
    missing = [name for name in NAMES[: CLUTTER + 1] if name not in known]
    if missing:
        raise BadLabels(f"no class of that name in the label map: {listed(missing)}; S3DIS names its classes", known=known)
    return tuple(known.get(name, known["clutter"]) for name in NAMES)


def prepare_s3dis(source: Path, target: Path) -> int:
    """Write every room of the publishers' layout to target/Area_N/ROOM.npz, and at the end a labels.yaml; says how many there are.

    The rooms are those that the cache holds too, byte for byte. What is there, whole and of the same text stays. Raises: BadDataset.
    """
    rooms, problems = find_rooms(source)
    if not rooms:
        raise BadDataset("needs Area_N/ROOM/Annotations/CLASS_NUMBER.txt (S3DIS)", where=str(source))
    refuse(source, "rooms without annotations:", problems)
    titles = {room.title for room in rooms}
    there = [
        f"{folder.name}/{path.stem}" for folder, _ in (area_folders(target) if target.is_dir() else []) for path in folder.glob("*.npz")
    ]
    refuse(target, "rooms that are not in the source; remove them, or choose another folder:", sorted(set(there) - titles))
    write_rooms(rooms, [target / f"{room.title}.npz" for room in rooms])
    shutil.copyfile(BUNDLED / f"{LABEL_MAP}.yaml", target / LABELS_YAML)
    return len(rooms)
