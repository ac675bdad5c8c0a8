"""The log of the real program, when nobody reads it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

FIP = Path(sys.executable).parent / "fip"
REQUESTS = 900  # whose lines are three times what a pipe holds


@pytest.mark.e2e
def test_requests_are_answered_while_nobody_reads_the_log(tiny_registry: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("FIP_", "OTEL_"))}
    command = [str(FIP), "serve", "--port", "0", "--registry", str(tiny_registry), "--model", "tiny"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "answers with tiny" in said, process.communicate()
        with httpx.Client(base_url=said.split()[2], timeout=20) as client:
            for number in range(REQUESTS):
                client.get("/v1/models", headers={"X-Request-ID": f"unread-{number}"}).raise_for_status()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    ids = [event["request_id"] for event in map(json.loads, err.splitlines()) if event["event"] == "request"]
    assert ids == [f"unread-{number}" for number in range(REQUESTS)]  # they waited, and none was lost
    assert len(err) > 2 * 65_536
