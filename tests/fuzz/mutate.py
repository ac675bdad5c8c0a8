"""Damage to a file: a pure function of the format, the seed and the number of the case.

The same three always give the same bytes (given the same seeds: `corpus_digest` tells), so that a number is enough to see a case again.
"""

import hashlib
import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz.e57 import XML_WORDS, damage_e57
from tests.fuzz.seeds import real_seeds, seeds_of, zipped

MOST_BYTES = 256 << 10  # of a damaged file
HEAD = 400  # where headers are, to which half of all damage goes
TEXTS = ("off", "xyz", "pts", "csv", "e57")
NUMBERS = (
    *(b"0 1 -1 2 3 127 128 255 256 257 65535 65536 2147483647 2147483648 4294967295 4294967296 -2147483649".split()),
    *(b"9007199254740993 9223372036854775807 9223372036854775808 18446744073709551615 1000000000 999999999999999999".split()),
    *(b"9999999999999999999 1e308 1e309 -1e308 -nan inf -Infinity .5 5. . - + e 1e 1e+ -.e1 1_0 0x10 1L 1L2".split()),
    *(b"00000000000000000001 0.1000000000000000055511151231257827 1,5 1.5.5 --1 +1 True None".split()),
    *(b"1e-400 1e999999999 1e99999999999999999999 nan NaN".split()),
    "١٢".encode(),
    "½".encode("latin-1"),
    b"9" * 19,
    b"9" * 400,
    b"9" * 5000,
    b"9" * 60_000,
    b"0." + b"0" * 400 + b"1",
    b"1" + b"0" * 330 + b"e-330",
)
INTEGERS: tuple[int, ...] = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
)
INTEGERS += ((1 << 63) - 1, 1 << 63, (1 << 64) - 1)
REALS = (0.0, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 0.5, 1e15, 16777217.0)
PIECES = (
    *(b" ", b"\t", b"\n", b"\r", b"\r\n", b"\n\n\n", b"\0", b"\xff" * 8, b"\0" * 64, b",", b";", b'"', b'""', b"#", b"//", b"%", b"\x1a"),
    *(b"\x0b", b"\x0c", b"\x1c", b"\x85", "\u2028".encode(), b"\xef\xbb\xbf", b"\xff\xfe", b"\xa0", b"(", b"[" * 300, b"'", b"\\"),
)
WORDS: dict[str, tuple[bytes, ...]] = {
    "ply": tuple(
        b"ply format ascii binary_little_endian binary_big_endian 1.0 comment obj_info element vertex face property list uchar int float "
        b"double char short ushort uint int64 uint64 float16 float32 x y z red nx intensity end_header packed_position f_dc_0".split()
    ),
    "off": tuple(b"OFF COFF NOFF CNOFF STOFF 4OFF nOFF BINARY # 3 0 1 2".split()),
    "npy": tuple(
        b"descr fortran_order shape True False <f4 >f8 |u1 <U1 |O <c8 <M8[s] =i4 ( ) , } { : ' (12,) (3,12) (0,3) (1,256) L".split()
    ),
    "pcd": tuple(
        b"VERSION FIELDS COLUMNS SIZE TYPE COUNT WIDTH HEIGHT VIEWPOINT POINTS DATA ascii binary binary_compressed x y z rgb rgba _ F U I "
        b"1 2 4 8 0.7 .6".split()
    ),
    "xyz": tuple(b'x y z r g b X Y Z red intensity nan # // % name "a b" nx'.split()),
}
WORDS |= {"e57": XML_WORDS, "npz": WORDS["npy"], "pts": WORDS["xyz"], "csv": WORDS["xyz"]}

Damage = Callable[[bytearray, Random, str], None]


def case_bytes(fmt: str, seed: int, case: int, data: Path | None = None) -> bytes:
    """The file of a case. Every fourth case begins with a real file where `data`, the folder of FIP_DATA, is given and has some."""
    rng = Random(f"{fmt} {seed} {case}")
    seeds = seeds_of(fmt)
    if data is not None and case % 4 == 3:
        seeds = real_seeds(fmt, data) or seeds
    start = rng.choice(seeds)
    if fmt == "npz" and rng.random() < 0.6:
        return _within_zip(start, rng)
    if fmt == "e57":
        return damage_e57(start, rng, lambda data, kind: damaged(data, rng, kind, (data,)))
    return damaged(start, rng, fmt, seeds)


