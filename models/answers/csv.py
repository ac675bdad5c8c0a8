"""Labelled CSV: a first row with the names of the columns, then one row a point, separated by commas.

A CSV file comes back as it was, with the answer behind each row (`models.answers.text`).
"""

import csv
import io
from typing import BinaryIO

from models.answers.labelled import Labelled, added_names, plain_columns
from models.answers.text import plain_rows, write_same_text


def write_csv(answer: Labelled, out: BinaryIO) -> None:
    """x, y, z, red, green, blue, intensity, the other columns, label, confidence, label_red, label_green, label_blue.

    Whole numbers are written as such, floats with as few digits as bring the same value back, the confidence with six decimals.
    """
    if answer.file.fmt == "csv":
        write_same_text(answer, out)
        return
    names = plain_columns(answer.file.records).names
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow([*names, *added_names(names)])
    out.write(header.getvalue().encode())
    out.writelines(plain_rows(answer, ",", names))
