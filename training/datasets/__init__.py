"""Files on disk -> clouds with a class, or with a class for every point. One module a data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadDataset, nearest
from models.labels import LabelMap, load_label_map, read_label_map
from training.datasets import labelled_folder, nuscenes, s3dis, scannet, semantickitti
from training.datasets.file_scenes import FileScenes
from training.datasets.kinds import FOLDER, LABELLED
from training.datasets.labelled import Clouds, LabelledClouds, all_but_few, few_shot, hold_out
from training.datasets.modelnet40 import read_modelnet40
from training.datasets.scenes import Scene, Scenes

KINDS: dict[str, Callable[[Path, str], Clouds]] = {"modelnet40": read_modelnet40}


@dataclass(frozen=True)
class SceneKind:
    """How a data set of labelled scenes is read. splits: their names; label_map: the map it comes with (None: it lies in the folder)."""

    read: Callable[[Path, str, LabelMap, tuple[str, ...]], FileScenes]
    splits: tuple[str, ...]
    label_map: str


SCENE_READERS: dict[str, SceneKind] = {
    "s3dis": SceneKind(s3dis.read_s3dis, s3dis.SPLITS, s3dis.LABEL_MAP),
    "semantickitti": SceneKind(semantickitti.read_semantickitti, tuple(semantickitti.SPLITS), semantickitti.LABEL_MAP),
    "nuscenes": SceneKind(nuscenes.read_nuscenes, tuple(nuscenes.SPLITS), nuscenes.LABEL_MAP),
    "scannet": SceneKind(scannet.read_scannet, tuple(scannet.SPLITS), scannet.LABEL_MAP),
}


def read_split(kind: str, root: Path, split: str) -> Clouds:
    """One split, `train` or `test`, of a data set of a known layout. Raises: BadDataset."""
    if kind not in KINDS:
        known = [*KINDS, FOLDER]
        raise BadDataset(f"unknown kind of data set {kind!r}{nearest(kind, known)}", known=known)
    return KINDS[kind](root, split)


def read_scenes(
    kind: str, root: Path, split: str, label_map: str | None = None, exclude: Sequence[str] = (), *, test_area: int = s3dis.TEST_AREA
) -> FileScenes:
    """One split of a data set of labelled scenes.

    label_map: the name of a map of the package or a YAML file, instead of the one of the data set. exclude: titles of scenes to
    leave out, of whichever split. test_area: of S3DIS, the area that is not trained on. Raises: BadDataset, BadLabels.
    """
    known = [*SCENE_READERS, LABELLED]
    if kind not in known:
        raise BadDataset(f"unknown kind of scenes {kind!r}{nearest(kind, known)}; known: {', '.join(known)}", known=known)
    splits = labelled_folder.SPLITS if kind == LABELLED else SCENE_READERS[kind].splits
    if split not in splits:
        raise BadDataset(f"{kind} has no split {split!r}; it has {', '.join(splits)}", where=str(root), known=splits)
    if not root.is_dir():
        raise BadDataset("not a folder", where=str(root))
    if kind == LABELLED:
        return labelled_folder.read_labelled(root, split, find_label_map(label_map) if label_map else None, tuple(exclude))
    chosen = SCENE_READERS[kind]
    classes = find_label_map(label_map or chosen.label_map)
    if kind == "s3dis":
        return s3dis.read_s3dis(root, split, classes, tuple(exclude), test_area=test_area)
    return chosen.read(root, split, classes, tuple(exclude))


def find_label_map(name: str) -> LabelMap:
    """A map of the package, or one in a YAML file. Raises: BadLabels."""
    return read_label_map(Path(name)) if name.endswith((".yaml", ".yml")) else load_label_map(name)


__all__ = [
    "FOLDER",
    "LABELLED",
    "Clouds",
    "FileScenes",
    "LabelledClouds",
    "Scene",
    "Scenes",
    "all_but_few",
    "few_shot",
    "find_label_map",
    "hold_out",
    "read_scenes",
    "read_split",
]
