"""NumPy's `.npz`, for scripts in Python; not compressed, because that would take longer than reading the cloud."""

from typing import BinaryIO

import numpy as np

from models.answers.labelled import Labelled


def write_npz(answer: Labelled, out: BinaryIO) -> None:
    """Arrays labels (N,) uint8 or uint16 (classes), ids (N,) uint32, confidence (N,) float32, names (L,) text.

    `names[labels[i]]` is the class of point i. Loads with `allow_pickle=False`. The same answer gives the same bytes.
    """
    np.savez(
        out,
        labels=answer.indices,
        ids=answer.label_map.ids_of(answer.labels).astype("<u4", copy=False),
        confidence=answer.confidence.astype("<f4", copy=False),
        names=np.array(answer.label_map.names, np.str_),
    )