def corpus_digest(fmt: str, data: Path | None = None) -> str:
    """Which files the cases begin with."""
    files = [*seeds_of(fmt), *(real_seeds(fmt, data) if data is not None else ())]
    return hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in files)).hexdigest()[:16]


def damaged(start: bytes, rng: Random, fmt: str, seeds: tuple[bytes, ...]) -> bytes:
    """One to four kinds of damage, one after another."""
    out = bytearray(start)
    if rng.random() < 0.08:
        _splice(out, rng, rng.choice(seeds))
    kinds = TEXT_DAMAGE if fmt in TEXTS else DAMAGE
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        rng.choice(kinds)(out, rng, fmt)
    return bytes(out[:MOST_BYTES])


def _within_zip(start: bytes, rng: Random) -> bytes:
    """Damage to one array of a zip, whose checksums are right again: else nothing gets past them."""
    with zipfile.ZipFile(io.BytesIO(start)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = rng.choice(sorted(members))
    members[name] = damaged(members[name], rng, "npy", seeds_of("npy"))
    if rng.random() < 0.1:
        other = rng.choice(("rgb.npy", "xyz.npy", "points.npy", "a/b.npy", ".npy", "X.npy", "meta.json"))
        members = {(each if each != name else other): value for each, value in members.items()}
    return zipped(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED)))


# --- kinds of damage


def _place(out: bytearray, rng: Random) -> int:
    """Somewhere in the file; every other time in its head."""
    return rng.randrange((min(len(out), HEAD) if rng.random() < 0.5 else len(out)) + 1)


def _flip(out: bytearray, rng: Random, fmt: str) -> None:
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if (at := _place(out, rng)) < len(out):
            out[at] ^= 1 << rng.randrange(8)


def _run(out: bytearray, rng: Random, fmt: str) -> None:
    at, size = _place(out, rng), rng.choice((1, 2, 4, 8, 16, 64, 256))
    size = min(size, len(out) - at)
    out[at : at + size] = rng.choice((b"\0", b"\xff", b"\x7f", b" ", b"\n", b"9")) * size if rng.random() < 0.6 else rng.randbytes(size)


def _truncate(out: bytearray, rng: Random, fmt: str) -> None:
    del out[_place(out, rng) :]


def _insert(out: bytearray, rng: Random, fmt: str) -> None:
    at = _place(out, rng)
    out[at:at] = rng.choice(PIECES) * rng.choice((1, 1, 1, 2, 300)) if rng.random() < 0.7 else rng.randbytes(rng.choice((1, 4, 40)))


def _remove(out: bytearray, rng: Random, fmt: str) -> None:
    at = _place(out, rng)
    del out[at : at + rng.choice((1, 1, 2, 3, 4, 8, 20, 100))]


