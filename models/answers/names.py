"""What a file with an answer is called."""

from models.answers import ANSWERS
from models.io import FORMATS

JSON_EXTENSION = ".json"


def answer_name(name: str, fmt: str) -> str:
    """`street.bin` -> `street.label`; `street.ply` -> `street.labelled.ply`, so that an answer is never called as its file.

    name: of the file that was labelled, without a folder. fmt: a name of ANSWERS, or json.
    """
    extension = ANSWERS[fmt].extension if fmt in ANSWERS else JSON_EXTENSION
    known = sorted((each for format_ in FORMATS.values() for each in format_.extensions), key=len, reverse=True)
    ending = next((each for each in known if name.lower().endswith(each)), "")
    stem = name[: len(name) - len(ending)]
    return f"{stem or 'points'}{'.labelled' if ending == extension else ''}{extension}"
