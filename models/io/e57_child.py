"""Reads E57 with pye57, in a process of its own: `e57.py` starts this file, and nothing imports it.

libE57Format is C++ that parses what strangers send. What it takes in memory and time is limited here, and where it ends at a bad
file, it is this process that ends. Run as `e57_child.py QUESTION` with the file as standard input; QUESTION is JSON:

- {"limits": ..., "most": P or null} is answered by JSON: {"announced": points of all scans}, if they are more than P; else
  {"count": N, "columns": [[name, numpy's type], ...]}.
- {"limits": ..., "columns": [...]} is answered by N rows of these columns, packed.

limits: seconds of the processor, and bytes of memory beyond what is taken to begin with. Ends with 0, or with 3 and on standard error
the name of an error of `models.errors`, a colon and what is wrong.

Source: ASTM E2807-11, section 8.4.
"""

import json
import os
import resource
import sys
from collections.abc import Iterator

REFUSED = 3
BLOCK_ROWS = 1 << 16
SCANS, FIELDS = 4096, 64
CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
INVALID = ("cartesianInvalidState", "sphericalInvalidState")  # of a point: 0 where its coordinates mean something
NAMES = {"colorRed": "red", "colorGreen": "green", "colorBlue": "blue"}
OWN = ("x", "y", "z", "scan_index")  # columns that are no fields
BUFFERS = dict.fromkeys(("<u4", "<i4", "<i8"), "q")  # pye57 knows C's int not at all, and takes its long for 32 bits

try:
    import numpy as np
    import numpy.typing as npt
    from pye57 import libe57
except ImportError as error:
    sys.stderr.write(f"UnsupportedFormat: pye57 is there but cannot be loaded: {error}")
    sys.exit(REFUSED)

Column = npt.NDArray[np.generic]


class Refused(Exception):
    """`kind`: the name of an error of `models.errors`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Scan:
    """One scan of the file: its points, the fields of them that are numbers, with numpy's types, and where it stands."""

    def __init__(self, image: "libe57.ImageFile", node: "libe57.StructureNode", number: int) -> None:
        self.image = image
        self.points = node["points"]
        self.count = int(self.points.childCount())
        prototype = libe57.StructureNode(self.points.prototype())
        if prototype.childCount() > FIELDS:
            raise Refused("HeaderTooLarge", f"{prototype.childCount()} fields of a point, the limit is {FIELDS}")
        names = [prototype.get(i).elementName() for i in range(prototype.childCount())]
        self.fields = {name: code for name in names if (code := code_of(prototype[name])) is not None}
        axes = next((axes for axes in (CARTESIAN, SPHERICAL) if all(name in self.fields for name in axes)), None)
        if axes is None:
            raise Refused("MissingCoordinates", f"scan {number} has neither x, y, z nor range, azimuth, elevation")
        self.axes = axes
        invalid = INVALID[axes is SPHERICAL]
        self.invalid = invalid if invalid in self.fields else None
        self.rotation, self.shift = pose_of(node)

    @property
    def columns(self) -> dict[str, str]:
        """The fields, as others call them, and their types; not those that say where a point is."""
        used = {*CARTESIAN, *SPHERICAL, *INVALID}
        return {NAMES.get(name, name): code for name, code in self.fields.items() if name not in used}

    def blocks(self, names: list[str]) -> Iterator[dict[str, Column]]:
        """Some fields of the points that have coordinates, a block at a time."""
        wanted = dict.fromkeys([*names, *([self.invalid] if self.invalid else [])])
        arrays = {name: np.empty(BLOCK_ROWS, BUFFERS.get(self.fields[name], self.fields[name])) for name in wanted}
        buffers = libe57.VectorSourceDestBuffer()
        for name, array in arrays.items():
            buffers.append(libe57.SourceDestBuffer(self.image, name, array, BLOCK_ROWS, True, True))
        reader = self.points.reader(buffers)
        left = self.count
        while left and (found := reader.read()):
            valid = arrays[self.invalid][:found] == 0 if self.invalid else np.ones(found, np.bool_)
            yield {name: arrays[name][:found][valid] for name in names}
            left -= found
        reader.close()
        if left:
            raise Refused("TruncatedFile", f"{left} of {self.count} points of a scan are missing")

    def xyz(self, block: dict[str, Column]) -> npt.NDArray[np.float64]:
        """Coordinates (n, 3) in the frame of the file."""
        first, second, third = (block[name].astype(np.float64) for name in self.axes)
        if self.axes is SPHERICAL:
            across = first * np.cos(third)
            first, second, third = across * np.cos(second), across * np.sin(second), first * np.sin(third)
        return np.asarray(np.stack([first, second, third], axis=1) @ self.rotation.T + self.shift)


