"""LAS and LAZ files that announce what they do not hold, damaged ones, and what lazrs makes of them."""

import io
import random
import time
import tracemalloc

import lazrs
import numpy as np
import pytest

from models.errors import BadBody, BadHeader, FileError, FipError, HeaderTooLarge, NoPoints, TooManyPoints, TruncatedFile, UnsupportedFormat
from models.io import read_cloud
from models.io.laz import MOST_EXTRA, VLR, _lazrs
from tests.fire import PROMPT_S
from tests.las_files import bytes_of, las_bytes, las_data, number_at, patched, points_at, record_at

LAS = las_bytes(3, "1.4", 40)
LAZ, LAZ6 = las_bytes(3, "1.2", 40, compressed=True), las_bytes(6, "1.4", 40, compressed=True)
OLD = las_bytes(3, "1.2", 40)
PACKED, PACKED6 = record_at(LAZ, b"laszip encoded") + 54, record_at(LAZ6, b"laszip encoded") + 54
DESCRIBED = record_at(OLD, b"LASF_Spec") + 54
TABLE = number_at(LAZ, points_at(LAZ), "q")
LAYERS = points_at(LAZ6) + 8 + number_at(LAZ6, 105, "H") + 4


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (b"LASX" + LAS[4:], BadHeader, "begins with LASF"),
        (LAS[:226], TruncatedFile, "226 bytes are no LAS header"),
        (LAS[:300], TruncatedFile, None),
        (patched(LAS, 24, "BB", 1, 5), UnsupportedFormat, "LAS 1.5 is not read"),
        (patched(LAS, 24, "BB", 2, 0), UnsupportedFormat, "LAS 2.0"),
        (patched(LAS, 94, "H", 374), BadHeader, "a header of 374 bytes"),
        (patched(LAS, 94, "H", 65535), BadHeader, "a header of 65535 bytes"),
        (patched(LAS, 96, "I", 100), BadHeader, "before points at byte 100"),
        (patched(LAS, 96, "I", 0xFFFFFFFF), TruncatedFile, "begin at byte 4294967295"),
        (patched(LAS, 100, "I", 0xFFFFFFFF), HeaderTooLarge, "4294967295 records"),
        (patched(LAS, 100, "I", 4000), TruncatedFile, None),
        (patched(LAS, record_at(LAS, b"somebody") + 20, "H", 65535), TruncatedFile, "VLR"),
        (patched(LAS, 104, "B", 11), BadHeader, "point format 11"),
        (patched(LAS, 104, "B", 0x43), BadHeader, "point format 67"),
        (patched(LAS, 105, "H", 33), BadHeader, "at least 34 bytes, not 33"),
        (patched(LAS, 105, "H", 65535), TruncatedFile, "40 points of 65535 bytes"),
        (patched(LAS, 105, "H", 40), BadHeader, "extra bytes are described"),
        (patched(LAS, 131, "d", float("nan")), BadHeader, "not a finite number"),
        (patched(LAS, 155, "d", float("inf")), BadHeader, "not a finite number"),
        (patched(LAS, 247, "Q", (1 << 64) - 1), TruncatedFile, None),
        (patched(LAS, 247, "Q", 0), NoPoints, None),
        (patched(OLD, 107, "I", 0xFFFFFFFF), TruncatedFile, None),
        (patched(OLD, 107, "I", 0), NoPoints, None),
        (OLD[:-1], TruncatedFile, "40 points"),
        (patched(LAS, 243, "I", 2), TruncatedFile, "EVLR"),
        (patched(LAS, 243, "I", 0xFFFFFFFF), HeaderTooLarge, "4294967295 records"),
        (patched(LAS, 235, "Q", (1 << 64) - 1), TruncatedFile, None),
        (patched(LAS, 235, "Q", points_at(LAS) + 3), FileError, None),
        (patched(LAS, 235, "Q", 0), FileError, None),
        (patched(LAS, number_at(LAS, 235, "Q") + 20, "Q", (1 << 64) - 1), TruncatedFile, "EVLR 0"),
        (patched(OLD, DESCRIBED + 2, "B", 31), BadHeader, "unknown type 31"),
        (patched(OLD, DESCRIBED + 2, "BB", 0, 255), BadHeader, "extra bytes are described"),
    ],
)
def test_bad_headers(save, data, error, match):
    with pytest.raises(error, match=match) as caught:
        read_cloud(save("a.las", data))
    assert error is FileError or type(caught.value) is error


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (LAZ.replace(b"laszip encoded", b"laszip encodex"), BadHeader, "without the record of LASzip"),
        (patched(LAZ, PACKED - 34, "H", 20), FileError, None),
        (patched(LAZ, PACKED, "H", 0), UnsupportedFormat, "kind 0"),
        (patched(LAZ, PACKED, "H", 3), UnsupportedFormat, "kind 3"),
        (patched(LAZ6, PACKED6, "H", 2), UnsupportedFormat, "kind 2"),
        (patched(LAZ, PACKED + 2, "H", 1), UnsupportedFormat, None),
        (patched(LAZ, PACKED + VLR.size - 2, "H", 65535), BadHeader, "65535 parts of a point"),
        (patched(LAZ, PACKED + VLR.size, "HH", 6, 65535), BadHeader, "not those of format 3"),
        (patched(LAZ, PACKED + VLR.size, "HHH", 6, 20, 3), UnsupportedFormat, None),
        (patched(LAZ6, PACKED6 + VLR.size, "HHH", 10, 30, 2), UnsupportedFormat, None),
        (patched(LAZ, 104, "B", 0x82), BadHeader, "parts of a point"),
        (patched(LAZ, 105, "H", 100), BadHeader, None),
        (patched(LAZ, points_at(LAZ), "q", 1 << 62), BadBody, "the table of chunks is at byte"),
        (patched(LAZ, points_at(LAZ), "q", -5), BadBody, "the table of chunks is at byte"),
        (patched(LAZ, TABLE + 4, "I", 0xFFFFFFFF), BadBody, "4294967295 chunks cannot be in"),
        (patched(LAZ, TABLE + 4, "I", 0), BadBody, "hold 0 points, the header announces 40"),
        (patched(LAZ, 107, "I", 50_001), BadBody, "hold 50000 points, the header announces 50001"),
        (patched(LAZ, 107, "I", 50_000), BadBody, "chunk 0"),
        (patched(patched(LAZ, 107, "I", 1 << 31), PACKED + 12, "I", 1 << 31), BadBody, "2147483648 points in"),
        (patched(LAZ, PACKED + 12, "I", 1), BadBody, "the header announces 40"),
        (LAZ[: TABLE + 4], FileError, None),
        (LAZ[: points_at(LAZ) + 4], TruncatedFile, None),
        (patched(LAZ6, LAYERS, "I", 0xFFFFFFFF), BadBody, "chunk 0: layers of"),
        (patched(LAZ6, 247, "Q", (1 << 64) - 1), BadBody, "the header announces"),
        (patched(LAZ6, 105, "H", 30 + MOST_EXTRA + 1), HeaderTooLarge, "1025 extra bytes"),
    ],
)
def test_bad_packing(save, data, error, match):
    tracemalloc.start()
    with pytest.raises(error, match=match) as caught:
        read_cloud(save("a.laz", data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error is FileError or type(caught.value) is error
    assert peak < 16 << 20  # 4 MB are announced by some of them


def test_many_chunks_of_few_points_are_refused_fast(save):
    """It takes a millisecond to begin a chunk, whatever is in it."""
    las = las_data(6, "1.4", 2000, [])
    data = bytearray(bytes_of(las, compressed=True))
    vlr = lazrs.LazVlr.new_for_compression(6, 0, True)
    body, start = record_at(data, b"laszip encoded") + 54, points_at(data)
    data[body : body + len(vlr.record_data())] = vlr.record_data()
    out = io.BytesIO(bytes(data[:start]))
    out.seek(start)
    packer = lazrs.LasZipCompressor(out, vlr)
    for i in range(2000):
        packer.compress_many(las.points.array[i : i + 1].copy().view(np.uint8))
        packer.finish_current_chunk()
    packer.done()
    path = save("a.laz", patched(out.getvalue(), 235, "QI", 0, 0))
    began = time.process_time()
    with pytest.raises(BadBody, match="2000 points in 2001 chunks"):
        read_cloud(path)
    assert time.process_time() - began < PROMPT_S


def test_a_panic_of_lazrs_is_an_error_of_the_file():
    """Chunks of any size without a table of them, which `Packed` never asks for."""
    data = las_bytes(0, "1.2", 5, [], compressed=True)
    record = patched(lazrs.LazVlr.new_for_compression(0, 0, True).record_data(), 0, "H", 1)
    with pytest.raises(BadBody, match="cannot be unpacked") as caught, _lazrs("chunk 7"):
        lazrs.LasZipDecompressor(io.BytesIO(data[points_at(data) + 8 :]), record).decompress_many(bytearray(40))
    assert not isinstance(caught.value.__cause__, Exception)  # or this test shows nothing
    assert caught.value.where == "chunk 7"


def test_more_points_than_wanted(save):
    for data in (OLD, LAZ):
        path = save("a.las", data)
        with pytest.raises(TooManyPoints, match="40 points, the limit is 39"):
            read_cloud(path, max_points=39)
        assert len(read_cloud(path, max_points=40)) == 40
    with pytest.raises(TooManyPoints):  # before anything is made for them
        read_cloud(save("a.laz", patched(LAZ, 107, "I", 1 << 31)), max_points=100)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files(save, seed):
    """Whatever the bytes, only a FipError comes out, fast and with little memory."""
    rng = random.Random(seed)
    numbers = (0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
    for _ in range(150):
        data = bytearray(rng.choice((LAS, OLD, LAZ, LAZ6)))
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(min(len(data), rng.choice((375, points_at(LAS) + 50, len(data)))))
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice((*numbers, rng.randrange(1 << 16), len(data))) & ((1 << 8 * width) - 1)
            data[place : place + width] = value.to_bytes(width, "little")
        path = save("a.las", bytes(data[: rng.choice((len(data), rng.randrange(1, len(data))))]))
        began = time.process_time()
        tracemalloc.start()
        try:
            read_cloud(path, max_points=100_000)
        except FipError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 40 << 20
        assert time.process_time() - began < PROMPT_S
