"""`_lidarseg.bin` as nuScenes has it for each of its scans: the raw id of every point in one byte."""

from typing import BinaryIO

import numpy as np

from models.answers.arrays import write_column
from models.answers.labelled import Labelled
from models.errors import BadOption
from models.io import CloudFile
from models.labels import LabelMap

MOST_ID = 255


def check_lidarseg(file: CloudFile, label_map: LabelMap) -> None:
    """Raises: BadOption (a class is written with an id that is more than a byte)."""
    for each in label_map.classes:
        if each.ids[0] > MOST_ID:
            raise BadOption(
                f"lidarseg holds ids up to {MOST_ID}, and the model writes {each.name!r} as {each.ids[0]}; ask for label", where="format"
            )


def write_lidarseg(answer: Labelled, out: BinaryIO) -> None:
    """N uint8 in the order of the points: the id that the label map writes for the class.

    Source: nuScenes-lidarseg (Fong et al., 2021) and the reader of its devkit, `load_bin_file` in nuscenes/utils/data_io.py.
    """
    ids_of = answer.label_map.ids_of
    write_column(out, np.dtype(np.uint8), len(answer.labels), lambda rows: ids_of(answer.labels[rows]))
