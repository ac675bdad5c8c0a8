"""`.label` as SemanticKITTI has it beside each scan: the raw id of every point."""

from typing import BinaryIO

from models.answers.labelled import Labelled


def write_label(answer: Labelled, out: BinaryIO) -> None:
    """N little-endian uint32 in the order of the points: the id that the label map writes for the class; no instances.

    Source: SemanticKITTI (Behley et al., ICCV 2019): its low 16 bits are the class, so maps for its tools have ids below 65,536.
    """
    out.write(answer.label_map.ids_of(answer.labels).astype("<u4", copy=False).data)
