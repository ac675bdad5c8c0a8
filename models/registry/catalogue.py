"""Every model that can be asked for: those of a registry, over those that are bundled in the package."""

from dataclasses import dataclass
from pathlib import Path

from models.errors import BadCheckpoint, RegistryUnavailable, UnknownModel, nearest
from models.manifest import Manifest, Task
from models.registry.address import is_address, is_url
from models.registry.local import LocalRegistry
from models.registry.protocol import CHAMPION, ModelVersion, Registry
from models.registry.reference import Reference, parse_reference
from models.registry.remembered import AGAIN_S, Remembered

BUNDLED = Path(__file__).resolve().parent.parent / "bundled"
KNOWN = "known.json"


@dataclass(frozen=True)
class Entry:
    """One version, and the registry that holds it."""

    model: ModelVersion
    registry: Registry

    def __str__(self) -> str:
        return str(self.model)

    def folder(self) -> Path:
        """Where its files are. Raises: UnknownModel (removed meanwhile), BadCheckpoint, RegistryUnavailable."""
        return self.registry.folder(self.model)

    def manifest(self) -> tuple[Manifest, str]:
        """Its manifest and digest; the weights are not fetched. Raises: as `folder`."""
        return self.registry.manifest(self.model)


class Catalogue:
    """A registry, if there is one, over the bundled models: a name in the registry hides the bundled model of that name.

    Raises, from every method that looks something up: RegistryUnavailable.
    """

    def __init__(self, registry: Registry | None = None, bundled: Path = BUNDLED) -> None:
        self._registries: tuple[Registry, ...] = (*([registry] if registry else []), LocalRegistry(bundled))

    @property
    def away(self) -> bool:
        """Whether a server is away, and answered for from memory."""
        return any(isinstance(registry, Remembered) and registry.away for registry in self._registries)

    def is_bundled(self, entry: Entry) -> bool:
        """Whether a version comes with the package, where nothing can be changed."""
        return entry.registry is self._registries[-1]

    def names(self) -> tuple[str, ...]:
        """Names of all models, sorted."""
        return tuple(sorted({name for registry in self._registries for name in registry.names()}))

    def versions(self, name: str) -> tuple[Entry, ...]:
        """Versions of one model, oldest first; none for an unknown name. Raises: BadModelName, BadCheckpoint (damaged aliases)."""
        for registry in self._registries:
            if found := registry.versions(name):
                return tuple(Entry(model, registry) for model in found)
        return ()

    def resolve(self, reference: str | Reference, versions: tuple[Entry, ...] | None = None) -> Entry:
        """The version that a reference means; a bare name means its champion, else the newest. versions: of the model, if they are known.

        Raises: BadModelName (nothing is looked up), UnknownModel (lists the known ones), BadCheckpoint (damaged aliases).
        """
        wanted = parse_reference(reference) if isinstance(reference, str) else reference
        found = self.versions(wanted.name) if versions is None else versions
        if not found:
            names = self.names()
            raise UnknownModel(f"no model is called {wanted.name!r}{nearest(wanted.name, names)}", where="model", known=names)
        if wanted.version is not None:
            chosen = [entry for entry in found if entry.model.version == wanted.version]
        elif wanted.alias is not None:
            chosen = [entry for entry in found if wanted.alias in entry.model.aliases]
        else:
            chosen = [entry for entry in found if CHAMPION in entry.model.aliases] or [found[-1]]
        if not chosen:
            aliases = [f"{wanted.name}@{alias}" for entry in found for alias in entry.model.aliases]
            missing = wanted.alias or wanted.version
            raise UnknownModel(f"model {wanted.name!r} has no {missing}", where="model", known=[*map(str, found), *aliases])
        return chosen[0]

    def default(self, task: Task) -> str:
        """The model of a task that answers when none is named: the first bundled one, else the first there is.

        Raises: UnknownModel (none does that; says which are damaged).
        """
        damaged = []
        for registry in reversed(self._registries):
            for name in registry.names():
                try:
                    if self.resolve(name).manifest()[0].task == task:
                        return name
                except BadCheckpoint:
                    damaged.append(name)
                except UnknownModel:  # removed meanwhile
                    continue
        but = f" ({', '.join(damaged)}: damaged)" if damaged else ""
        raise UnknownModel(f"there is no model here to {task}{but}; one that `fip train --publish NAME` makes will do", where="model")

    def locate(self, reference: str) -> tuple[Path, Entry | None]:
        """The checkpoint folder of a reference, or of a path to a folder: then without an entry. Raises: as `resolve`."""
        path = Path(reference)
        if (path / "manifest.json").is_file():
            return path, None
        if path.is_dir() and "/" in reference:
            raise UnknownModel("the folder is no checkpoint: it has no manifest.json", where=reference)
        entry = self.resolve(reference)
        return entry.folder(), entry


def open_catalogue(address: str | None = None, *, remembered: bool = False) -> Catalogue:
    """The models of a registry, if one is given, over the bundled ones. Raises: RegistryUnavailable."""
    return Catalogue(open_registry(address, remembered=remembered) if address is not None else None)


def open_registry(address: str, *, remembered: bool = False) -> Registry:
    """The registry at an address: a folder that exists, or the URL of an MLflow server. Raises: RegistryUnavailable.

    remembered: a server that is away is answered for from memory (see models.registry.remembered).
    """
    if not is_address(address):
        raise RegistryUnavailable("no such folder, and no http:// or https:// address", where=address)
    if not is_url(address):
        return LocalRegistry(Path(address))
    from models.registry.mlflow import MlflowRegistry

    server = MlflowRegistry(address, rest_s=AGAIN_S if remembered else 0.0)
    return Remembered(server, server.cache / KNOWN) if remembered else server
