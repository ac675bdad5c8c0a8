"""What an operator may set, from the command line or from the environment (`FIP_HOST`, `FIP_PORT`, ...)."""

from typing import Annotated

from pydantic import AfterValidator, DirectoryPath, Field
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.manifest import Precision
from models.registry.address import is_address
from models.tiling import TILE

MIB = 1 << 20


def _address(text: str | None) -> str | None:
    if text is None or is_address(text):
        return text
    raise PydanticCustomError("registry", "{text} is neither a folder that exists nor an http:// or https:// address", {"text": repr(text)})


class Settings(BaseSettings):
    """Frozen. Sizes are in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="FIP_", env_ignore_empty=True, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="0 takes a free port")] = 8000
    registry: Annotated[
        str | None,
        AfterValidator(_address),
        Field(description="folder of models, or URL of an MLflow server, over the bundled models; None serves these alone"),
    ] = None
    model: Annotated[
        str | None, Field(min_length=1, description="default model of its task, NAME[:VERSION|@ALIAS]; without it the bundled one answers")
    ] = None
    device: str = "cpu"
    engine: Annotated[str, Field(description="what convolutions run on: a name of models.sparse.backends, or auto")] = "auto"
    precision: Annotated[Precision, Field(description="what the factors of products are rounded to; taps are summed in float32")] = "fp32"
    threads: Annotated[int, Field(ge=1, description="CPU threads of one forward pass; small clouds are slower on more")] = 1
    readers: Annotated[int, Field(ge=1, description="uploads parsed and voxelized at the same time")] = 2
    max_body_bytes: Annotated[int, Field(ge=1)] = 1024 * MIB
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
    batch_voxels: Annotated[int, Field(ge=1, description="voxels of a forward pass of several requests; one alone may have more")] = 16_384
    batch_delay_seconds: Annotated[
        float, Field(ge=0, description="how long a free device waits for requests that are being read, to take them along")
    ] = 0.002
    request_seconds: Annotated[
        float | None, Field(gt=0, description="longest time for a request; a client may ask for less by X-Request-Timeout")
    ] = None
    forward_seconds: Annotated[float, Field(gt=0, description="a worker that takes longer for one forward pass is replaced")] = 300.0
    worker_memory_bytes: Annotated[int | None, Field(ge=1, description="address space of the worker; None sets no limit")] = None
    max_connections: Annotated[int, Field(ge=1, description="open connections; beyond, those that never asked anything are closed")] = 2048
    head_seconds: Annotated[float, Field(gt=0, description="how long the head of a request may take to arrive")] = 10.0
    keep_alive_seconds: Annotated[float, Field(gt=0, description="how long a connection may lie idle between requests")] = 15.0
    body_pause_seconds: Annotated[float, Field(gt=0, description="longest pause within a body; also when its rate is first looked at")] = (
        10.0
    )
    body_bytes_per_second: Annotated[int, Field(ge=0, description="slowest body that is waited for, on average")] = 1024
    send_seconds: Annotated[float, Field(gt=0, description="how long a client may take nothing of its answer")] = 30.0
    spool_dir: Annotated[DirectoryPath | None, Field(description="where uploads are kept while they are read; None takes the system's")] = (
        None
    )
    lame_duck_seconds: Annotated[
        float, Field(ge=0, description="how long, after SIGTERM, requests are still taken while /health/ready says 503 already")
    ] = 0.0
    drain_seconds: Annotated[int, Field(ge=0, description="how long requests in flight may take after that")] = 30
