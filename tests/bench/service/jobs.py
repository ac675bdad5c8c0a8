"""`jobs_killed_50_not_right`: a service killed at fifty moments while it is sent jobs, by tests/e2e/test_jobs_killed.py (which CI runs with
fewer kills): 0 if after that every job that was accepted is done, once, with what the service answers at once.
"""

import os
import subprocess
import sys

from tests.bench.service.process import ROOT
from tests.bench.service.rows import Row, exactly

KILLS = 50
TEST = "tests/e2e/test_jobs_killed.py"


def rows() -> list[Row]:
    """Raises: RuntimeError (the test did not get as far as to tell)."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", TEST]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"FIP_KILLS": str(KILLS)}, capture_output=True, text=True, check=False)
    said = next((line for line in done.stdout.splitlines() if f"{KILLS} kills" in line), "")
    if done.returncode not in (0, 1) or (done.returncode == 0 and not said):
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return [exactly("jobs_killed_50_not_right", done.returncode, 0, said=said.strip(" .") or done.stdout[-1000:])]
