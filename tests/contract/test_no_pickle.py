"""Nothing that the service can reach in our own packages can unpickle: neither by import nor by a call."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
