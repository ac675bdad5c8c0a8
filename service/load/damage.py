"""Damaged copies of a body, each of which the readers refuse: whatever a service answers to them, it may not be 200."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.errors import InputError
from models.io import read_cloud
from service.load.plan import Body

PLY_COUNT = re.compile(rb"element vertex \d+")
TOO_MANY = b"element vertex 2000000000"
HEAD_BYTES = 64 << 10
SPOILED_BYTES = 32
RANDOM_BYTES = 1 << 20
CUTS = 3


@dataclass(frozen=True)
class Damaged:
    """name: cut | header | random | empty."""

    name: str
    data: bytes = field(repr=False)


def damaged(body: Body, seed: int | Sequence[int], input_format: str | None = None) -> tuple[Damaged, ...]:
    """Cut short, with a wrong header, random bytes, and empty; without those that happen to be a cloud still, as lines of text
    that are cut between two lines are. The empty one is always among them.
    """
    rng = np.random.default_rng(seed)
    size = len(body.data)
    made = [Damaged("cut", body.data[: int(size * share)]) for share in rng.uniform(0.1, 0.95, CUTS)]
    made += [Damaged("header", _wrong_header(body.data)), Damaged("random", rng.bytes(min(size, RANDOM_BYTES))), Damaged("empty", b"")]
    refused = [each for each in made if is_refused(each.data, body.name, input_format)]
    first_cut = next((each for each in refused if each.name == "cut"), None)
    return tuple(each for each in refused if each.name != "cut" or each is first_cut)


def is_refused(data: bytes, name: str, input_format: str | None = None) -> bool:
    """Whether the reader that the service uses refuses a file of this name."""
    if not data:
        return True
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        try:
            read_cloud(file, input_format, name=name).checked()
        except InputError:
            return True
    return False


def _wrong_header(data: bytes) -> bytes:
    """A PLY header that announces more points than there are; of another file the first bytes are set to 255."""
    head, rest = data[:HEAD_BYTES], data[HEAD_BYTES:]
    if data.startswith(b"ply") and PLY_COUNT.search(head):
        return PLY_COUNT.sub(TOO_MANY, head, count=1) + rest
    return b"\xff" * min(SPOILED_BYTES, len(data)) + data[SPOILED_BYTES:]
