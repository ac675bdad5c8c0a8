"""`fip bench` against `fip serve` with the bundled models, both as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

FIP = Path(sys.executable).parent / "fip"
pytestmark = pytest.mark.e2e


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("FIP_")}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and log of a service."""
    log = tmp_path / "service.log"
    with log.open("w") as errors:
        process = subprocess.Popen([str(FIP), "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment())
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert "answers with" in line, log.read_text()
        yield line.split()[2], log
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(FIP), "bench", *arguments], capture_output=True, text=True, timeout=120, env=environment())


def test_damaged_bodies_and_departing_clients(served: tuple[str, Path], tmp_path: Path) -> None:
    url, log = served
    mix = ["--points", "1000:0.8,20000:0.2", "--rate", "15", "--duration", "4s", "--malformed", "0.3", "--disconnect", "0.2"]
    done = bench(url, *mix, "--json", str(tmp_path / "a.json"), "--records", "--plot", str(tmp_path / "a.svg"))
    assert done.returncode == 0, done.stderr
    assert "requests: unexpected 5xx: 0" in done.stdout.splitlines()
    found = json.loads((tmp_path / "a.json").read_text())
    records = found.pop("records")
    assert found["requests"]["due"] == len(records) > 30
    assert found["connection_errors"] == {}
    assert found["stages_ms"]["forward"]["p50"] > 0
    statuses = {kind: {record["status"] for record in records if record["kind"] == kind} for kind in ("whole", "malformed", "disconnected")}
    assert statuses["whole"] == {200}
    assert statuses["malformed"] <= {400, 413, 415, 422}
    assert statuses["disconnected"] <= {0, 200}
    assert found["malformed"]["count"] > 3
    assert found["disconnected"]["count"] > 3
    assert ET.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    logged = {line["request_id"]: line["status"] for line in lines if line["event"] == "request"}
    answered = {record["request_id"]: record["status"] for record in records if record["status"]}
    assert {name: logged[name] for name in answered} == answered  # the service saw what the clients say


def test_a_file_is_segmented_at_a_growing_rate(served: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = served
    scan = tmp_path / "scan.xyz"
    scan.write_text("".join(f"{each % 30} {each // 30} {each % 7 / 10}\n" for each in range(900)))
    done = bench(
        url, "--task", "segment", "--format", "label", "--file", str(scan), "--ramp", "2:10", "--duration", "2s", "--arrivals", "even"
    )
    assert done.returncode == 0, done.stderr
    assert "requests: answered: 12, " in done.stdout
    assert "answers: 200: 12" in done.stdout.splitlines()


def test_ctrl_c_ends_early_and_reports(served: tuple[str, Path]) -> None:
    command = [str(FIP), "bench", served[0], "--points", "1000", "--rate", "10", "--duration", "10m"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stderr is not None
    assert " × 200" in process.stderr.readline()  # the first line of progress
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "requests: interrupted: after " in out
    assert "latency, ms: accepted: count " in out


def test_nothing_but_404(served: tuple[str, Path]) -> None:
    done = bench(f"{served[0]}/v1/clasify", "--points", "100", "--duration", "1s")
    assert done.returncode == 1, done.stderr
    assert "answers: not_found: " in done.stdout


def test_nothing_answered() -> None:
    done = bench("http://127.0.0.1:1", "--points", "100", "--duration", "1s")
    assert done.returncode == 1
    assert "no answer: ClientConnectorError: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["localhost:8000"], "url"),
        (["http://127.0.0.1:1", "--ramp", "5"], "--ramp"),
        (["http://127.0.0.1:1", "--ramp", "0:0"], "ramp"),
        (["http://127.0.0.1:1", "--rate", "5", "--closed", "2"], "--closed"),
        (["http://127.0.0.1:1", "--duration", "soon"], "--duration"),
        (["http://127.0.0.1:1", "--points", "many"], "Error: Invalid value for '--points': 'many'"),
        (["http://127.0.0.1:1", "--format", "ply"], "--format"),
        (["http://127.0.0.1:1", "--plot", "a.pdf"], "--plot"),
        (["http://127.0.0.1:1", "--json", "no/such/folder/a.json"], "--json"),
        (["http://127.0.0.1:1", "--file", "no-such-file.ply"], "--file"),
        (["http://127.0.0.1:1", "--records"], "--records"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_sent(arguments: list[str], said: str) -> None:
    done = bench(*arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert said in done.stderr.splitlines()[-1]
