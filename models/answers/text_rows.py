"""What the answers that are text share: rows of a file counted out with its blank lines, and the added values as words."""

from collections.abc import Iterator

from models.answers.labelled import Labelled


def whole_rows(lines: Iterator[bytes], count: int) -> Iterator[bytes]:
    """The lines up to the last of `count` that are not blank, blank ones before it too."""
    while count:
        line = next(lines, None)
        if line is None:
            return
        count -= bool(line.strip())
        yield line


def added_texts(answer: Labelled, rows: slice) -> list[bytes]:
    """The added values of some points, each with a blank before it. The confidence has as many digits as float32 needs."""
    classes = answer.label_map.classes
    heads = [b" %d " % index for index in range(len(classes))]
    tails = [b" %d %d %d" % each.colour for each in classes]
    sure = answer.confidence[rows].astype("S24").tolist()
    return [heads[label] + each + tails[label] for label, each in zip(answer.labels[rows].tolist(), sure, strict=True)]
