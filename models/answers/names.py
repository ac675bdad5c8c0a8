"""What a file with an answer is called."""

from models.answers import ANSWERS, OWN, SAME
from models.io import FORMATS

JSON_EXTENSION = ".json"


def answer_name(name: str, fmt: str) -> str:
    """`street.bin` -> `street.label`; `street.ply` -> `street.labelled.ply`, so that an answer is never called as its file.

    An answer in the file's own format keeps its ending, of those that the format has. name: of the file that was labelled, without a
    folder. fmt: a name of ANSWERS, or `same`, which is told by the ending alone; anything else is json.
    """
    ending, of_file = _known_ending(name.lower())
    stem = name[: len(name) - len(ending)] or "points"
    if fmt == SAME and of_file is not None:
        fmt = OWN.get(of_file, of_file)
    if fmt in (SAME, of_file):
        return f"{stem}.labelled{ending}"
    extension = ANSWERS[fmt].extension if fmt in ANSWERS else JSON_EXTENSION
    return f"{stem}{'.labelled' if ending == extension else ''}{extension}"


def _known_ending(name: str) -> tuple[str, str | None]:
    """The longest ending of a format that a name has, and that format."""
    endings = [(ending, fmt) for fmt, each in FORMATS.items() for ending in each.extensions if name.endswith(ending)]
    return max(endings, key=lambda found: len(found[0]), default=("", None))