def code_of(node: "libe57.Node") -> str | None:
    """numpy's type for the values of a field; None if they are no numbers."""
    if node.elementName() in (*CARTESIAN, *SPHERICAL) or isinstance(node, libe57.ScaledIntegerNode):
        return "<f8"
    if isinstance(node, libe57.FloatNode):
        return "<f4" if node.precision() == libe57.FloatPrecision.E57_SINGLE else "<f8"
    if not isinstance(node, libe57.IntegerNode):
        return None
    codes = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<i8")
    return next(code for code in codes if np.iinfo(code).min <= node.minimum() and node.maximum() <= np.iinfo(code).max)


def pose_of(node: "libe57.StructureNode") -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rotation (3, 3) and shift (3,) of a scan; none where the file gives none."""
    rotation, shift = np.eye(3), np.zeros(3)
    if not node.isDefined("pose"):
        return rotation, shift
    pose = node["pose"]
    if pose.isDefined("translation"):
        shift = np.array([float(pose["translation"][axis].value()) for axis in "xyz"])
    if pose.isDefined("rotation"):
        quaternion = np.array([float(pose["rotation"][part].value()) for part in "wxyz"])
        length = np.linalg.norm(quaternion)
        if not (np.isfinite(length) and length > 0):
            raise Refused("BadBody", "the rotation of a scan is no quaternion")
        w, *xyz = quaternion / length
        x, y, z = xyz
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rotation = (w * w - np.dot(xyz, xyz)) * np.eye(3) + 2 * np.outer(xyz, xyz) + 2 * w * cross
    return rotation, shift


def scans_of(image: "libe57.ImageFile") -> list[Scan]:
    root = image.root()
    if not root.isDefined("data3D"):
        return []
    nodes = root["data3D"]
    count = nodes.childCount()
    if count > SCANS:
        raise Refused("HeaderTooLarge", f"{count} scans, the limit is {SCANS}")
    return [Scan(image, nodes[number], number) for number in range(count)]


def columns_of(scans: list[Scan]) -> list[tuple[str, str]]:
    """x, y, z, what all scans have, and which scan it is."""
    shared = [name for name in (scans[0].columns if scans else {}) if all(name in scan.columns for scan in scans) and name not in OWN]
    types = [np.result_type(*(scan.columns[name] for scan in scans)).str for name in shared]
    return [*((axis, "<f8") for axis in "xyz"), *zip(shared, types, strict=True), ("scan_index", "<u2")]


def describe(scans: list[Scan], most: int | None) -> dict[str, object]:
    announced, size = sum(scan.count for scan in scans), os.fstat(0).st_size
    if most is not None and announced > most:
        return {"announced": announced}
    if announced > 8 * size:
        raise Refused("TruncatedFile", f"the scans announce {announced} points, less than a bit each in {size} bytes")
    count = 0
    for scan in scans:
        count += scan.count if scan.invalid is None else sum(len(block[scan.invalid]) for block in scan.blocks([scan.invalid]))
    return {"count": count, "columns": columns_of(scans)}


def write_rows(scans: list[Scan], row: np.dtype[np.void], out: int) -> None:
    wanted = row.names or ()
    for number, scan in enumerate(scans):
        sources = {NAMES.get(name, name): name for name in scan.fields}
        fields = {name: sources[name] for name in wanted if name not in OWN}
        for block in scan.blocks([*scan.axes, *fields.values()]):
            table = np.empty(len(block[scan.axes[0]]), row)
            xyz = scan.xyz(block)
            for place, axis in enumerate("xyz"):
                if axis in wanted:
                    table[axis] = xyz[:, place]
            for name, source in fields.items():
                table[name] = block[source]
            if "scan_index" in wanted:
                table["scan_index"] = number
            write(out, table.tobytes())


def write(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


def limit(seconds: int, memory: int) -> None:
    """From here on the process may take no more than this."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # of standard error
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux, and no limit of the address space to speak of
        return
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


def main(limits: tuple[int, int], most: int | None, columns: list[tuple[str, str]] | None) -> tuple[str, str] | None:
    """What is wrong, as the name of an error and a text."""
    out = os.dup(1)
    os.dup2(2, 1)  # whatever the library prints
    limit(*limits)
    try:
        scans = scans_of(libe57.ImageFile("/dev/fd/0", "r"))
        if columns is None:
            write(out, json.dumps(describe(scans, most)).encode())
        else:
            write_rows(scans, np.dtype(columns), out)
    except Refused as error:
        return error.kind, str(error)
    except BrokenPipeError:  # nobody wants more
        return None
    except MemoryError:
        return "BadBody", "reading it takes more memory than it may"
    except Exception as error:  # of libE57Format, which says much
        return "BadBody", " ".join(str(error).split())[:300]
    return None


if __name__ == "__main__":
    question = json.loads(sys.argv[1])
    asked = question.get("columns")
    wrong = main(question["limits"], question.get("most"), asked and [(name, code) for name, code in asked])
    if wrong:
        os.write(2, ": ".join(wrong).encode())
    os._exit(REFUSED if wrong else 0)  # without what the library does at the end
