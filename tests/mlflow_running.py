"""A real MLflow server, started for a test or a bench."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_S = 90.0


@dataclass(frozen=True)
class MlflowServer:
    """address: its URL; artifacts: the folder where it keeps what is uploaded."""

    address: str
    artifacts: Path


@contextlib.contextmanager
def mlflow_running(folder: Path) -> Iterator[MlflowServer]:
    """Over SQLite in an empty folder. Raises: RuntimeError (it does not start)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    command = [sys.executable, "-m", "mlflow", "server", *store, "--workers", "1", "--host", "127.0.0.1", "--port", port]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=os.environ | quiet, start_new_session=True)
    try:
        _await_health(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield MlflowServer(f"http://127.0.0.1:{port}", folder / "artifacts")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await_health(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < give_up:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the MLflow server did not start:\n{log.read_text()[-2000:]}")
