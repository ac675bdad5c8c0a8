"""`fip serve` killed again and again while it is sent jobs: each that was accepted is done in the end, once, with the right result.

FIP_KILLS says how often. The moments are random, and some are those right around a job's acceptance, its end and a start.
"""

import contextlib
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.fire import metric, until
from tests.sweep import sweep
from tests.untrained_segmenter import save_segmenter

FIP = Path(sys.executable).parent / "fip"
KILLS = int(os.environ.get("FIP_KILLS", "8"))
START_S = 60.0
PAUSE_S = 0.15  # between two jobs
TILES = {"FIP_TILE_VOXELS": "3000", "FIP_TILE_HALO": "4", "FIP_MAX_JOBS": "100000"}  # so that a job is several forward passes
WIDER = np.array([4, 4, 2, 1], "<f4")
MOMENTS = ("any", "any", "accepted", "done", "starting")
pytestmark = pytest.mark.e2e


@dataclass
class Process:
    process: "subprocess.Popen[str]"
    address: str | None = None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@dataclass
class Poster:
    """Sends jobs, each under a key of its own until it is accepted, and looks how they are."""

    bodies: list[bytes]
    address: str | None = None
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))
    asked: int = 0
    accepted: dict[str, tuple[str, int]] = field(default_factory=dict)  # key -> job, which body
    seen_done: dict[str, str] = field(default_factory=dict)  # job -> when it was
    problems: list[str] = field(default_factory=list)
    happened: dict[str, threading.Event] = field(default_factory=lambda: {each: threading.Event() for each in ("accepted", "done")})
    enough: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.enough.is_set() or self.asked < KILLS:
            body, key = self.asked % len(self.bodies), f"key-{self.asked}"
            while key not in self.accepted:
                self.send(key, body)
            self.asked += 1
            self.look()
            time.sleep(PAUSE_S)

    def send(self, key: str, body: int) -> None:
        address = self.address
        if address is None:
            time.sleep(0.01)
            return
        with contextlib.suppress(httpx.TransportError):
            headers = {"Idempotency-Key": key, "X-Filename": "street.bin"}
            answer = self.client.post(f"{address}/v1/jobs?format=raw", content=self.bodies[body], headers=headers)
            if answer.status_code in (200, 202):
                self.accepted[key] = answer.json()["id"], body
                self.happened["accepted"].set()
            else:
                self.problems.append(answer.text)

    def look(self) -> None:
        """Whether what was done stays as it was."""
        with contextlib.suppress(httpx.TransportError):
            for job in self.client.get(f"{self.address}/v1/jobs?limit=1000").json()["jobs"]:
                if job["state"] == "done":
                    if self.seen_done.setdefault(job["id"], job["finished"]) != job["finished"]:
                        self.problems.append(f"done twice: {job}")
                    self.happened["done"].set()


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    save_segmenter(tmp_path / "registry" / "streets" / "1", "streets")
    return tmp_path / "registry"


def started(registry: Path, jobs: Path) -> Process:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FIP_")}
    command = [str(FIP), "serve", "--port", "0", "--registry", str(registry), "--model", "streets"]
    environment = inherited | TILES | {"FIP_JOBS_DIR": str(jobs)}
    return Process(
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True)
    )


def ready(process: Process) -> str:
    assert process.process.stdout is not None
    line = process.process.stdout.readline()
    assert "answers with" in line, process.process.wait()
    return line.split()[2]


@contextlib.contextmanager
def posting(bodies: list[bytes]) -> Iterator[Poster]:
    poster = Poster(bodies)
    thread = threading.Thread(target=poster.run)
    thread.start()
    try:
        yield poster
    finally:
        poster.enough.set()
        thread.join()
        poster.client.close()


@pytest.mark.timeout(300 + 15 * KILLS)
def test_jobs_survive_kills_at_any_moment(registry: Path, tmp_path: Path) -> None:
    chance, jobs = random.Random(0), tmp_path / "jobs"
    bodies = [(sweep(4, count) * WIDER).tobytes() for count in (1000, 20_000, 2500, 60_000, 1500)]
    process = started(registry, jobs)
    try:
        with posting(bodies) as poster:
            for _ in range(KILLS):
                moment = chance.choice(MOMENTS)
                if moment == "starting":
                    time.sleep(chance.uniform(0.2, 3.0))
                else:
                    poster.address = ready(process)
                    killed_at(moment, poster, chance)
                poster.address = None
                process.kill()
                process = started(registry, jobs)
            poster.address = ready(process)
        check(poster, poster.address, bodies)
        process.process.send_signal(signal.SIGTERM)
        process.process.communicate(timeout=30)
        assert process.process.returncode == 0
    finally:
        process.kill()
    again = check_folder(poster, jobs)
    print(f"{KILLS} kills, {len(poster.accepted)} jobs, {again} of them run more than once, {len(poster.seen_done)} seen done in between")
    assert again > 0


def killed_at(moment: str, poster: Poster, chance: random.Random) -> None:
    if moment == "any":
        time.sleep(chance.uniform(0.0, 3.0))
        return
    poster.happened[moment].clear()
    poster.happened[moment].wait(5)
    time.sleep(chance.uniform(0.0, 0.02))


def check(poster: Poster, address: str, bodies: list[bytes]) -> None:
    """Every job that was accepted is done, and says what the service answers at once."""
    with httpx.Client(base_url=address, timeout=60) as client:
        until(lambda: metric(client, "fip_jobs", state="queued") + metric(client, "fip_jobs", state="running") == 0, "all ended", 600)
        direct = [client.post("/v1/segment?format=raw", content=body, headers={"X-Filename": "street.bin"}).content for body in bodies]
        assert len(set(direct)) == len(bodies)
        assert poster.problems == []
        assert len(poster.accepted) == poster.asked >= KILLS
        assert len({job for job, _ in poster.accepted.values()}) == poster.asked
        for job, body in poster.accepted.values():
            info = client.get(f"/v1/jobs/{job}").json()
            assert (info["state"], info["error"]) == ("done", None), info
            result = client.get(info["links"]["result"]).content
            assert result == direct[body]
            assert info["result"]["sha256"] == hashlib.sha256(result).hexdigest()
            assert poster.seen_done.get(job, info["finished"]) == info["finished"]


def check_folder(poster: Poster, jobs: Path) -> int:
    """What is on the disk is the jobs that were accepted, and nothing else; how many of them a kill interrupted."""
    with contextlib.closing(sqlite3.connect(jobs / "jobs.sqlite3")) as store:
        rows = dict(store.execute("SELECT id, state FROM jobs"))
        [again] = store.execute("SELECT count(*) FROM jobs WHERE runs > 1").fetchone()
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert set(rows.values()) == {"done"}
    assert set(rows) == {job for job, _ in poster.accepted.values()}
    folders = {each.name for each in jobs.iterdir() if each.is_dir()}
    assert folders == set(rows)
    assert all([file.name for file in (jobs / each).iterdir()] == ["result"] for each in folders)
    return int(again)
