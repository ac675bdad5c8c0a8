"""Nothing that the service can reach in our own packages can unpickle: neither by import nor by a call. And nothing that runs does,
whoever's it is: neither in the service nor in its workers, from the first import to the last answer.
"""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.fire import until
from tests.open_inference import infer

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for package in ("models", "service") for path in (ROOT / package).rglob("*.py"))
PICKLERS = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LOADERS = {"torch.load", "torch.hub.load", "numpy.load", "np.load", "pandas.read_pickle"}


def offences(tree: ast.AST) -> list[str]:
    """Imports of picklers, `torch.load`, and `np.load` without a literal allow_pickle=False."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in PICKLERS]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").partition(".")[0]
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found += [str(node.module)] if module in PICKLERS else sorted(names & LOADERS)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            found.append("torch.load")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in LOADERS - {"torch.load"} and not _refuses_pickle(node):
            found.append(ast.unparse(node.func))
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not _is_false(node.value):
            found.append("allow_pickle")
    return found


def _refuses_pickle(call: ast.Call) -> bool:
    return any(keyword.arg == "allow_pickle" and _is_false(keyword.value) for keyword in call.keywords)


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_can_unpickle(path: Path) -> None:
    assert offences(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load(f)",
        "import torch\nread = torch.load",
        "from torch import load",
        "import numpy as np\nnp.load(f)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f, allow_pickle=flag)",
        "from numpy import load",
    ],
)
def test_the_scan_sees(code: str) -> None:
    assert offences(ast.parse(code))


def test_the_scan_covers_what_the_service_imports() -> None:
    code = "import sys, service.app, service.server\nfor m in sys.modules.values(): print(getattr(m, '__file__', None))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    ours = {Path(file) for file in loaded if file.startswith(f"{ROOT}/") and "site-packages" not in file and file.endswith(".py")}
    assert ROOT / "service" / "app.py" in ours
    assert ours <= set(FILES)


# Runs first in every process of the service: an unpickler that looks a class up, which is how one comes to run code, is stopped.
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "pickle.find_class":
        with open(os.environ["UNPICKLED"], "a") as file:
            file.write(f"{os.getpid()} {arguments[0]}.{arguments[1]}\\n")
        raise RuntimeError("unpickled")

sys.addaudithook(watch)
with open(os.environ["WATCHED"], "a") as file:
    file.write(f"{os.getpid()}\\n")
"""
SERVE = "import sys; from models.cli import run; sys.exit(run(['serve', '--port', '0']))"
CONTROL = "import pathlib, pickle; text = pickle.dumps(pathlib.Path('x')); print('dumped'); pickle.loads(text)"


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that is watched, and so are those it starts; `watched` and `unpickled` in the folder tell of them."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FIP_")}
    files = {"WATCHED": str(tmp_path / "watched"), "UNPICKLED": str(tmp_path / "unpickled")}
    return clean | files | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}


def test_the_watch_sees(watched: dict[str, str], tmp_path: Path) -> None:
    control = subprocess.run([sys.executable, "-c", CONTROL], capture_output=True, text=True, env=watched, check=False)
    assert (control.returncode, control.stdout) == (1, "dumped\n")
    assert "pathlib" in (tmp_path / "unpickled").read_text()


@pytest.mark.e2e
def test_nothing_is_unpickled_from_start_to_end(watched: dict[str, str], tmp_path: Path, segment_registry: Path, scan: bytes) -> None:
    environment = watched | {"FIP_REGISTRY": str(segment_registry), "FIP_MODEL": "tiny"}
    command = [sys.executable, "-P", "-c", SERVE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "answers with tiny" in said, process.communicate()
        with httpx.Client(base_url=said.split()[2], timeout=60, params={"input_format": "bin"}) as client:
            for model in ("tiny", "modelnet40"):
                assert client.post("/v1/classify", params={"model": model}, content=scan).status_code == 200
            for model, kind in (("streets", "json"), ("strict", "npz"), ("smooth", "ply"), ("lidar19", "label")):
                assert client.post("/v1/segment", params={"model": model, "format": kind}, content=scan).status_code == 200
            assert client.get("/v1/models", params={}).status_code == 200
            job = client.post("/v1/jobs", params={"model": "streets"}, content=scan).json()["links"]
            until(lambda: client.get(job["job"], params={}).json()["state"] == "done", "the job is done")
            assert client.get(job["result"], params={}).status_code == 200
            client.params = httpx.QueryParams()
            assert infer(client, "tiny", {"points": np.frombuffer(scan, "<f4").reshape(-1, 4)[:, :3].copy()}).arrays
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    pids = (tmp_path / "watched").read_text().split()
    assert str(process.pid) in pids
    assert len(set(pids)) >= 2  # the process that workers are forked from
    assert not (tmp_path / "unpickled").exists(), (tmp_path / "unpickled").read_text()
