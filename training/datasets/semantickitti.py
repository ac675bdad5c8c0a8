"""SemanticKITTI in its publishers' layout: sequences/NN/velodyne/FRAME.bin and sequences/NN/labels/FRAME.label.

A scan is float32 x, y, z, remission (metres, sensor frame); a label file one uint32 a point, the class in the low 16 bits, the
instance in the high ones. Source: Behley et al., SemanticKITTI, ICCV 2019; Image2Point §4.4.
"""

import os
from pathlib import Path

import numpy as np

from models.errors import BadDataset
from models.labels import LabelMap
from training.datasets.file_scenes import FileScenes, as_paths, listed, refuse
from training.datasets.point_labels import label_file_ids

LABEL_MAP = "semantickitti19"
TRAIN = ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10")
VALIDATION = ("08",)
SPLITS = {"train": TRAIN, "val": VALIDATION, "test": VALIDATION}  # 11 to 21, the benchmark's test, come without labels
POINT_BYTES = 16  # of a scan
LABEL_BYTES = 4


def read_semantickitti(root: Path, split: str, label_map: LabelMap, exclude: tuple[str, ...] = ()) -> FileScenes:
    """The scans of a split, in those of its sequences that exist; titles are `08/000000`. root: the folder `sequences` or the one above.

    exclude: titles to leave out, of any split. Raises: BadDataset (no sequences, scans without labels or with too many or few,
    an unknown title).
    """
    base = root / "sequences" if (root / "sequences").is_dir() else root
    found = sorted(path.name for path in base.iterdir() if (path / "velodyne").is_dir())
    if not found:
        raise BadDataset("needs sequences/NN/velodyne/*.bin and sequences/NN/labels/*.label (SemanticKITTI)", where=str(root))
    wanted = [name for name in SPLITS[split] if name in found]
    if not wanted:
        text = f"no sequence of the {split} split ({', '.join(SPLITS[split])}); there are {listed(found)}"
        raise BadDataset(text, where=str(root))
    titles: list[str] = []
    stray: list[str] = []
    problems: list[str] = []
    for name in wanted:
        scans, labels = _sizes(base / name / "velodyne", ".bin"), _sizes(base / name / "labels", ".label")
        titles += [f"{name}/{frame}" for frame in scans]
        stray += [f"{name}/labels/{frame}.label" for frame in labels if frame not in scans]
        problems += _problems(name, scans, labels)
    refuse(root, f"{len(problems):,} of the {len(titles):,} scans of the {split} split cannot be used:", problems)
    if not titles:
        raise BadDataset(f"no scans in the sequences {listed(wanted)}", where=str(root))
    scenes = FileScenes(
        as_paths(base, [title.replace("/", "/velodyne/") + ".bin" for title in titles]),
        as_paths(base, [title.replace("/", "/labels/") + ".label" for title in titles]),
        as_paths(base, titles),
        np.arange(len(titles)),
        label_map,
        label_file_ids,
        notes=(f"label files without a scan, passed over: {listed(stray)}",) if stray else (),
    )
    return scenes.without(exclude, lambda title: (base / (title.replace("/", "/velodyne/", 1) + ".bin")).is_file())


def _sizes(folder: Path, ending: str) -> dict[str, int]:
    """Bytes of every file of that ending, by name without it, sorted; nothing where there is no such folder."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        names = {entry.name.removesuffix(ending): entry.stat().st_size for entry in entries if entry.name.endswith(ending)}
    return dict(sorted(names.items()))


def _problems(name: str, scans: dict[str, int], labels: dict[str, int]) -> list[str]:
    """Scans of a sequence without label file, or with one of another length."""
    problems = []
    for frame, size in scans.items():
        place = f"{name}/labels/{frame}.label"
        if frame not in labels:
            problems.append(f"{place} is missing")
        elif size // POINT_BYTES * LABEL_BYTES != labels[frame]:
            found = f"{labels[frame]:,} bytes, {labels[frame] / LABEL_BYTES:,.10g} labels"
            problems.append(f"{place} holds {found}, for a scan of {size // POINT_BYTES:,} points")
    return problems
