"""Tests on real data are skipped where there is none, except where CI says that it is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
PROBE = """
import pytest

@pytest.mark.data
def test_with_data(data_dir):
    assert data_dir.is_dir()

def test_without():
    pytest.skip("for another reason")
"""


@pytest.mark.parametrize(
    ("environment", "outcome"),
    [
        ({}, "2 skipped"),
        ({"FIP_REQUIRE_DATA": "1"}, "1 skipped, 1 error"),
        ({"FIP_DATA": "."}, "1 passed, 1 skipped"),
        ({"FIP_DATA": "nowhere"}, "1 skipped, 1 error"),
    ],
)
def test_gate(tmp_path: Path, environment: dict[str, str], outcome: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_probe.py").write_text(PROBE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    data\n    gpu\n")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("FIP_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_probe.py"]
    done = subprocess.run(command, cwd=tmp_path, env=inherited | environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ("error" not in outcome)
    assert done.stdout.splitlines()[-1].startswith(outcome), done.stdout
