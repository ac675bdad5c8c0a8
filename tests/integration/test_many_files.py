"""A folder of very many files: memory a file, and over an epoch. FIP_MANY_FILES says how many (default 20,000)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_memory_does_not_grow_with_what_is_read(tmp_path: Path) -> None:
    files = os.environ.get("FIP_MANY_FILES", "20000")
    command = [sys.executable, "-m", "tests.bench.bench_listing", "--files", files, "--in", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[2])
    assert done.stdout, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert rows[0]["value"] == int(files)
    assert [row for row in rows if row["holds"] is False] == []
    assert not list(tmp_path.iterdir())
