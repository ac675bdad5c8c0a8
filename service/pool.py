"""Names to live models: the bundled ones, and those of a registry folder, which win.

Names and aliases are looked up on disk at every request, so a new version or a moved alias is seen at once; weights are
loaded at the first use of a version, which never changes, and stay.
"""

import logging
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from models.checkpoint import read_manifest
from models.errors import BadCheckpoint
from models.manifest import Manifest
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.registry import ModelVersion, list_models, resolve
from models.registry.default import default_model
from models.registry.local import CHAMPION
from service.schemas import ModelInfo, ModelRef
from service.telemetry import Telemetry

LOG = logging.getLogger("fip.service")
WARM_UP_POINTS = 1024


@dataclass(frozen=True)
class Live:
    """A loaded model and the name it answers under."""

    ref: ModelRef
    predictor: Predictor


@dataclass(frozen=True)
class Loaded:
    digest: str
    predictor: Predictor


class Pool:
    """Thread-safe; what it answers comes from files, so it is asked in threads."""

    def __init__(self, registry: Path | None, default: str | None, device: str, telemetry: Telemetry) -> None:
        self._registry, self._wanted, self._device, self._telemetry = registry, default, device, telemetry
        self._lock = threading.Lock()
        self._loaded: dict[Path, Loaded] = {}

    @cached_property
    def default(self) -> str:
        """The reference that a request without a model means. Raises: UnknownModel (there is nothing to serve)."""
        return self._wanted or default_model(self._registry)

    def load(self) -> Live:
        """Load the default model. Raises: BadModelName, UnknownModel, BadCheckpoint."""
        return self.get(None)

    def get(self, reference: str | None) -> Live:
        """The model of a reference, loaded if need be. Raises: BadModelName, UnknownModel, BadCheckpoint."""
        reference = self.default if reference is None else reference
        model = resolve(reference, self._registry)
        loaded = self._loaded.get(model.folder)
        if loaded is None:  # one that is there does not wait for another that is being loaded
            with self._lock:
                loaded = self._loaded.get(model.folder) or self._load(model)
        return Live(_ref(model, loaded.digest, reference), loaded.predictor)

    def catalogue(self) -> tuple[ModelInfo, ...]:
        """Every version that can be asked for; one whose description is damaged is left out and logged."""
        default = resolve(self.default, self._registry)
        described = [(model, _described(model)) for model in list_models(self._registry)]
        return tuple(_info(model, *found, reference=None, default=model == default) for model, found in described if found is not None)

    def describe(self, reference: str) -> ModelInfo:
        """One model, without loading it. Raises: BadModelName, UnknownModel, BadCheckpoint."""
        model = resolve(reference, self._registry)
        manifest, digest = read_manifest(model.folder)
        return _info(model, manifest, digest, reference=reference, default=model == resolve(self.default, self._registry))

    def _load(self, model: ModelVersion) -> Loaded:
        manifest, digest = read_manifest(model.folder)
        loaded = self._loaded[model.folder] = Loaded(digest, Predictor.load(model.folder, self._device))
        self._telemetry.model_info.labels(model.name, str(model.version), digest, manifest.task).set(1)
        return loaded


def warm_up_cloud() -> PointCloud:
    """A ball of points with every column a model may ask for: the first pass through a net is several times slower than the next."""
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(WARM_UP_POINTS, 3)).astype(np.float32)
    rgb = np.full((WARM_UP_POINTS, 3), 128, np.uint8)
    return PointCloud(xyz, rgb=rgb, intensity=np.zeros(WARM_UP_POINTS, np.float32))


def _described(model: ModelVersion) -> tuple[Manifest, str] | None:
    try:
        return read_manifest(model.folder)
    except BadCheckpoint as error:
        LOG.warning("model left out", extra={"fields": {"model": f"{model.name}:{model.version}", "error": str(error)}})
        return None


def _ref(model: ModelVersion, digest: str, reference: str | None) -> ModelRef:
    return ModelRef(name=model.name, version=str(model.version), digest=digest, alias=_alias(model, reference))


def _alias(model: ModelVersion, reference: str | None) -> str | None:
    """The alias a reference went through: the one it names; the champion for a bare name; none for a version."""
    if reference is not None and ":" in reference:
        return None
    if reference is not None and "@" in reference:
        return reference.partition("@")[2]
    return CHAMPION if CHAMPION in model.aliases else None


def _info(model: ModelVersion, manifest: Manifest, digest: str, *, reference: str | None, default: bool) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        version=str(model.version),
        digest=digest,
        alias=_alias(model, reference),
        aliases=model.aliases,
        task=manifest.task,
        default=default,
        labels=manifest.labels,
        input=manifest.input,
        metrics=manifest.metrics,
    )
