"""Damaged files of every format: whatever the bytes, only a FipError comes out, and memory stays within a few times the file."""

import contextlib
import io
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import FipError
from models.io import read_cloud

MEMORY = 8 << 20  # the files are below 30 kB


def _ply(form: str, body: bytes) -> bytes:
    kinds = ("list uchar int l", "float x", "double y", "int z", "float red", "uchar g", "float b")
    columns = "".join(f"property {kind}\n" for kind in kinds)
    face = "element face 2\nproperty list uchar int vertex_indices\n"
    return f"ply\nformat {form} 1.0\n{face}element vertex 2\n{columns}end_header\n".encode() + body


def _binary_body(order: str) -> bytes:
    faces = struct.pack(order + "B3iB4i", 3, 0, 1, 0, 4, 0, 1, 0, 1)
    return faces + b"".join(struct.pack(order + "BifdifBf", 1, 7, i, i, i, 0.5, 1, 0.5) for i in range(2))


def _arrays() -> tuple[bytes, bytes, bytes]:
    single, plain, compressed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    xyz = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(single, xyz)
    np.savez(plain, xyz=xyz, rgb=np.zeros((4, 3), np.uint8), intensity=np.zeros(4))
    np.savez_compressed(compressed, points=xyz, label=np.arange(4))
    return single.getvalue(), plain.getvalue(), compressed.getvalue()


FILES = {
    "ascii.ply": _ply("ascii", b"3 0 1 0\n4 0 1 0 1\n1 7 0 0 0 .5 1 .5\n1 7 1 1 1 .5 1 .5\n"),
    "little.ply": _ply("binary_little_endian", _binary_body("<")),
    "big.ply": _ply("binary_big_endian", _binary_body(">")),
    "plain.ply": b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty uchar z\nend_header\n"
    b"1 2 3\n4 5 6\n",
    "mesh.off": b"OFF\n4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n4 0 1 2 3\n",
    "scan.bin": np.arange(16, dtype="<f4").tobytes(),
    "scan.pcd.bin": np.arange(20, dtype="<f4").tobytes(),
    **dict(zip(("one.npy", "two.npz", "three.npz"), _arrays(), strict=True)),
}

COUNTS = [b"0", b"1", b"-1", b"257", b"2147483648", b"9" * 18, b"9" * 19, b"9" * 4300, b"9" * 5000, b"1L2", b"1_0", b"+2", b"\xb2"]

edit = st.one_of(
    st.tuples(st.just("count"), st.integers(0, 12), st.sampled_from(COUNTS)),
    st.tuples(st.just("flip"), st.integers(0, 1 << 16), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, 1 << 16), st.integers(1, 40)),
    st.tuples(st.just("end"), st.integers(0, 1 << 16), st.just(0)),
    st.tuples(
        st.just("put"), st.integers(0, 1 << 16), st.sampled_from([b"\0", b"9" * 12, b"-", b"\n", b"\r", b" ", b"nan ", b"\xff" * 8, b"1e9"])
    ),
)


def damaged(data: bytes, edits: list[tuple[str, int, int | bytes]]) -> bytes:
    out = bytearray(data)
    for kind, place, value in edits:
        at = place % (len(out) + 1)
        if kind == "count" and isinstance(value, bytes):
            if numbers := list(re.finditer(rb"\d+", bytes(out[:400]))):
                out[slice(*numbers[place % len(numbers)].span())] = value
        elif isinstance(value, bytes):
            out[at:at] = value
        elif kind == "flip" and at < len(out):
            out[at] ^= value
        elif kind == "cut":
            del out[at : at + value]
        elif kind == "end":
            del out[at:]
    return bytes(out)


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_good_to_begin_with(name, tmp_path):
    (tmp_path / name).write_bytes(FILES[name])
    assert len(read_cloud(tmp_path / name).checked()) > 1


@given(st.sampled_from(sorted(FILES)), st.lists(edit, min_size=1, max_size=4))
def test_only_fip_errors_and_little_memory(tmp_path_factory, name, edits):
    only_fip_errors_and_little_memory(tmp_path_factory.getbasetemp() / f"fuzz-{name}", damaged(FILES[name], edits))


length = st.one_of(st.integers(0, 5), st.sampled_from([*COUNTS, 256, 257, 1 << 31, (1 << 63) - 1, 1 << 63, 10**26])).map(
    lambda value: value.decode("latin-1") if isinstance(value, bytes) else str(value)
)
shape = st.builds(
    lambda lengths, comma, end: f"({comma.join(lengths)}{end})",
    st.lists(length, max_size=70),
    st.sampled_from([", ", ",", " ", "L, "]),
    st.sampled_from(["", ",", "L", ", "]),
)


@given(
    st.lists(shape, min_size=1, max_size=3),
    st.sampled_from([None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
)
def test_shapes_of_arrays(tmp_path_factory, shapes, compression):
    arrays = []
    for each in shapes:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {each}, }}\n".encode("latin-1")
        arrays.append(b"\x93NUMPY\1\0" + (len(text) & 0xFFFF).to_bytes(2, "little") + text + bytes(1100))
    folder = tmp_path_factory.getbasetemp()
    if compression is None:
        only_fip_errors_and_little_memory(folder / "shapes.npy", arrays[0])
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in zip(("xyz", "rgb", "label"), arrays, strict=False):
            archive.writestr(f"{name}.npy", data)
    only_fip_errors_and_little_memory(folder / "shapes.npz", buffer.getvalue())


def only_fip_errors_and_little_memory(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with contextlib.suppress(FipError):
            assert len(read_cloud(path).checked())
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY
