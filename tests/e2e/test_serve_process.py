"""`fip serve` as a user starts it: says where it is, answers, ends cleanly."""

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.fire import until

FIP = Path(sys.executable).parent / "fip"
pytestmark = pytest.mark.e2e

XYZ = np.random.default_rng(0).normal(size=(20_000, 3)).astype("<f4")
HEADER = (
    f"ply\nformat binary_little_endian 1.0\nelement vertex {len(XYZ)}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
)
PLY = HEADER.encode() + XYZ.tobytes()

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(tiny_registry: Path) -> Iterator[Start]:
    """Start `fip serve` with the test model on a free port; the process and its address."""
    started: list[subprocess.Popen[str]] = []

    def run(*options: str, **settings: str) -> tuple[subprocess.Popen[str], str]:
        command = [str(FIP), "serve", "--port", "0", "--registry", str(tiny_registry), "--model", "tiny", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment() | settings)
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()  # the one line that says it is ready
        assert "answers with tiny" in line, process.communicate()
        return process, line.split()[2]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("FIP_")}


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_serve_answer_and_stop(start: Start) -> None:
    process, address = start()
    with httpx.Client(base_url=address) as client:
        assert client.get("/health/ready").status_code == 200
        answer = client.post("/v1/classify", content=PLY, headers={"X-Request-ID": "e2e-1"}).json()
    assert answer["num_points"] == 20_000
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out == ""
    events = [json.loads(line) for line in err.splitlines()]
    [event] = [event for event in events if event.get("request_id") == "e2e-1"]
    assert (event["event"], event["status"], event["model"]) == ("request", 200, "tiny:1")


def test_a_body_that_does_not_fit_on_the_disk_is_refused(start: Start) -> None:
    process, address = start()
    kitti = np.zeros((300_000, 4), "<f4")  # cut short at a whole point, it would pass for a smaller cloud
    kitti[:, :3] = np.tile(XYZ, (15, 1))
    small = kitti[:1000].tobytes()
    with httpx.Client(base_url=address, params={"input_format": "bin"}, timeout=30) as client:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (160_000, resource.RLIM_INFINITY))
        refused = client.post("/v1/classify", content=kitti.tobytes())
        form = client.post("/v1/classify", files={"file": ("x.bin", kitti.tobytes())})
        accepted = client.post("/v1/classify", content=small)
    for response in (refused, form):
        assert (response.status_code, response.json()["code"]) == (507, "spool_full"), response.text
    assert accepted.json()["num_points"] == 1000


def test_jobs_that_do_not_fit_on_the_disk_are_refused_or_fail_and_the_next_ones_are_done(start: Start, tmp_path: Path) -> None:
    process, address = start(FIP_JOBS_DIR=str(tmp_path), FIP_JOB_SECONDS="5")  # for so long a disk may be full
    scan = np.column_stack([np.tile(XYZ, (10, 1)), np.zeros(200_000)]).astype("<f4")
    asked = {"input_format": "bin", "model": "lidar19"}
    with httpx.Client(base_url=address, timeout=30) as client:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        refused = client.post("/v1/jobs", params=asked, content=scan.tobytes())
        assert (refused.status_code, refused.json()["code"]) == (507, "spool_full"), refused.text
        fits = scan[:40_000].tobytes()
        jobs = [client.post("/v1/jobs", params={**asked, "format": fmt}, content=fits).json() for fmt in ("csv", "label")]
        until(lambda: client.get(jobs[1]["links"]["job"]).json()["state"] in ("done", "expired"), "it goes while the other is put off")
        until(lambda: client.get(jobs[0]["links"]["job"]).json()["state"] == "failed", "the disk was full for too long")
        assert client.get(jobs[0]["links"]["job"]).json()["error"]["code"] == "spool_full"
        until(lambda: {each.name for each in tmp_path.iterdir() if each.is_dir()} <= {jobs[1]["id"]}, "its files are gone")


def test_the_end_waits_for_no_job_and_for_nobody_who_listens(start: Start, tmp_path: Path) -> None:
    process, address = start(FIP_JOBS_DIR=str(tmp_path), FIP_TILE_VOXELS="2000", FIP_TILE_HALO="2", FIP_DRAIN_SECONDS="100")
    scan = np.column_stack([np.tile(XYZ, (10, 1)) * 30, np.zeros(200_000)]).astype("<f4").tobytes()
    with httpx.Client(base_url=address, timeout=30) as client:
        job = client.post("/v1/jobs?input_format=bin&model=lidar19&format=label", content=scan).json()
        until(lambda: (client.get(job["links"]["job"]).json()["progress"] or {}).get("done", 0) > 0, "it is on its way")
        with client.stream("GET", job["links"]["events"]) as events:
            lines = events.iter_lines()
            assert next(lines) == "event: progress"
            process.send_signal(signal.SIGTERM)
            assert {line.partition(":")[0] for line in lines} <= {"event", "id", "data", ""}
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert "traceback" not in log
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as store:
        assert store.execute("SELECT id, state, runs FROM jobs").fetchall() == [(job["id"], "queued", 0)]


def test_two_services_on_one_folder(start: Start, tiny_registry: Path, tmp_path: Path) -> None:
    start(FIP_JOBS_DIR=str(tmp_path))
    command = [str(FIP), "serve", "--port", "0", "--registry", str(tiny_registry)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment() | {"FIP_JOBS_DIR": str(tmp_path)})
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "another service keeps its jobs in" in done.stderr


