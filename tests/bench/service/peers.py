"""The same model behind plain FastAPI and behind LitServe, each as a competent user would write it around our reader and our net.

python -m tests.bench.service.peers fastapi --port 8001 --threads 1 --pool 2
python -m tests.bench.service.peers litserve --port 8001 --batch 8 --delay 0.002 --workers 2
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

import anyio.to_thread
import click
import litserve
import torch
import uvicorn
from fastapi import Depends, FastAPI, Request

from models.io import read_cloud
from models.predictor import Predictor
from models.processor import Classification
from models.registry import Catalogue
from models.voxelize import Voxels
from tests.bench.service.process import ROOT, free_port, stop, wait_ready

MODEL = "modelnet40"
TOP = 5
FLAGS = ("fast_queue",)

Answer = dict[str, list[dict[str, float]]]


async def raw(request: Request) -> bytes:
    """The body as it was sent: neither peer is slowed by forms or base64."""
    return await request.body()


def predictor() -> Predictor:
    return Predictor.load(Catalogue().locate(MODEL)[0])


def voxels_of(model: Predictor, body: bytes) -> Voxels:
    with tempfile.TemporaryFile(buffering=0) as file:  # the reader maps files
        file.write(body)
        return model.voxelize(read_cloud(file))


def answer(found: Classification) -> Answer:
    best = [int(index) for index in found.ranking[:TOP]]
    return {"predictions": [{"index": index, "score": float(found.scores[index])} for index in best]}


def plain_app(threads: int, pool: int) -> FastAPI:
    """A synchronous endpoint, which FastAPI runs in its thread pool. threads: of torch; pool: requests at the same time."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        torch.set_num_threads(threads)
        anyio.to_thread.current_default_thread_limiter().total_tokens = pool
        app.state.model = predictor()
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/classify")
    def classify(request: Request, body: Annotated[bytes, Depends(raw)]) -> Answer:
        model: Predictor = request.app.state.model
        [found] = model.classify([voxels_of(model, body)])
        return answer(found)

    @app.get("/health")
    async def health() -> str:
        return "ok"

    return app


class LitClassifier(litserve.LitAPI):  # type: ignore[misc]  # it has no annotations
    """LitServe's way: decoding a request at a time, one forward pass a batch."""

    def __init__(self, threads: int, **options: object) -> None:
        super().__init__(**options)
        self._threads = threads

    def setup(self, device: str) -> None:
        torch.set_num_threads(self._threads)
        self._model = predictor()

    def decode_request(self, request: Annotated[bytes, Depends(raw)]) -> Voxels:
        return voxels_of(self._model, request)

    def batch(self, inputs: list[Voxels]) -> list[Voxels]:
        return inputs

    def predict(self, batch: list[Voxels]) -> list[Classification]:
        return self._model.classify(batch)

    def unbatch(self, output: list[Classification]) -> list[Classification]:
        return output

    def encode_response(self, output: Classification) -> Answer:
        return answer(output)


@click.group()
def main() -> None:
    """Start a peer."""


@main.command("fastapi")
@click.option("--port", type=int, required=True)
@click.option("--threads", type=int, default=1)
@click.option("--pool", type=int, default=2)
def plain(port: int, threads: int, pool: int) -> None:
    uvicorn.run(plain_app(threads, pool), port=port, log_level="warning", access_log=False)


@main.command("litserve")
@click.option("--port", type=int, required=True)
@click.option("--threads", type=int, default=1)
@click.option("--batch", type=int, default=8)
@click.option("--delay", type=float, default=0.0)
@click.option("--workers", type=int, default=1)
@click.option("--fast-queue", is_flag=True)
def lit(port: int, threads: int, batch: int, delay: float, workers: int, fast_queue: bool) -> None:
    logging.disable(logging.INFO)
    api = LitClassifier(threads, max_batch_size=batch, batch_timeout=delay, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=fast_queue)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", access_log=False)


@contextmanager
def peer(kind: str, **options: float) -> Iterator[tuple[str, int]]:
    """A peer in processes of its own, once it is ready: its address, and the first of the processes.

    Raises: RuntimeError (it does not start).
    """
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.service.peers", kind, "--port", str(port)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", *([] if name in FLAGS else [str(value)])]
    hidden = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # each peer sets its own number
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_ready(f"http://127.0.0.1:{port}", process, "/health")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        stop(process)


if __name__ == "__main__":
    main()
