"""Many processes on one registry; test_registry.py runs this as a program of its own, which may fork and kill.

python registry_processes.py kill ADDRESS FOLDER NAME COUNT   COUNT publishers, one after another, each killed at a random moment
python registry_processes.py race ADDRESS FOLDER NAME COUNT   COUNT publishers at once, each for the champion

Both print what came of it as JSON.
"""

import collections
import json
import os
import random
import signal
import statistics
import sys
import time
import traceback

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # before torch is imported: threads do not survive a fork

from collections.abc import Callable
from pathlib import Path

from models.registry import CHAMPION, Registry, open_registry, publish_as
from models.registry.local import LocalRegistry
from models.registry.publish import pointed_at
from models.registry.verify import verify

KEPT = 3  # versions that stay, so that all of them can be looked through after every kill


def forked(work: Callable[[], object]) -> int:
    """The id of a new process that does `work` and ends."""
    process = os.fork()
    if process:
        return process
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def kill(registry: Registry, folder: Path, name: str, count: int) -> dict[str, object]:
    """After each kill every version that is visible is whole, and the alias points at one of them.

    A publisher that ends before it is killed does not count, so the moments are spread over all of a publication.
    """
    rng, stages = random.Random(0), collections.Counter[str]()
    usual_s = statistics.median(timed(lambda: publish_as(registry, folder, name, CHAMPION)) for _ in range(5))
    begun, begin = os.pipe()

    def publish() -> None:
        os.write(begin, b".")
        publish_as(registry, folder, name, CHAMPION)

    while stages.total() - stages["done"] < count:
        known, before, champion = staged(registry, name), registry.versions(name), pointed_at(registry, name, CHAMPION)
        process = forked(publish)
        os.read(begun, 1)  # from here on it is publishing
        time.sleep(rng.uniform(0, 1.5 * usual_s))
        os.kill(process, signal.SIGKILL)
        killed = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        now = registry.versions(name)
        assert [model.version for model in now[: len(before)]] == [model.version for model in before]
        new = now[len(before) :]
        copied = [number for folder_name, number in staged(registry, name).items() if folder_name not in known]
        stages[stage(killed, bool(new), pointed_at(registry, name, CHAMPION) != champion, copied)] += 1
        for model in now:
            verify(registry.folder(model))
        assert pointed_at(registry, name, CHAMPION) in {model.version for model in now}
        for model in now[:-KEPT]:
            if not model.aliases:
                registry.remove(model)
    published = publish_as(registry, folder, name, CHAMPION)
    return {
        "stages": stages,
        "usual_s": usual_s,
        "versions": numbers(registry, name),
        "last": published.version,
        "left": staged(registry, name),
    }


def stage(killed: bool, visible: bool, moved: bool, copied: list[int]) -> str:
    """How far the publisher came that just died; copied: how many files lie in its folder, if there is one."""
    if not killed:
        return "done"
    if visible:
        return "alias moved" if moved else "version visible, alias not moved"
    return f"{copied[0]} files copied" if copied else "verifying"


def staged(registry: Registry, name: str) -> dict[str, int]:
    """What dead publishers left in a directory: folders that hide, and how many files are in each."""
    if not isinstance(registry, LocalRegistry):
        return {}
    return {path.name: len(list(path.iterdir())) for path in (registry.root / name).glob(".publish-*") if path.is_dir()}


def race(registry: Registry, folder: Path, name: str, count: int) -> dict[str, object]:
    processes = [forked(lambda: publish_as(registry, folder, name, CHAMPION)) for _ in range(count)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    champions = [*registry.history(name, CHAMPION), pointed_at(registry, name, CHAMPION)]
    return {"codes": codes, "versions": numbers(registry, name), "champions": champions}


def numbers(registry: Registry, name: str) -> list[int]:
    return [model.version for model in registry.versions(name)]


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    what, address, folder, name, count = sys.argv[1:]
    registry = open_registry(address)
    registry.names()  # imports what a client needs, once for all
    verify(Path(folder))
    print(json.dumps({"kill": kill, "race": race}[what](registry, Path(folder), name, int(count))))