def test_where_jobs_are_kept_if_nothing_is_said(start: Start, tmp_path: Path) -> None:
    port = free_port()
    process, address = start("--port", port, FIP_CACHE=str(tmp_path))
    with httpx.Client(base_url=address) as client:
        assert client.get("/v1/jobs").json() == {"jobs": []}
    assert (tmp_path / "jobs" / port / "jobs.sqlite3").is_file()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    process, address = start(TMPDIR=str(tmp_path))  # on any free port
    with httpx.Client(base_url=address) as client:
        assert client.get("/v1/jobs").json() == {"jobs": []}
    assert len(list(tmp_path.glob("fip-jobs-*"))) == 1
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert len(list(tmp_path.glob("fip-jobs-*"))) == 0


def test_no_folder_for_jobs_ends_nothing(start: Start, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()  # no folder can be made in it
    process, address = start("--port", free_port(), FIP_CACHE=str(tmp_path / "cache"))
    with httpx.Client(base_url=address) as client:
        assert client.get("/v1/jobs").json()["code"] == "jobs_off"
        assert client.post("/v1/classify", content=PLY).status_code == 200
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=20)
    assert "there is no folder to keep them in" in log


def test_requests_in_flight_are_answered_before_the_end(start: Start) -> None:
    process, address = start()
    url = httpx.URL(address)
    statuses: list[int] = []
    together = threading.Barrier(8)

    def post() -> None:
        connection = http.client.HTTPConnection(url.host, url.port, timeout=30)
        together.wait()
        with contextlib.suppress(OSError):  # it came too late to be accepted
            connection.request("POST", "/v1/classify", PLY)
            statuses.append(connection.getresponse().status)
        connection.close()

    clients = [threading.Thread(target=post) for _ in range(8)]
    with httpx.Client(base_url=address) as observer:
        for client in clients:
            client.start()
        deadline = time.monotonic() + 10
        while in_flight(observer) < 4 and time.monotonic() < deadline:
            pass
        process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert len(statuses) >= 4
    assert set(statuses) == {200}


def in_flight(client: httpx.Client) -> float:
    """Requests in flight besides the one that asks."""
    [line] = [line for line in client.get("/metrics").text.splitlines() if line.startswith("fip_requests_in_flight ")]
    return float(line.split()[1]) - 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--model", "no-such-model"], 4, "unknown_model"),
        (["--model", "../../etc"], 4, "bad_model_name"),
        (["--registry", "/no/such/folder"], 2, "registry"),
        (["--port", "99999"], 2, "port"),
        (["--model", ""], 2, "--model: "),
        (["--registry", ""], 2, "--registry"),
        (["--device", "banana"], 2, "--device: no device 'banana' here (known: auto, cpu"),
        (["--device", "cuda:99"], 2, "--device: no device 'cuda:99' here"),
    ],
)
def test_what_cannot_be_started_says_so(tiny_registry: Path, arguments: list[str], status: int, said: str) -> None:
    command = [str(FIP), "serve", "--port", "0", "--registry", str(tiny_registry), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FIP_PORT", "abc", "FIP_PORT: Input should be a valid integer"),
        ("FIP_DEVICE", "banana", "FIP_DEVICE: no device 'banana' here"),
        ("FIP_SPOOL_DIR", "/no/such/folder", "FIP_SPOOL_DIR: Path does not point to a directory"),
        ("FIP_REGISTRY", "/no/such/folder", "FIP_REGISTRY: '/no/such/folder' is neither a folder"),
        ("FIP_FORWARD_SECONDS", "inf", "FIP_FORWARD_SECONDS: Input should be "),
        ("FIP_REQUEST_SECONDS", "nan", "FIP_REQUEST_SECONDS: Input should be "),
        ("FIP_WORKER_MEMORY_BYTES", "1000", "FIP_WORKER_MEMORY_BYTES: Input should be greater than or equal to 805306368"),
    ],
)
def test_a_wrong_environment_is_named_in_one_line(name: str, value: str, said: str) -> None:
    done = subprocess.run([str(FIP), "serve"], capture_output=True, text=True, timeout=60, env={**environment(), name: value})
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"Error: {said}")


def test_a_mistyped_setting_is_told_of_at_start(tiny_registry: Path) -> None:
    variables = {**environment(), "FIP_MAX_WAITNG": "7", "FIP_DATA": "/data"}
    command = [str(FIP), "serve", "--port", "0", "--registry", str(tiny_registry), "--model", "no-such-model"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables)
    warnings = [json.loads(line) for line in done.stderr.splitlines() if '"warning"' in line]
    assert [line["event"] for line in warnings] == ["FIP_MAX_WAITNG is no setting; did you mean FIP_MAX_WAITING?"]


def test_what_lies_in_the_folder_it_is_started_from_is_not_imported(tmp_path: Path, tiny_registry: Path) -> None:
    for name in ("json", "torch", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the folder')")
    command = [str(FIP), "serve", "--port", "0", "--registry", str(tiny_registry), "--model", "tiny"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path)
    assert process.stdout is not None
    assert "answers with tiny" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "imported from the folder" not in err
