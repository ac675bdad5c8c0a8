"""Native code of others is tried on a device in a process of its own.

A kernel that reads where it must not ends the context of its process on that device: engines that are right would fail after it, too.
What was found right is kept in the cache directory, by versions, device and precisions, and not tried again. The process ends with the
one that waits for it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import torch

from models.cache import cache_dir, file_name
from models.manifest import Precision

ANSWER = b"fip probe: "  # and JSON
LONGEST_S = 300.0  # kernels may have to be compiled
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from models.orphan import end_with, obey; end_with(int(sys.argv[2])); obey(); "  # before what takes seconds to import
    "from models.sparse.backends.apart import main; main(*sys.argv[3:])"
)


def why_not(engine: str, device: torch.device, versions: str, precisions: Sequence[Precision]) -> str | None:
    """Why the engine of this name is not to be used on the device; None where it has been found right with these versions, in which
    what else matters is named.
    """
    with suppress(OSError, RuntimeError):
        if (cache_dir() / "probed" / file_name(versions)).exists():
            return None
    reason = _tried(engine, device, precisions)
    if reason is None:
        with suppress(OSError, RuntimeError):
            kept = cache_dir() / "probed" / file_name(versions)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.touch()
    return reason


def _tried(engine: str, device: torch.device, precisions: Sequence[Precision]) -> str | None:
    command = [sys.executable, "-P", "-c", START, json.dumps(sys.path), str(os.getpid()), engine, str(device), *precisions]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"could not be tried in a process of its own: {error}"
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return f"ended the process that tried it, with code {done.returncode}: {said or 'it said nothing'}"
    answer = done.stdout.rpartition(ANSWER)[2].partition(b"\n")[0]  # libraries print before and after it
    try:
        reason: str | None = json.loads(answer)
    except ValueError:
        return "said nothing of use in a process of its own"
    return reason


def main(name: str, device: str, *precisions: Precision) -> None:
    """The process: what is wrong with the engine, in JSON on a line of its own."""
    from models.sparse.backends import ENGINES
    from models.sparse.backends.probe import checked

    report = checked(ENGINES[name], torch.device(device), precisions)
    sys.stdout.write(f"\n{ANSWER.decode()}{json.dumps(None if report.works else report.reason)}\n")
