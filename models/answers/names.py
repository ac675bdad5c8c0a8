"""What a file with an answer is called."""

from models.answers import ANSWERS, OWN, SAME
from models.io import FORMATS

JSON_EXTENSION = ".json"


def answer_name(name: str, fmt: str) -> str:
    """`street.bin` -> `street.label`; `street.ply` -> `street.labelled.ply`, so that an answer is never called as its file.

    An answer in the file's own format keeps its ending, where that does not stand for another answer. name: of the file that was
    labelled, without a folder. fmt: a name of ANSWERS, or `same`, which is told by the ending alone; anything else is json.
    """
    ending, of_file = _known_ending(name.lower())
    stem = name[: len(name) - len(ending)] or "points"
    answers = {each.extension: answer for answer, each in ANSWERS.items()}
    if fmt == SAME and of_file is not None:
        fmt = answers.get(ending) or OWN.get(of_file, of_file)
    if fmt == answers.get(ending, of_file) or fmt == SAME:
        return f"{stem}.labelled{ending}"
    return stem + (ANSWERS[fmt].extension if fmt in ANSWERS else JSON_EXTENSION)


def _known_ending(name: str) -> tuple[str, str | None]:
    """The longest ending of a format that a name has, and that format."""
    endings = [(ending, fmt) for fmt, each in FORMATS.items() for ending in each.extensions if name.endswith(ending)]
    return max(endings, key=lambda found: len(found[0]), default=("", None))
