"""What answers are called: files, extensions, media types, columns."""

import re
from urllib.parse import unquote

import pytest

from models.answers import ANSWERS, SAME
from models.answers.names import answer_name
from models.io import FORMATS
from models.io.names import numbered
from service.segmentation import answered_name, disposition


def test_names_that_are_taken_are_numbered():
    assert numbered("a", {}) == "a"
    assert numbered("a", {"a", "a_2", "b"}) == "a_3"
    assert [numbered("A", {"a"}), numbered("A", {"a"}, key=str.lower)] == ["A", "A_2"]


def test_extensions_and_media_types():
    expected = {
        "ply": (".ply", "application/ply"),
        "label": (".label", "application/octet-stream"),
        "lidarseg": ("_lidarseg.bin", "application/octet-stream"),
        "npy": (".npy", "application/x-npy"),
        "npz": (".npz", "application/x-npz"),
        "raw": (".raw", "application/octet-stream"),
    }
    assert expected.items() <= {name: (each.extension, each.media_type) for name, each in ANSWERS.items()}.items()


@pytest.mark.parametrize(
    ("given_name", "fmt", "expected"),
    [
        ("street.bin", "label", "street.label"),
        ("Street.PLY", "ply", "Street.labelled.ply"),
        ("room.npy", "json", "room.json"),
        ("2024.01.02", "raw", "2024.01.02.raw"),
        ("", "label", "points.label"),
        (".ply", "label", "points.label"),
        ("street.bin", "same", "street.label"),
        ("n015.pcd.bin", "same", "n015_lidarseg.bin"),
        ("n015.PCD.BIN", "lidarseg", "n015_lidarseg.bin"),
        ("n015.pcd.bin", "ply", "n015.ply"),
        ("Room.PLY", "same", "Room.labelled.ply"),
        ("room.npz", "npz", "room.labelled.npz"),
        ("room.npy", "npy", "room.labelled.npy"),
        ("land.laz", "same", "land.labelled.laz"),
        ("land.laz", "laz", "land.labelled.laz"),
        ("land.laz", "las", "land.las"),
        ("land.las", "laz", "land.laz"),
        ("room", "same", "room.labelled"),
        ("", "same", "points.labelled"),
        ("room.ply", "json", "room.json"),
    ],
)
def test_names_of_answers(given_name, fmt, expected):
    assert answer_name(given_name, fmt) == expected


@pytest.mark.parametrize("fmt", [*ANSWERS, SAME, "json"])
def test_no_answer_is_called_as_its_file(fmt):
    for ending in [ending for each in FORMATS.values() for ending in each.extensions]:
        name = answer_name(f"a{ending}", fmt)
        extension = ANSWERS[fmt].extension if fmt in ANSWERS else ".json"
        assert name != f"a{ending}"
        assert name in (f"a{extension}", f"a.labelled{ending}") or fmt == SAME


@pytest.mark.parametrize(
    "name",
    [
        'a"b; x=\r\nSet-Cookie: y.bin',
        "straße am Fluß.bin",
        "..",
        "x" * 300 + ".bin",
        "../../etc/passwd",
        "\ud800\x9b\u202e",
        "点" * 200 + ".bin",
    ],
)
def test_file_names_are_harmless_in_a_header(name: str) -> None:
    header = disposition(answered_name(name, "label"))
    found = re.fullmatch(
        r"attachment; filename=\"([A-Za-z0-9_-][A-Za-z0-9._-]{0,99})\"(?:; filename\*=UTF-8''([A-Za-z0-9._~%-]+))?", header
    )
    assert found
    for said in (found[1], unquote(found[2] or found[1])):
        assert said.endswith(".label")
        assert not re.search(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*]|^\.', said)
        assert len(said.encode()) <= 255
    assert (found[2] is not None) == any(letter in name for letter in "ß=点")
