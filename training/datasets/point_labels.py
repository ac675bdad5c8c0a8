"""Where a user's file keeps the label of every point: a column of its own, or a `.label` file beside it.

N points. Columns are recognised by their names in lower case, without the `scalar_` that CloudCompare puts before them.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadLabels
from models.pointcloud import PointCloud

COLUMNS = {
    "label": ("label", "labels"),
    "classification": ("classification",),
    "class": ("class", "classes", "class_id"),
    "semantic": ("semantic", "semantics", "semantic_label", "sem_label"),
}  # what is looked for, in this order
LABEL_FILE = "label"  # the kind of ids that a .label file holds
LARGEST_ID = (1 << 32) - 1
_PREFIX = "scalar_"
_KINDS = {name: kind for kind, names in COLUMNS.items() for name in names}


def ids_of(cloud: PointCloud, path: Path) -> npt.NDArray[np.integer]:
    """The ids (N,) of a cloud: from `path` if that is a `.label` file, else from a column. Raises: BadLabels, OSError."""
    return label_file_ids(cloud, path) if path.suffix == ".label" else column_ids(cloud)[1]


def label_file_ids(cloud: PointCloud, path: Path) -> npt.NDArray[np.uint16]:
    """The class of every record (N,) of a `.label` file: the low 16 bits of a uint32, as in SemanticKITTI; the high ones are an instance.

    Raises: BadLabels (no whole number of records), OSError.
    """
    content = path.read_bytes()
    if len(content) % 4:
        raise BadLabels(f"{len(content):,} bytes are no whole number of labels of 4 bytes")
    return (np.frombuffer(content, "<u4") & 0xFFFF).astype(np.uint16)


def column_ids(cloud: PointCloud) -> tuple[str, npt.NDArray[np.integer]]:
    """(kind of the column, a key of COLUMNS; ids (N,)). Raises: BadLabels (none, two that differ, or numbers that are no ids)."""
    found = [(kind_of(name), name) for name in cloud.extra if kind_of(name)]
    if not found:
        has = f"; its columns are {', '.join(list(cloud.extra)[:16])}" if cloud.extra else ""
        raise BadLabels(f"no labels: neither a .label file beside it nor a column {', '.join(COLUMNS)}{has}")
    order = list(COLUMNS)
    (kind, name), *others = sorted(found, key=lambda each: order.index(each[0]))
    ids = as_ids(name, cloud.extra[name])
    for _, other in others:
        if not np.array_equal(ids, cloud.extra[other]):
            raise BadLabels(f"the columns {name} and {other} both look like labels, and differ; leave one")
    return kind, ids


def kind_of(column: str) -> str:
    """What a column is by its name: a key of COLUMNS, or nothing."""
    return _KINDS.get(column.lower().removeprefix(_PREFIX), "")


def as_ids(name: str, values: npt.NDArray[np.generic]) -> npt.NDArray[np.integer]:
    """A column (N,) of whole numbers of any type as ids; -1 says that a point has none.

    Raises: BadLabels (a fraction, NaN, another negative number, more than 32 bits), naming the first such point.
    """
    if values.dtype == np.uint8 or values.dtype == np.uint16:
        return np.asarray(values, values.dtype)
    with np.errstate(invalid="ignore"):
        wide = values.astype(np.float64)
        bad = ~((wide >= -1) & (wide <= LARGEST_ID) & (wide == np.rint(wide)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise BadLabels(f"{name} must hold whole numbers from 0 to {LARGEST_ID}, or -1 for none; found {values[row]}", where=f"point {row}")
    return wide.astype(np.int64)


def label_file_of(cloud: Path, ending: str) -> Path | None:
    """The `.label` file of a cloud: beside it, or in `labels/` beside the folder `velodyne/` that the cloud is in."""
    name = cloud.name[: -len(ending)] + ".label"
    places = [cloud.with_name(name)]
    if cloud.parent.name == "velodyne":
        places.append(cloud.parent.parent / "labels" / name)
    return next((place for place in places if place.is_file()), None)
