"""E57 against pye57, which reads it for us in another process; and files that are not what they say."""

import io
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import laspy
import numpy as np
import pye57
import pytest

from models.answers import SAME, Labelled, check_answer, write_answer
from models.errors import (
    BadBody,
    BadHeader,
    BadOption,
    FileError,
    HeaderTooLarge,
    MissingCoordinates,
    NoPoints,
    TooManyPoints,
    TruncatedFile,
    UnsupportedFormat,
)
from models.io import choose_format, open_cloud, read_cloud
from models.io.e57 import CHILD, _asked
from models.io.records import BLOCK_ROWS
from models.io.source import opened
from models.labels import load_label_map
from tests.fire import PROMPT_S
from tests.in_memory import guessed

libe57 = pye57.libe57

ROTATION, SHIFT = np.array([0.5, 0.5, 0.5, 0.5]), np.array([456000.25, 5432000.5, -7.0])  # UTM
PAGE, DATA = 1024, 1020


def scan(n: int, *, seed: int = 0, colours: bool = True, invalid: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    fields = {f"cartesian{axis}": rng.normal(size=n).astype(np.float32).astype(np.float64) for axis in "XYZ"}
    fields["intensity"] = rng.random(n).astype(np.float32)
    if colours:
        fields |= {f"color{name}": rng.integers(0, 256, n, np.uint8) for name in ("Red", "Green", "Blue")}
    if invalid:
        fields["cartesianInvalidState"] = (np.arange(n) % 3 == 1).astype(np.int8)
    return fields


@pytest.fixture
def write(tmp_path):
    def write_scans(*scans: dict[str, np.ndarray], posed: bool = True) -> Path:
        path = tmp_path / "a.e57"
        path.unlink(missing_ok=True)
        with pye57.E57(str(path), "w") as file:
            for number, each in enumerate(scans):
                file.write_scan_raw(each, rotation=ROTATION if posed else None, translation=SHIFT * number if posed else None)
        return path

    return write_scans


def custom(path: Path, fields: dict[str, tuple[Callable, np.ndarray]]) -> Path:
    """A scan whose fields are any nodes; made by a function of the file."""
    image = libe57.ImageFile(str(path), "w")
    root = image.root()
    root.set("formatName", libe57.StringNode(image, "ASTM E57 3D Imaging Data File"))
    root.set("guid", libe57.StringNode(image, "{0}"))
    root.set("versionMajor", libe57.IntegerNode(image, 1))
    root.set("versionMinor", libe57.IntegerNode(image, 0))
    scans = libe57.VectorNode(image, True)
    root.set("data3D", scans)
    prototype = libe57.StructureNode(image)
    buffers = libe57.VectorSourceDestBuffer()
    count = 0
    for name, (make, values) in fields.items():
        prototype.set(name, make(image))
        buffers.append(libe57.SourceDestBuffer(image, name, values, len(values), True, True))
        count = len(values)
    node = libe57.StructureNode(image)
    node.set("guid", libe57.StringNode(image, "{1}"))
    points = libe57.CompressedVectorNode(image, prototype, libe57.VectorNode(image, True))
    node.set("points", points)
    scans.append(node)
    writer = points.writer(buffers)
    writer.write(count)
    writer.close()
    image.close()
    return path


def test_two_scans_at_their_places(write):
    """As pye57 reads them, float64 from the poses on; nothing is said of points without coordinates."""
    scans = [scan(BLOCK_ROWS + 5, colours=True), scan(70, seed=1, invalid=True)]
    path = write(*scans)
    with pye57.E57(str(path)) as file:
        expected = [file.read_scan(i, intensity=True, colors=True, ignore_missing_fields=True) for i in range(2)]
    cloud = read_cloud(path)
    assert len(cloud) == BLOCK_ROWS + 5 + 47
    xyz = np.concatenate([np.stack([each[f"cartesian{axis}"] for axis in "XYZ"], axis=1) for each in expected])
    assert cloud.xyz.dtype == np.float64
    np.testing.assert_allclose(cloud.xyz, xyz, atol=2e-9, rtol=0)
    np.testing.assert_array_equal(cloud.intensity, np.concatenate([each["intensity"] for each in expected]))
    assert cloud.rgb is not None
    for channel, name in enumerate(("Red", "Green", "Blue")):
        np.testing.assert_array_equal(cloud.rgb[:, channel], np.concatenate([each[f"color{name}"] for each in expected]))
    assert list(cloud.extra) == ["scan_index"]
    np.testing.assert_array_equal(cloud.extra["scan_index"], np.repeat([0, 1], [BLOCK_ROWS + 5, 47]))


def test_a_file_in_memory(write):
    path = write(scan(500), scan(20, seed=1))
    there, here = read_cloud(path), read_cloud(io.BytesIO(path.read_bytes()), "e57")
    np.testing.assert_array_equal(there.xyz, here.xyz)
    np.testing.assert_array_equal(there.rgb, here.rgb)


def test_a_rotation_by_hand(write):
    """A third of a turn about the diagonal: x to y, y to z, z to x."""
    fields = scan(20)
    xyz = np.stack([fields[f"cartesian{axis}"] for axis in "XYZ"], axis=1)
    np.testing.assert_allclose(read_cloud(write(scan(3), fields)).xyz[3:], xyz[:, [2, 0, 1]] + SHIFT, atol=2e-9, rtol=0)


def test_some_columns_again_and_again(write):
    path = write(scan(100), scan(50, seed=1))
    whole = read_cloud(path)
    assert read_cloud(path, extra=False).xyz.tobytes() == whole.xyz.tobytes()
    with open_cloud(path) as file:
        for _ in range(2):
            table = np.concatenate(list(file.records.only(["y", "scan_index"]).read()))
            assert table.dtype.names == ("y", "scan_index")
            np.testing.assert_array_equal(table["y"], whole.xyz[:, 1])


def test_columns_that_not_all_scans_have(write):
    cloud = read_cloud(write(scan(10), scan(10, colours=False)))
    assert cloud.rgb is None
    assert cloud.intensity is not None


def test_spheres_and_scaled_numbers(tmp_path):
    rng = np.random.default_rng(0)
    n = 500
    reach, around, up = rng.uniform(1, 50, n), rng.uniform(-3, 3, n), rng.uniform(-1.5, 1.5, n)
    double = lambda image: libe57.FloatNode(image, 0.0, libe57.E57_DOUBLE)  # noqa: E731
    scaled = lambda image: libe57.ScaledIntegerNode(image, 0, 0, 4095, 0.25, 10.0)  # noqa: E731
    time_stamp = rng.random(n)
    path = custom(
        tmp_path / "a.e57",
        {
            "sphericalRange": (double, reach),
            "sphericalAzimuth": (double, around),
            "sphericalElevation": (double, up),
            "intensity": (scaled, 10 + 0.25 * (np.arange(n) % 4096)),
            "timeStamp": (double, time_stamp),
            "colorRed": (lambda image: libe57.IntegerNode(image, 0, 0, 65535), np.arange(n, dtype=np.uint16)),
            "colorGreen": (lambda image: libe57.IntegerNode(image, 0, 0, 65535), np.arange(n, dtype=np.uint16)),
            "colorBlue": (lambda image: libe57.IntegerNode(image, 0, 0, 65535), np.full(n, 65535, np.uint16)),
        },
    )
    cloud = read_cloud(path)
    expected = [reach * np.cos(up) * np.cos(around), reach * np.cos(up) * np.sin(around), reach * np.sin(up)]
    np.testing.assert_allclose(cloud.xyz, np.stack(expected, axis=1), atol=1e-12)
    np.testing.assert_array_equal(cloud.intensity, 10 + 0.25 * np.arange(n))
    np.testing.assert_array_equal(cloud.extra["timeStamp"], time_stamp)
    assert cloud.rgb is not None
    assert cloud.rgb[:, 2].tolist() == [255] * n


WIDE = [(0, 1), (-128, 127), (0, 65535), (0, (1 << 32) - 1), (-(1 << 31), (1 << 31) - 1), (-5, 1 << 33), (-(1 << 63), (1 << 63) - 1)]


@pytest.mark.parametrize(("low", "high"), WIDE)
def test_whole_numbers_of_any_width(tmp_path, low, high):
    """The widest ones are what a writer declares who declares nothing."""
    values = np.array([low, high, 0, 1, high // 3], np.longlong)
    double = lambda image: libe57.FloatNode(image, 0.0, libe57.E57_DOUBLE)  # noqa: E731
    fields = {f"cartesian{axis}": (double, np.arange(5.0)) for axis in "XYZ"}
    fields["rowIndex"] = (lambda image: libe57.IntegerNode(image, 0, low, high), values)
    found = read_cloud(custom(tmp_path / "a.e57", fields)).extra["rowIndex"]
    np.testing.assert_array_equal(found, values)
    assert np.iinfo(found.dtype.name).min <= low
    assert np.iinfo(found.dtype.name).max >= high


def test_without_coordinates(tmp_path):
    double = lambda image: libe57.FloatNode(image, 0.0, libe57.E57_DOUBLE)  # noqa: E731
    path = custom(tmp_path / "a.e57", {"cartesianX": (double, np.zeros(5)), "cartesianY": (double, np.zeros(5))})
    with pytest.raises(MissingCoordinates, match="scan 0 has neither"):
        read_cloud(path)


def test_limits_and_answers(write):
    """It has no answer of its own; others have all of its columns."""
    path = write(scan(30), scan(10, seed=1, invalid=True), posed=False)
    with pytest.raises(TooManyPoints, match="40 points, the limit is 39"):
        read_cloud(path, max_points=39)
    label_map = load_label_map("semantickitti19")
    with open_cloud(path, max_points=40) as file:
        with pytest.raises(BadOption, match="labels cannot be added to e57 files"):
            check_answer(SAME, file, label_map)
        labels, confidence = guessed(37)
        out = io.BytesIO()
        check_answer("laz", file, label_map)
        write_answer("laz", Labelled(file, file.cloud(), labels, confidence, label_map), out)
    found = laspy.read(io.BytesIO(out.getvalue()))
    np.testing.assert_allclose(found.xyz, read_cloud(path).xyz, atol=1e-6)
    np.testing.assert_array_equal(found.scan_index, [0] * 30 + [1] * 7)


def test_what_tells_the_format(write):
    assert choose_format(None, None, None, head=write(scan(1)).read_bytes()[:100]) == "e57"
    assert choose_format(None, "a.E57", None, head=b"") == "e57"


def test_without_pye57(write, monkeypatch):
    path = write(scan(3))
    monkeypatch.setitem(sys.modules, "pye57", None)  # Python's own way to say that there is no such module
    with pytest.raises(UnsupportedFormat, match=r"pip install 'fip-server\[e57\]'"):
        read_cloud(path)


# --- files that are not what they say


def checksum(data: bytes) -> bytes:
    """CRC-32C, as a page ends with it."""
    rest = 0xFFFFFFFF
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = (rest >> 1) ^ (0x82F63B78 if rest & 1 else 0)
    return struct.pack(">I", rest ^ 0xFFFFFFFF)


def content(data: bytes) -> bytes:
    """A file without the checksums of its pages."""
    return b"".join(data[at : at + DATA] for at in range(0, len(data), PAGE))


def paged(data: bytes) -> bytes:
    """The pages of a file, whose header says how long it is."""
    data += bytes(-len(data) % DATA)
    data = data[:16] + struct.pack("<Q", len(data) // DATA * PAGE) + data[24:]
    return b"".join(data[at : at + DATA] + checksum(data[at : at + DATA]) for at in range(0, len(data), DATA))


def with_xml(data: bytes, old: bytes, new: bytes) -> bytes:
    """The same file with another description, its checksums right."""
    place, length = struct.unpack_from("<QQ", data, 24)
    logical, start = content(data), place // PAGE * DATA + place % PAGE
    xml = logical[start : start + length]
    assert old in xml
    xml = xml.replace(old, new)
    return paged(logical[:32] + struct.pack("<Q", len(xml)) + logical[40:start] + xml)


def test_our_pages_are_as_libe57_writes_them(write):
    data = write(scan(10)).read_bytes()
    assert with_xml(data, b"Scan 0", b"Scan 0").rstrip(b"\0")[: len(data) - PAGE] == data[: len(data) - PAGE]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda data: b"ASTM-E58" + data[8:], BadHeader, "begins with ASTM-E57"),
        (lambda data: data[:47], TruncatedFile, "47 bytes are no E57 header"),
        (lambda data: data[:8] + struct.pack("<I", 2) + data[12:], UnsupportedFormat, "version 2"),
        (lambda data: data[:40] + struct.pack("<Q", 0) + data[48:], BadHeader, "pages of 0 bytes"),
        (lambda data: data[:-1], TruncatedFile, "the header announces"),
        (lambda data: data[:32] + struct.pack("<Q", 1 << 60) + data[40:], HeaderTooLarge, "bytes of XML, the limit is"),
        (lambda data: data[:32] + struct.pack("<Q", len(data)) + data[40:], TruncatedFile, "bytes of XML from byte"),
        (lambda data: data[:24] + struct.pack("<Q", 1 << 63) + data[32:], TruncatedFile, "bytes of XML from byte"),
        (lambda data: data[:24] + struct.pack("<Q", 0) + data[32:], BadHeader, "no XML"),
        (lambda data: data[:60] + b"\xff" + data[61:], BadBody, "checksum|CHECKSUM"),
        (lambda data: with_xml(data, b'recordCount="10"', b'recordCount="99"'), FileError, None),
        (lambda data: with_xml(data, b'recordCount="10"', b'recordCount="999999999999"'), TruncatedFile, "less than a bit each"),
        (lambda data: with_xml(data, b'recordCount="10"', b'recordCount="0"'), NoPoints, None),
        (lambda data: with_xml(data, b"cartesianX", b"cartesianQ"), MissingCoordinates, None),
        (lambda data: with_xml(data, b"<data3D", b"<data4D"), BadBody, None),
        (lambda data: with_xml(data, b"<e57Root", b'<!DOCTYPE e57Root [<!ENTITY a "b">]>\n<e57Root'), BadHeader, "without definitions"),
        (lambda data: with_xml(data, b'type="Float">5e-01', b'type="Float">0e-01'), BadBody, "no quaternion"),
    ],
)
def test_bad_files(write, save, change, error, match):
    fields = scan(10)
    data = change(write(fields).read_bytes())
    began = time.perf_counter()
    with pytest.raises(error, match=match):
        read_cloud(save("bad.e57", data))
    assert time.perf_counter() - began < PROMPT_S


def asked(path: Path, question: dict[str, object]) -> bytes:
    with opened(path) as source, _asked(source, question) as child:
        return child.take(1 << 20, whole=False)


def test_time_and_memory_are_limited(write):
    """Of the process that reads: by limits that this file cannot keep."""
    path = write(scan(200_000, invalid=True))
    plenty = [60, 1 << 29]
    assert json.loads(asked(path, {"limits": plenty, "most": None}))["count"] == 133_333
    with pytest.raises(BadBody):
        asked(path, {"limits": [60, 1 << 16], "most": None})
    with pytest.raises(BadBody, match="takes more time"):
        asked(path, {"limits": [0, 1 << 29], "columns": [["x", "<f8"]]})


def test_the_process_ends_with_who_asked(write):
    """Also where not all rows are taken."""
    path = write(scan(3 * BLOCK_ROWS))
    with open_cloud(path) as file:
        tables = file.records.read()
        assert len(next(tables)) == BLOCK_ROWS
        assert isinstance(tables, Generator)
        tables.close()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if children.exists():
        assert not [pid for pid in children.read_text().split() if b"e57_child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_process_that_crashes(write):
    """What ends by a signal, as C++ does, is told from what ends well."""
    path = write(scan(3))
    with opened(path) as source, _asked(source, {"limits": [60, 1 << 29], "columns": [["x", "<f8"]]}) as child:
        child._process.kill()
        child._process.wait()
        with pytest.raises(BadBody):
            child.take(1 << 20)


def test_the_process_needs_nothing_of_ours():
    """It is started as a file, and does not find the package."""
    found = subprocess.run([sys.executable, "-P", str(CHILD), "{}"], stdin=subprocess.DEVNULL, capture_output=True, cwd="/", check=False)
    assert b"KeyError: 'limits'" in found.stderr
