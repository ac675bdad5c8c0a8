"""From a file to a class for every point of it, among the other requests: what `/v1/segment` and jobs have in common."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Protocol, cast
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import torch
from anyio import to_thread

from models.answers import ANSWERS, SAME, Labelled, answer_format, check_answer, summary, write_answer
from models.answers.names import answer_name
from models.answers.palette import palette
from models.errors import TooManyVoxels
from models.io import CloudFile, open_cloud
from models.labels import LabelMap
from models.manifest import Axis
from models.pointcloud import PointCloud
from models.processor import Segmentation
from models.segmenting import Segmenting, segmenting
from models.tiling import TileSize
from models.voxelize import Voxels
from service.context import Context
from service.errors import OutOfMemory
from service.pool import Live
from service.schemas import Halo, SegmentAnswer, SegmentOptions
from service.settings import Settings
from service.telemetry import Timings, server_timing

JSON_NAME = "json"
MEDIA_TYPES = {JSON_NAME: "application/json", **{name: each.media_type for name, each in ANSWERS.items()}}
UNSAFE = re.compile(r"^\.|[^A-Za-z0-9._-]+")
UNPORTABLE = re.compile(r'^\.|[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff<>:"/\\|?*]+')
NAME_LENGTH = 100
NAME_BYTES = 240  # of the 255 that a disk takes
LEAST_TILE = 1000  # voxels: a device that has no memory for so few is not short of it because of this request


class Sent(Protocol):
    """A file that came, and what was said of its format: its name and content type, as the caller wrote them."""

    @property
    def name(self) -> str: ...

    @property
    def content_type(self) -> str: ...

    def file(self) -> BinaryIO:
        """The whole file. In a thread."""


@contextmanager
def checked(source: BinaryIO, sent: Sent, model: Live, options: SegmentOptions, asked: str, settings: Settings) -> Iterator[CloudFile]:
    """A file with its header read, which an answer can be written for. In a thread. Raises: as `open_cloud` and `check_answer`."""
    said = {"name": sent.name, "content_type": sent.content_type}
    with open_cloud(source, options.input_format, **said, max_points=settings.max_points) as file:
        if asked != JSON_NAME:
            check_answer(asked, file, label_map_of(model))
        yield file


@dataclass(frozen=True)
class ReadPoints:
    """A file whose points are read and that is still open; fmt: what its answer is, a name of MEDIA_TYPES; cut: into other tiles."""

    file: CloudFile
    cloud: PointCloud
    work: Segmenting
    cut: Callable[[TileSize], Segmenting]
    fmt: str


def read_points(
    held: ExitStack, sent: Sent, model: Live, options: SegmentOptions, asked: str, timings: Timings, settings: Settings
) -> ReadPoints:
    """Parse, see whether the answer can be written, and voxelize; the file stays open as long as `held`. Runs in a thread."""
    with timings.stage("read"):
        source = sent.file()
    with timings.stage("parse"):
        file = held.enter_context(checked(source, sent, model, options, asked, settings))
        cloud = file.cloud(extra=False)
    with timings.stage("voxelize"):

        def cut(tile: TileSize) -> Segmenting:
            return segmenting(model.processor, cloud, up=cast(Axis | None, options.up), unit=options.unit, tile=tile)

        work = cut(TileSize(settings.tile_voxels, settings.tile_halo))
    return ReadPoints(file, cloud, work, cut, asked if asked == JSON_NAME else answer_format(asked, file))


class Cut(Protocol):
    """What is to be answered, and how it is cut into other tiles."""

    @property
    def work(self) -> Segmenting: ...

    @property
    def cut(self) -> Callable[[TileSize], Segmenting]: ...


async def in_parts(
    read: Cut, model: Live, context: Context, timings: Timings, progress: Callable[[int, int], None] = lambda _done, _parts: None
) -> Segmentation:
    """The answer, in smaller and smaller tiles as long as the device has no memory for them.

    progress: called with the number of forward passes done and of all. Raises: OutOfMemory.
    """
    work = read.work
    while True:
        sizes: list[int] = []
        try:
            return await through_the_net(work, model, context, timings, sizes, progress)
        except OutOfMemory as error:
            smaller = TileSize(sizes[-1] // 2, context.settings.tile_halo)
            if smaller.voxels < LEAST_TILE:
                raise
            try:
                work = await to_thread.run_sync(partial(_cut, read, smaller, timings), limiter=context.readers)
            except TooManyVoxels:  # even the smallest tile has to have its margin
                raise error from None


def _cut(read: Cut, tile: TileSize, timings: Timings) -> Segmenting:
    with timings.stage("voxelize"):
        return read.cut(tile)


async def through_the_net(
    work: Segmenting,
    model: Live,
    context: Context,
    timings: Timings,
    sizes: list[int],
    progress: Callable[[int, int], None] = lambda _done, _parts: None,
) -> Segmentation:
    """One forward pass after the other, each in its turn among the other requests. sizes: gets the voxels of each. Raises: OutOfMemory."""

    def voxels_of(part: int) -> Voxels:
        with timings.stage("voxelize"):
            return work.voxelize(part)

    def take(part: int, voxels: Voxels, logits: npt.NDArray[np.float32]) -> None:
        with timings.stage("forward"):
            work.take(part, voxels, torch.from_numpy(logits))

    for part in range(work.parts):
        progress(part, work.parts)
        voxels = await to_thread.run_sync(partial(voxels_of, part), limiter=context.tilers)
        sizes.append(len(voxels))
        logits = await context.scheduler.logits(model.key, voxels, work.num_points(part), timings, per_voxel=True)
        await to_thread.run_sync(partial(take, part, voxels, logits), limiter=context.encoders)
    progress(work.parts, work.parts)
    return work.result()


def label_map_of(model: Live) -> LabelMap:
    label_map = model.processor.manifest.label_map
    assert label_map is not None  # the manifest of a net that segments has one
    return label_map


def write_segmented(asked: str, model: Live, read: ReadPoints, found: Segmentation, timings: Timings, out: BinaryIO) -> None:
    """Stage `encode`. Runs in a thread."""
    with timings.stage("encode"):
        if asked == JSON_NAME:
            out.write(_summary(model, read, found, timings).model_dump_json().encode())
        else:
            labelled = Labelled(read.file, read.cloud, found.labels, found.confidence, label_map_of(model), same=asked == SAME)
            write_answer(asked, labelled, out)


def _summary(model: Live, read: ReadPoints, found: Segmentation, timings: Timings) -> SegmentAnswer:
    label_map = label_map_of(model)
    return SegmentAnswer(
        model=model.ref,
        num_points=len(read.cloud),
        num_voxels=found.num_voxels,
        filled=found.filled,
        scaled=found.scaled,
        tiles=found.tiles,
        halo=Halo(voxels=found.halo, full=found.full_halo) if found.tiles > 1 else None,
        timings_ms={stage: round(value, 3) for stage, value in timings.ms.items()},
        classes=summary(read.cloud.xyz, found.labels, found.confidence, label_map),
        palette=palette(label_map),
    )


def answer_headers(name: str, model: Live, read: ReadPoints, found: Segmentation, timings: Timings) -> dict[str, str]:
    """What the headers of an answer say beside its size and type. name: of the file that came."""
    headers = {
        "X-Model": f"{model.ref.name}:{model.ref.version}",
        "X-Num-Points": str(len(read.cloud)),
        "Server-Timing": server_timing(timings.ms),
        "Content-Disposition": disposition(answered_name(name, read.fmt)),
    }
    return headers | headers_of(found)


def headers_of(found: Segmentation) -> dict[str, str]:
    """What there is to say of an answer."""
    headers = {name: ", ".join(said) for name, said in (("X-Filled", found.filled), ("X-Scaled", found.scaled)) if said}
    if found.tiles > 1:
        headers |= {"X-Tiles": str(found.tiles), "X-Halo": f"{found.halo} of {found.full_halo} voxels"}
    return headers


def answered_name(name: str, fmt: str) -> str:
    """What an answer is called, in letters that every disk takes. name: of the file that came; fmt: see ReadPoints."""
    found = UNPORTABLE.sub("_", answer_name(name, fmt)[-NAME_LENGTH:])
    while len(found.encode()) > NAME_BYTES:
        found = found[1:]
    return found


def disposition(name: str) -> str:
    """The header that calls an answer so: in letters that every client takes, and as it is where that is another name (RFC 6266)."""
    safe = safe_name(name)
    extended = f"; filename*=UTF-8''{quote(name, safe='')}" if name != safe else ""
    return f'attachment; filename="{safe}"{extended}'


def safe_name(name: str) -> str:
    """A file name that is harmless in a header and on every disk."""
    return UNSAFE.sub("_", name[-NAME_LENGTH:])
