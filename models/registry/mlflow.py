"""A registry on an MLflow server (3.17 or later), for teams: its pages show the models, and its aliases are ours.

What may happen at any moment, and why nothing is ever half there:

- A checkpoint is uploaded as artifacts of a new run; then one request creates the version, with its tags. A publisher that is
  killed before that leaves a run with the status RUNNING in the experiment `fip-server`, and no version; runs can be deleted.
- MLflow gives out numbers, the next above the highest, and keeps the rows of deleted versions, so that no number comes back
  (unless somebody deletes the whole registered model on its pages).
- Aliases are MLflow's own, for other tools (`models:/name@alias`) and people move them too. Movers here take turns
  (models.registry.mlflow_queue says what that guards and what it does not); in its turn one reads, compares and sets.
- Removing deletes the version and marks its run as deleted. The files stay until `mlflow gc`, for a copy that somebody made of
  the version on MLflow's pages shares them.
- Files are downloaded into a cache, checked against the digests, and renamed into place; later no server is asked for them.
  A version that is removed elsewhere may thus still be found in the cache here.

Versions that other tools registered are left alone: not listed, unless an alias points at one; then reading it is refused.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from models.artefact import read_manifest
from models.cache import cache_dir
from models.errors import AliasConflict, BadCheckpoint, BadModelName, RegistryUnavailable, UnknownModel
from models.manifest import Manifest
from models.registry.mlflow_cache import Cache
from models.registry.mlflow_files import ARTIFACTS, DIGEST_TAG, check, digest_of, download, download_manifest, is_ours, tags_of
from models.registry.mlflow_queue import Act, turn
from models.registry.mlflow_server import PAGE, Absent, Server, Taken
from models.registry.protocol import ModelVersion
from models.registry.reference import check_name, is_name
from models.registry.verify import verify

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion as Stored
    from mlflow.entities.model_registry import RegisteredModel

EXPERIMENT = "fip-server"
TRAIL_TAG = "fip.trail.{alias}"  # of the registered model: JSON list of the versions that the alias was pointed at
TRAIL_CHARS = 5000  # what MLflow's databases keep of such a tag; the oldest are dropped
_ALIAS = re.compile(r"(?!latest\Z|v[0-9]+\Z)[a-z0-9][a-z0-9_-]{0,63}\Z")


class MlflowRegistry:
    """The protocol of models.registry.protocol over an MLflow server.

    address: http(s) URL, without credentials in it. cache: folder for downloads; None: $FIP_CACHE, else
    $XDG_CACHE_HOME/fip, else ~/.cache/fip. Raises: RegistryUnavailable (the address is no such URL).
    """

    def __init__(self, address: str, cache: Path | None = None, rest_s: float = 0.0) -> None:
        """rest_s: how long the server is left alone once it could not be used."""
        parts = urlsplit(address)
        if parts.username is not None or parts.password is not None:
            raise RegistryUnavailable(
                "credentials in the URL would end up in logs; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
                where=f"{parts.scheme}://…@{parts.hostname}",
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryUnavailable("not the http or https URL of an MLflow server", where=address)
        self.address = address.rstrip("/")
        self._server = Server(self.address, rest_s=rest_s)
        self._cache = Cache((cache or cache_dir()) / "registry" / hashlib.sha256(self.address.encode()).hexdigest()[:16])
        self._digests: dict[tuple[str, int], str] = {}  # as last told by the server
        self._manifests: dict[str, Manifest] = {}  # by digest

    @property
    def cache(self) -> Path:
        """The folder where files of this server are kept."""
        return self._cache.root

    def names(self) -> tuple[str, ...]:
        stored = self._server.ask_all(
            lambda client, token: client.search_model_versions(f"tags.`{DIGEST_TAG}` LIKE '%'", max_results=PAGE, page_token=token)
        )
        return tuple(sorted({str(version.name) for version in stored if is_name(str(version.name))}))

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        check_name(name)
        try:
            pointing = self._aliases(name)  # before the versions, so that what they point at is among them
        except Absent:
            return ()
        stored = self._server.ask_all(
            lambda client, token: client.search_model_versions(
                f"name = '{name}'", max_results=PAGE, order_by=["version_number ASC"], page_token=token
            )
        )
        aliases = {number: tuple(sorted(alias for alias, to in pointing.items() if to == number)) for number in pointing.values()}
        shown = [version for version in stored if is_ours(version) or int(version.version) in aliases]
        models = [ModelVersion(name, int(version.version), aliases.get(int(version.version), ())) for version in shown]
        for model, version in zip(models, shown, strict=True):
            with contextlib.suppress(BadCheckpoint):  # told when it is read
                self._digests[model.name, model.version] = digest_of(model, version)
        return tuple(models)

    def folder(self, model: ModelVersion) -> Path:
        check_name(model.name)
        if cached := self._cache.find(model, self._digests.get((model.name, model.version))):
            return cached
        stored = self._stored(model)
        digest = digest_of(model, stored)
        with self._cache.workspace() as workspace:
            return self._cache.keep(download(self._server, model, stored, workspace), model, digest)

    def digest(self, model: ModelVersion) -> str:
        check_name(model.name)
        told = self._digests.get((model.name, model.version)) or self._cache.digest(model)
        return told or digest_of(model, self._stored(model))

    def manifest(self, model: ModelVersion) -> tuple[Manifest, str]:
        check_name(model.name)
        digest = self.digest(model)
        if digest not in self._manifests:
            self._manifests[digest] = self._cache.manifest(model, digest) or self._fetch_manifest(model, digest)
        return self._manifests[digest], digest

    def publish(self, folder: Path, name: str) -> ModelVersion:
        check_name(name)
        verify(folder)
        digest = read_manifest(folder)[1]
        with self._cache.workspace() as workspace:
            ours = Path(shutil.copytree(folder, workspace / ARTIFACTS))  # whatever happens to `folder` from now on
            try:
                check(ours, ModelVersion(name, 0), digest)
            except BadCheckpoint as error:
                raise BadCheckpoint(f"it changed while it was published: {error.detail}", where=str(folder)) from error
            try:
                run = self._upload(ours, name)
                version = self._register(name, run, tags_of(ours, digest))
            except Absent:
                raise self._server.unavailable("somebody deletes there what is just being published; nothing is published") from None
        with contextlib.suppress(RegistryUnavailable, Absent):  # the version stands; only the status of its run stays as it was
            self._server.ask(lambda client: client.update_run(run.info.run_id, status="FINISHED"))
        return version

    def check_alias(self, alias: str) -> None:
        check_name(alias, "alias")
        if not _ALIAS.match(alias):
            raise BadModelName(f"{alias!r} is no alias on an MLflow server: no dots, and neither latest nor v with a number")

    def move_alias(self, name: str, alias: str, to: int | None, *, expected: int | None) -> None:
        check_name(name)
        self.check_alias(alias)
        if to is not None and (name, to) not in self._digests:
            self._stored_by_us(ModelVersion(name, to))
        self._expect(name, alias, expected)
        if to == expected:
            return
        with self._turn(name, hope=lambda: self._expect(name, alias, expected)) as act:
            trail = _trail(self._expect(name, alias, expected), alias)
            try:
                if to is None:
                    act(lambda client: client.delete_registered_model_alias(name, alias))
                    return
                act(lambda client: client.set_registered_model_alias(name, alias, str(to)))
            except Absent:
                raise UnknownModel(f"no version {name}:{to}" if to else f"no model is called {name!r}", where="model") from None
            with contextlib.suppress(RegistryUnavailable, Absent):  # it is moved; the next move notes what is missing
                self._extend_trail(name, alias, trail, expected, to)

    def history(self, name: str, alias: str) -> tuple[int, ...]:
        check_name(name)
        try:
            registered = self._registered(name)
        except Absent:
            return ()
        trail, current = _trail(registered, alias), _pointing(registered).get(alias)
        return trail[:-1] if trail and trail[-1] == current else trail

    def remove(self, model: ModelVersion) -> None:
        check_name(model.name)
        stored = self._stored_by_us(model)
        with self._turn(model.name, hope=lambda: self._stored(model)) as act:
            try:
                pointing = sorted(alias for alias, to in self._aliases(model.name).items() if to == model.version)
                if pointing:
                    raise AliasConflict(f"{model} is what {', '.join(pointing)} points at; move that first", where=str(model))
                act(lambda client: client.delete_model_version(model.name, str(model.version)))
            except Absent:
                raise _unknown(model) from None
        self._cache.forget(model)
        self._digests.pop((model.name, model.version), None)
        with contextlib.suppress(RegistryUnavailable, Absent):  # the version is gone; `mlflow gc` frees what its run holds
            self._server.ask(lambda client: client.delete_run(str(stored.run_id)))

    def _fetch_manifest(self, model: ModelVersion, digest: str) -> Manifest:
        stored = self._stored(model)
        with self._cache.workspace() as workspace:
            return download_manifest(self._server, model, stored, digest, workspace)

    @contextlib.contextmanager
    def _turn(self, name: str, hope: Callable[[], object]) -> Iterator[Act]:
        """See models.registry.mlflow_queue.turn."""
        with self._cache.workspace() as workspace, turn(self._server, name, workspace, hope) as act:
            yield act

    def _registered(self, name: str) -> "RegisteredModel":
        """Raises: Absent, RegistryUnavailable."""
        return self._server.ask(lambda client: client.get_registered_model(name))

    def _aliases(self, name: str) -> dict[str, int]:
        return _pointing(self._registered(name))

    def _stored(self, model: ModelVersion) -> "Stored":
        """Raises: UnknownModel, RegistryUnavailable."""
        try:
            return self._server.ask(lambda client: client.get_model_version(model.name, str(model.version)))
        except Absent:
            raise _unknown(model) from None

    def _stored_by_us(self, model: ModelVersion) -> "Stored":
        """Raises: UnknownModel (also for what another tool registered), RegistryUnavailable."""
        stored = self._stored(model)
        if not is_ours(stored):
            raise UnknownModel(f"{model} is no fip checkpoint: another tool registered it", where="model")
        return stored

    def _expect(self, name: str, alias: str, expected: int | None) -> "RegisteredModel":
        """The model, whose alias points at `expected`. Raises: AliasConflict (it does not), UnknownModel (no model of that name)."""
        try:
            registered = self._registered(name)
        except Absent:
            raise UnknownModel(f"no model is called {name!r}", where="model", known=self.names()) from None
        found = _pointing(registered).get(alias)
        if found != expected:
            says, wanted = (f"version {number}" if number else "nothing" for number in (found, expected))
            raise AliasConflict(f"the alias points at {says}, not at {wanted}; nothing was moved", where=f"{name}@{alias}")
        return registered

    def _extend_trail(self, name: str, alias: str, trail: tuple[int, ...], left: int | None, to: int) -> None:
        """Remember where the alias points now, and where it pointed if somebody else moved it there."""
        between = () if left is None or trail[-1:] == (left,) else (left,)
        trail = (*trail, *between, to)
        while len(json.dumps(trail)) > TRAIL_CHARS:
            trail = trail[1:]
        self._server.ask(lambda client: client.set_registered_model_tag(name, TRAIL_TAG.format(alias=alias), json.dumps(trail)))

    def _experiment(self) -> str:
        found = self._server.ask(lambda client: client.get_experiment_by_name(EXPERIMENT))
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._server.ask(lambda client: client.create_experiment(EXPERIMENT)))
        except Taken:  # another publisher made it in between
            return self._experiment()

    def _upload(self, folder: Path, name: str) -> "Run":
        """A new run with the files. What cannot be finished is marked as deleted, as far as the server can be reached."""
        experiment = self._experiment()
        run = self._server.ask(lambda client: client.create_run(experiment, run_name=name))
        try:
            self._server.ask(lambda client: client.log_artifacts(run.info.run_id, str(folder), ARTIFACTS))
        except BaseException:
            with contextlib.suppress(RegistryUnavailable, Absent):
                self._server.ask(lambda client: client.delete_run(run.info.run_id))
            raise
        return run

    def _register(self, name: str, run: "Run", tags: dict[str, str]) -> ModelVersion:
        """Create the version of a run; an unclear answer is followed by a look at whether there is one."""

        def create(client: "MlflowClient") -> "Stored":
            made = client.search_model_versions(f"run_id = '{run.info.run_id}'", max_results=1)
            source = f"{run.info.artifact_uri}/{ARTIFACTS}"
            return made[0] if made else client.create_model_version(name, source, run.info.run_id, tags, await_creation_for=0)

        self._server.ensure_model(name)
        return ModelVersion(name, int(self._server.ask(create).version))


def _pointing(registered: "RegisteredModel") -> dict[str, int]:
    """Alias -> version."""
    return {str(alias): int(version) for alias, version in registered.aliases.items()}


def _trail(registered: "RegisteredModel", alias: str) -> tuple[int, ...]:
    """Versions that the alias was pointed at, oldest first; none if somebody spoilt the tag."""
    try:
        trail = json.loads(registered.tags.get(TRAIL_TAG.format(alias=alias), "[]"))
    except ValueError:
        return ()
    return tuple(version for version in trail if isinstance(version, int)) if isinstance(trail, list) else ()


def _unknown(model: ModelVersion) -> UnknownModel:
    return UnknownModel(f"no version {model}", where="model")
