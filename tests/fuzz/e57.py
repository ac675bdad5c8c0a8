"""Damaged E57: most damage is done behind the checksums of its pages, which are right again afterwards: else nothing gets past them."""

import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

PAGE, DATA = 1024, 1020  # bytes of a page, and without its checksum
HEADER = struct.Struct("<8sIIQQQQ")
POINTS = 20
XML_WORDS = tuple(
    b"data3D points prototype codecs pose rotation translation vectorChild Structure Vector CompressedVector Integer Float ScaledInteger "
    b"String Blob type= minimum= maximum= precision= single double scale= offset= fileOffset= recordCount= allowHeterogeneousChildren= "
    b"cartesianX sphericalRange colorRed cartesianInvalidState intensity <!ENTITY <!DOCTYPE <![CDATA[ &amp; &#0; &x; xmlns:".split()
)

# --- good files


def seeds() -> list[bytes]:
    """Scans with coordinates of every kind, colours, states, poses and numbers of many widths in bits. None without pye57."""
    try:
        from pye57 import libe57
    except ImportError:
        return []
    single, double = libe57.FloatPrecision.E57_SINGLE, libe57.FloatPrecision.E57_DOUBLE
    rng = np.random.default_rng(0)

    def floats(precision: object) -> tuple[Callable[..., object], np.ndarray]:
        return lambda image: libe57.FloatNode(image, 0.0, precision, -1e6, 1e6), rng.normal(size=POINTS)

    def whole(low: int, high: int) -> tuple[Callable[..., object], np.ndarray]:
        return lambda image: libe57.IntegerNode(image, low, low, high), rng.integers(low, min(high, 1 << 62), POINTS).astype(np.longlong)

    def scaled() -> tuple[Callable[..., object], np.ndarray]:
        return lambda image: libe57.ScaledIntegerNode(image, 0, -100_000, 100_000, 0.001, 5.0), rng.normal(size=POINTS)

    axes, sphere = [f"cartesian{axis}" for axis in "XYZ"], ["sphericalRange", "sphericalAzimuth", "sphericalElevation"]
    colours = {f"color{name}": whole(0, 255) for name in ("Red", "Green", "Blue")}
    return [
        _written([{name: floats(double) for name in axes} | {"intensity": floats(single)} | colours]),
        _written([{name: floats(single) for name in axes} | {"cartesianInvalidState": whole(0, 2)}], posed=True),
        _written([{name: scaled() for name in axes} | {"intensity": whole(0, 65535)}] * 2, posed=True),
        _written([{name: floats(double) for name in sphere} | {"sphericalInvalidState": whole(0, 2)}]),
        _written([{name: floats(single) for name in axes} | {f"bits{n}": whole(0, (1 << n) - 1) for n in (1, 3, 7, 13, 31, 33)}]),
    ]


def _written(scans: list[dict[str, tuple[Callable[..., object], np.ndarray]]], posed: bool = False) -> bytes:
    """Without dates and names that differ from one time to another."""
    from pye57 import libe57

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.e57"
        image = libe57.ImageFile(str(path), "w")
        root = image.root()
        root.set("formatName", libe57.StringNode(image, "ASTM E57 3D Imaging Data File"))
        root.set("guid", libe57.StringNode(image, "{0}"))
        root.set("versionMajor", libe57.IntegerNode(image, 1))
        root.set("versionMinor", libe57.IntegerNode(image, 0))
        nodes = libe57.VectorNode(image, True)
        root.set("data3D", nodes)
        for fields in scans:
            _add_scan(image, nodes, fields, posed)
        image.close()
        return path.read_bytes()


def _add_scan(image, nodes, fields: dict[str, tuple[Callable[..., object], np.ndarray]], posed: bool) -> None:
    from pye57 import libe57

    node, prototype, buffers = libe57.StructureNode(image), libe57.StructureNode(image), libe57.VectorSourceDestBuffer()
    for name, (make, values) in fields.items():
        prototype.set(name, make(image))
        buffers.append(libe57.SourceDestBuffer(image, name, values, len(values), True, True))
    if posed:
        pose = libe57.StructureNode(image)
        for part, numbers in (("rotation", {"w": 1.0, "x": 0.5, "y": 0.0, "z": 0.25}), ("translation", {"x": 5e5, "y": 5e6, "z": 1.0})):
            values = libe57.StructureNode(image)
            for name, number in numbers.items():
                values.set(name, libe57.FloatNode(image, number))
            pose.set(part, values)
        node.set("pose", pose)
    points = libe57.CompressedVectorNode(image, prototype, libe57.VectorNode(image, True))
    node.set("points", points)
    nodes.append(node)
    writer = points.writer(buffers)
    writer.write(POINTS)
    writer.close()


# --- damage


def damage_e57(start: bytes, rng: Random, damaged: Callable[[bytes, str], bytes]) -> bytes:
    """damaged: what does damage of the kinds of a format. Mostly in the description, or in the points; at times anywhere."""
    if rng.random() < 0.1:
        return damaged(start, "bin")
    content = b"".join(start[at : at + DATA] for at in range(0, len(start), PAGE))
    signature, major, minor, _, xml_at, xml_bytes, page = HEADER.unpack_from(content)
    begin = xml_at // PAGE * DATA + xml_at % PAGE
    points, xml, rest = content[HEADER.size : begin], content[begin : begin + xml_bytes], content[begin + xml_bytes :]
    where = rng.random()
    if where < 0.5:
        xml = damaged(xml, "e57")
    elif where < 0.9:
        points = damaged(points, "bin")
    begin = HEADER.size + len(points)
    size = -(-(begin + len(xml) + len(rest)) // DATA) * PAGE
    header = HEADER.pack(signature, major, minor, size, begin // DATA * PAGE + begin % DATA, len(xml), page)
    if where >= 0.9:
        header = damaged(header, "bin")
    return paged(header + points + xml + rest)


def paged(content: bytes) -> bytes:
    pages = [content[at : at + DATA].ljust(DATA, b"\0") for at in range(0, len(content), DATA)]
    return b"".join(page + struct.pack(">I", crc32c(page)) for page in pages)


def crc32c(data: bytes) -> int:
    table, rest = _table(), 0xFFFFFFFF
    for byte in data:
        rest = table[(rest ^ byte) & 255] ^ rest >> 8
    return rest ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    out = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        out.append(byte)
    return tuple(out)
