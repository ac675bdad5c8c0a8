"""What a service has of which everything can be asked: a key for all of it, a model whose aliases can be moved, a folder for jobs."""

from dataclasses import dataclass
from pathlib import Path

from models.registry.aliases import Aliases
from models.registry.catalogue import BUNDLED
from models.registry.local import LocalRegistry
from service.auth.keys import SCOPES, add_key, new_key
from tests.published import shifted

KEY = "FIP_BENCH_KEY"  # under which programs that ask find the key in their environment
MODEL, VERSIONS = "parts", 3
ALIASES = ("champion", "trial")
JOBS = 1_000  # that may wait or run; ten times as many are remembered, so that none of a run is forgotten
ROUNDS = 400  # that each alias has gone through all versions, so that it can be rolled back again and again


@dataclass(frozen=True)
class Furnished:
    """key: of every scope. settings: of a service that has all this, by their names."""

    key: str
    settings: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return {f"FIP_{name.upper()}": value for name, value in self.settings.items()}


def furnish(folder: Path) -> Furnished:
    """Put all of it into an empty folder. The aliases point at the last version."""
    text, key = new_key("schemathesis", SCOPES, None, None)
    add_key(folder / "keys.json", key)
    registry = LocalRegistry(folder / "registry")
    registry.root.mkdir()
    for number in range(VERSIONS):
        registry.publish(shifted(BUNDLED / "modelnet40" / "1", folder / f"{MODEL}-{number}", number), MODEL)
    pointed = [*range(1, VERSIONS + 1)] * ROUNDS
    Aliases(dict.fromkeys(ALIASES, pointed[-1]), dict.fromkeys(ALIASES, tuple(pointed[:-1]))).write(registry.root / MODEL)
    jobs = {"jobs_dir": str(folder / "jobs"), "max_jobs": str(JOBS)}
    return Furnished(text, {"keys": str(folder / "keys.json"), "registry": registry.address, **jobs})