def _duplicate(out: bytearray, rng: Random, fmt: str) -> None:
    at, size = _place(out, rng), rng.choice((1, 4, 12, 16, 40, 200, 1000))
    piece = bytes(out[at : at + size])
    times = min(rng.choice((1, 1, 1, 2, 20, 2000, 70_000)), MOST_BYTES // max(1, len(piece)))
    out[at:at] = piece * times


def _splice(out: bytearray, rng: Random, other: bytes) -> None:
    """The head of one file, the tail of another."""
    del out[_place(out, rng) :]
    out += other[rng.randrange(len(other) + 1) :]


def _move(out: bytearray, rng: Random, fmt: str) -> None:
    at, size = _place(out, rng), rng.choice((1, 4, 8, 40))
    piece = bytes(out[at : at + size])
    del out[at : at + size]
    to = _place(out, rng)
    out[to:to] = piece


def _integer(out: bytearray, rng: Random, fmt: str) -> None:
    """A binary number of a header or of the data becomes an interesting one, or one a little different."""
    size, order = rng.choice((1, 2, 4, 4, 8)), rng.choice(("little", "little", "little", "big"))
    at = _place(out, rng)
    if rng.random() < 0.7:
        at &= ~1 | (size == 1)
    old = int.from_bytes(out[at : at + size], order)  # type: ignore[arg-type]
    new = rng.choice(INTEGERS) if rng.random() < 0.7 else old + rng.choice((-2, -1, 1, 2, 7, 256))
    out[at : at + size] = (new % (1 << 8 * size)).to_bytes(size, order)  # type: ignore[arg-type]


def _real(out: bytearray, rng: Random, fmt: str) -> None:
    form = rng.choice(("<f", "<d", ">f", ">d"))
    value = rng.choice(REALS)
    piece = struct.pack(form, value if form[1] == "d" or abs(value) < 1e38 or value != value else float("inf"))
    at = _place(out, rng)
    out[at : at + len(piece)] = piece


def _number(out: bytearray, rng: Random, fmt: str) -> None:
    """A number written as text becomes an interesting one."""
    _replace(out, rng, rb"[-+]?\d[\d.]*(?:[eE][-+]?\d+)?", NUMBERS)


def _word(out: bytearray, rng: Random, fmt: str) -> None:
    """A word becomes another word of the format, or of the file."""
    words = WORDS.get(fmt, ())
    if not words or rng.random() < 0.3:
        words = tuple(re.findall(rb"[!-~]{1,40}", bytes(out[:2000]))) or (b"word",)
    _replace(out, rng, rb"[!-~]+", words)


def _replace(out: bytearray, rng: Random, pattern: bytes, pieces: tuple[bytes, ...]) -> None:
    window = HEAD if rng.random() < 0.6 else 1 << 14
    found = [match.span() for match in re.finditer(pattern, bytes(out[:window]))]
    if found:
        out[slice(*rng.choice(found))] = rng.choice(pieces)


def _line_ends(out: bytearray, rng: Random, fmt: str) -> None:
    old, new = rng.choice((b"\n", b"\r\n", b"\r")), rng.choice((b"\n", b"\r\n", b"\r", b"\n\r", b"\r\r\n", b"\x85", b""))
    out[:] = bytes(out).replace(old, new, rng.choice((-1, 1, 2, 7)))


def _lines(out: bytearray, rng: Random, fmt: str) -> None:
    """A line goes, comes twice, or changes place with another."""
    lines = bytes(out[: 1 << 14]).splitlines(keepends=True)
    if len(lines) < 2:
        return
    a, b = rng.randrange(min(len(lines), 20)), rng.randrange(len(lines))
    kind = rng.randrange(3)
    if kind == 0:
        del lines[b if rng.random() < 0.5 else a]
    elif kind == 1:
        lines[a:a] = [lines[b]] * rng.choice((1, 1, 2, 300))
    else:
        lines[a], lines[b] = lines[b], lines[a]
    out[: 1 << 14] = b"".join(lines)


def _separators(out: bytearray, rng: Random, fmt: str) -> None:
    old, new = rng.choice((b" ", b",", b";", b"\t", b".")), rng.choice((b" ", b",", b";", b"\t", b"  ", b", ", b"", b" ,", b".", b"|"))
    out[:] = bytes(out[:MOST_BYTES]).replace(old, new, rng.choice((-1, -1, 1, 2, 7)))


def _case_of_letters(out: bytearray, rng: Random, fmt: str) -> None:
    at = _place(out, rng)
    out[at : at + 40] = bytes(out[at : at + 40]).swapcase()


DAMAGE: tuple[Damage, ...] = (
    *(_flip, _flip, _run, _truncate, _insert, _remove, _duplicate, _move, _integer, _integer, _integer, _real),
    *(_number, _number, _word, _line_ends, _lines, _separators, _case_of_letters),
)
TEXT_DAMAGE: tuple[Damage, ...] = (
    *(_flip, _run, _truncate, _insert, _insert, _remove, _duplicate, _move, _number, _number, _number, _number),
    *(_word, _word, _line_ends, _lines, _lines, _separators, _separators, _case_of_letters),
)
