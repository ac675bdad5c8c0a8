"""Versions that can be told apart by their answers, published in a registry; and requests that come steadily while it changes."""

import asyncio
import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from safetensors.numpy import load, save

WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"


def shifted(folder: Path, into: Path, shift: float) -> Path:
    """The checkpoint of a folder with every logit larger by `shift`, as a checkpoint of its own."""
    shutil.copytree(folder, into)
    tensors = load((into / WEIGHTS).read_bytes())
    tensors["fc.bias"] = tensors["fc.bias"] + np.float32(shift)
    (into / WEIGHTS).write_bytes(save(tensors))
    manifest = json.loads((into / MANIFEST).read_text())
    manifest["files"][WEIGHTS] = hashlib.sha256((into / WEIGHTS).read_bytes()).hexdigest()
    (into / MANIFEST).write_text(json.dumps(manifest))
    return into


@dataclass(frozen=True)
class Answer:
    """asked: the model that was asked for; began_s, ended_s: on the monotonic clock; logit: the first one, by which versions are told
    apart.
    """

    asked: str | None
    began_s: float
    ended_s: float
    status: int
    model: str = ""
    digest: str = ""
    logit: float = 0.0


async def ask(client: httpx.AsyncClient, body: bytes, model: str | None) -> Answer:
    """One classification. A connection that breaks has status 0."""
    began = time.monotonic()
    params = {"logits": "true", **({"model": model} if model else {})}
    try:
        answer = await client.post("/v1/classify", params=params, content=body)
    except httpx.HTTPError:
        return Answer(model, began, time.monotonic(), 0)
    ended = time.monotonic()
    if answer.status_code != 200:
        return Answer(model, began, ended, answer.status_code)
    said = answer.json()
    ref = said["model"]
    return Answer(model, began, ended, 200, f"{ref['name']}:{ref['version']}", ref["digest"], said["logits"][0])


async def steadily(url: str, body: bytes, model: str | None, rate: float, stop: asyncio.Event) -> list[Answer]:
    """Open loop: so many requests a second until told to stop, whether or not the earlier ones were answered."""
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
        asked: list[asyncio.Task[Answer]] = []
        began = time.monotonic()
        while not stop.is_set():
            asked.append(asyncio.create_task(ask(client, body, model)))
            await asyncio.sleep(max(began + len(asked) / rate - time.monotonic(), 0))
        return list(await asyncio.gather(*asked))
