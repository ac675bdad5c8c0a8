"""How answers are named: by the file that was sent, harmless in a header, whatever it is called."""

import re

import httpx
import pytest

from models.answers.names import answer_name
from service.segmentation import safe_name


@pytest.mark.parametrize(
    ("given", "fmt", "expected"),
    [
        ("street.bin", "label", "street.label"),
        ("n015.pcd.bin", "ply", "n015.ply"),
        ("Street.PLY", "ply", "Street.labelled.ply"),
        ("room.npz", "npz", "room.labelled.npz"),
        ("room.npy", "json", "room.json"),
        ("2024.01.02", "raw", "2024.01.02.raw"),
        ("", "label", "points.label"),
        (".ply", "label", "points.label"),
    ],
)
def test_names_of_answers(given: str, fmt: str, expected: str) -> None:
    assert answer_name(given, fmt) == expected
    assert answer_name(given, fmt) != given


@pytest.mark.parametrize("name", ['a"b; x=\r\nSet-Cookie: y.bin', "straße am Fluß.bin", "..", "x" * 300 + ".bin", "../../etc/passwd"])
def test_file_names_are_harmless_in_a_header(name: str) -> None:
    safe = safe_name(answer_name(name, "label"))
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", safe)
    assert safe.endswith(".label")


def test_strange_file_names_over_http(segment_client: httpx.Client, scan: bytes) -> None:
    form = segment_client.post("/v1/segment", params={"format": "raw"}, files={"file": ('ein "Straßen"-scan;.bin', scan)})
    assert re.fullmatch(r'attachment; filename="[A-Za-z0-9._-]+\.raw"', form.headers["Content-Disposition"])
