"""What an operator may set, from the command line or from the environment (`FIP_HOST`, `FIP_PORT`, ...).

docs/settings.md is made from this module: `python -m service.settings_page > docs/settings.md`.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, DirectoryPath, Field, FilePath
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import BadModelName
from models.manifest import Precision
from models.registry.address import is_address
from models.registry.reference import parse_reference
from models.tiling import TILE

MIB = 1 << 20
LONGEST_S = 86_400
LONGEST_KEPT_S = 365 * LONGEST_S
PREFIX = "FIP_"
CLOSE = 0.75  # share of letters in common from which a name passes for a mistyped one
# Read elsewhere, or by docker-compose.yml and the tests: not settings of the service.
OTHERS = (
    *(
        "FIP_BIND",
        "FIP_CACHE",
        "FIP_DATA",
        "FIP_FILES",
        "FIP_GEMM",
        "FIP_BENCH_KEY",
        "FIP_KILLS",
        "FIP_MANY_FILES",
        "FIP_NATIVE_ISA",
        "FIP_NATIVE_LIBRARY",
    ),
    *("FIP_REQUIRE_DATA", "FIP_TRAIN_DATA"),
)

Seconds = Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False)]
TimeLimit = Annotated[float, Field(gt=0, le=LONGEST_S, allow_inf_nan=False)]


def _address(text: str | None) -> str | None:
    if text is None or is_address(text):
        return text
    raise PydanticCustomError("registry", "{text} is neither a folder that exists nor an http:// or https:// address", {"text": repr(text)})


def _reference(text: str | None) -> str | None:
    if text is not None:
        try:
            parse_reference(text)
        except BadModelName as error:
            raise PydanticCustomError("reference", "{detail}", {"detail": error.detail}) from error
    return text


class Settings(BaseSettings):
    """Frozen. Sizes are in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8000
    keys: Annotated[
        FilePath | None,
        Field(description="file of API keys, which `fip keys` makes; None asks nobody for a key, and only this machine is listened to"),
    ] = None
    allow_anonymous: Annotated[
        bool, Field(description="listen to other machines although there are no keys; aliases cannot be moved then")
    ] = False
    hosts: Annotated[
        str | None,
        Field(
            description="names by which clients know the service, with commas; others are refused then, but for those of this machine. "
            "None refuses them only where there are no keys and only this machine is listened to"
        ),
    ] = None
    registry: Annotated[
        str | None,
        AfterValidator(_address),
        Field(description="folder of models, or URL of an MLflow server, over the bundled models; None serves these alone"),
    ] = None
    model: Annotated[
        str | None, Field(min_length=1, description="default model of its task, NAME[:VERSION|@ALIAS]; without it the bundled one answers")
    ] = None
    lookup_seconds: Annotated[
        Seconds,
        Field(
            description="how often the registry is asked what names and aliases in use stand for, in the background; 0: at every request"
        ),
    ] = 1.0
    model_memory_bytes: Annotated[
        int, Field(ge=1, description="memory for the weights of all models on the device; who was asked for longest ago makes room")
    ] = 4096 * MIB
    shadow: Annotated[
        str | None,
        AfterValidator(_reference),
        Field(description="candidate, NAME@ALIAS or NAME:VERSION, that runs unseen on a share of what model NAME answers"),
    ] = None
    shadow_share: Annotated[float, Field(ge=0, le=1, description="that share; how often the two agree is in the metrics")] = 0.1
    device: Annotated[str, Field(description="where nets run: cpu, cuda, cuda:1; auto: cuda where there is one that computes")] = "auto"
    engine: Annotated[str, Field(description="what convolutions run on: a name of models.sparse.backends, or auto")] = "auto"
    precision: Annotated[
        Precision, Field(description="what the factors of products are rounded to; taps are summed in float32; tf32 on CUDA only")
    ] = "fp32"
    threads: Annotated[
        int, Field(ge=1, description="CPU threads of a forward pass, of which two may run; small clouds are slower on more")
    ] = 1
    readers: Annotated[int, Field(ge=1, description="uploads parsed and voxelized at the same time")] = 2
    max_body_bytes: Annotated[int, Field(ge=1, description="bytes of one file")] = 1024 * MIB
    max_json_bytes: Annotated[
        int, Field(ge=1, description="bytes of a request to /v2 that has its tensors in JSON; binary tensors have the limit of a file")
    ] = 32 * MIB
    max_points: Annotated[int, Field(ge=1, description="points of one file; while it is answered they take up to 64 bytes each")] = (
        50_000_000
    )
    tile_voxels: Annotated[
        int, Field(ge=1, description="voxels of one forward pass; larger clouds are cut into tiles, margins counted in")
    ] = TILE.voxels
    tile_halo: Annotated[
        int | None, Field(ge=0, description="margin around a tile in voxels; None takes all that the net sees, and answers are exact")
    ] = TILE.halo
    max_waiting: Annotated[int, Field(ge=1, description="requests with a file at the same time, before others get 429")] = 64
    max_waiting_bytes: Annotated[int, Field(ge=1, description="bytes of their files; one file alone may have more")] = 4096 * MIB
    max_waiting_points: Annotated[int, Field(ge=1, description="points of their clouds; one cloud alone may have more")] = 100_000_000
    batch_voxels: Annotated[
        int | None,
        Field(
            ge=1,
            description="voxels of a forward pass of several requests; one alone may have more. None: 16384 on a CPU; on a GPU up to "
            "FIP_TILE_VOXELS, as many as have 8 KiB each in a quarter of its memory beside that of the models",
        ),
    ] = None
    batch_delay_seconds: Annotated[
        Seconds, Field(description="how long a free device waits for requests that are being read, to take them along")
    ] = 0.002
    request_seconds: Annotated[
        TimeLimit | None, Field(description="longest time for a request; a client may ask for less by X-Request-Timeout")
    ] = None
    forward_seconds: Annotated[TimeLimit, Field(description="a worker that takes longer for one forward pass is replaced")] = 300.0
    worker_memory_bytes: Annotated[
        Annotated[int, Field(ge=768 * MIB)] | None,
        Field(
            description="address space of the worker, which PyTorch and the bundled nets take most of at the least; None sets no limit; "
            "there is none where nets run on a GPU"
        ),
    ] = None
    max_connections: Annotated[int, Field(ge=1, description="open connections; beyond, those that never asked anything are closed")] = 2048
    head_seconds: Annotated[TimeLimit, Field(description="how long the head of a request may take to arrive")] = 10.0
    keep_alive_seconds: Annotated[TimeLimit, Field(description="how long a connection may lie idle between requests")] = 15.0
    body_pause_seconds: Annotated[TimeLimit, Field(description="longest pause within a body; also when its rate is first looked at")] = 10.0
    body_bytes_per_second: Annotated[int, Field(ge=0, description="slowest body that is waited for, on average")] = 1024
    send_seconds: Annotated[TimeLimit, Field(description="how long a client may take nothing of its answer")] = 30.0
    spool_dir: Annotated[
        DirectoryPath | None, Field(description="where uploads above 4 MiB are kept while they are read; None takes the system's")
    ] = None
    jobs_dir: Annotated[
        Path | None, Field(description="where jobs are kept, by one service at a time; None keeps none, but `fip serve` chooses one then")
    ] = None
    max_jobs: Annotated[int, Field(ge=1, description="jobs that wait or run, before others get 429")] = 100
    max_jobs_bytes: Annotated[int, Field(ge=1, description="bytes of the files of all jobs, results included")] = 64 * 1024 * MIB
    job_seconds: Annotated[int, Field(ge=1, le=LONGEST_KEPT_S, description="how long the result of a job is kept")] = 86_400
    event_seconds: Annotated[TimeLimit, Field(description="how often who listens to a job hears something, even if nothing happens")] = 10.0
    max_listeners: Annotated[
        int, Field(ge=1, description="who listen to jobs at the same time, of one key half as many, before others get 429")
    ] = 64
    lame_duck_seconds: Annotated[
        Seconds, Field(description="how long, after SIGTERM, requests are still taken while /health/ready says 503 already")
    ] = 0.0
    drain_seconds: Annotated[
        int, Field(ge=0, le=LONGEST_S, description="how long requests in flight may take after that; what is not done then is cut off")
    ] = 30


def mistyped(variables: Iterable[str]) -> list[tuple[str, str]]:
    """Names of environment variables that are no setting but close to one, each with the name of that one. Case does not matter."""
    settings = [name.upper() for name in Settings.model_fields]
    found: list[tuple[str, str]] = []
    for variable in sorted(variables):
        name = variable.upper().removeprefix(PREFIX)
        if variable.upper() in OTHERS or not variable.upper().startswith(PREFIX) or name in settings:
            continue
        found += [(variable, PREFIX + close) for close in difflib.get_close_matches(name, settings, n=1, cutoff=CLOSE)]
    return found
