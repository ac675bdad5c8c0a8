"""What the service says of a model: the reference in every answer, and the rows of GET /v1/models."""

import json
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path

from models.artefact import CARD, LARGEST_TEXT, SCORES
from models.errors import BadCheckpoint, WrongTask
from models.manifest import Manifest, Task
from models.registry import CHAMPION, ModelVersion, Reference
from service.schemas import ModelInfo, ModelRef

CLASS_SCORES: dict[Task, str] = {"segment": "class_iou", "classify": "class_accuracy"}


def read_card(folder: Path, manifest: Manifest) -> str:
    """The model card, in Markdown. Raises: BadCheckpoint (it is not the one that was published)."""
    return _published(folder, manifest, CARD).decode("utf-8")


def read_class_scores(folder: Path, manifest: Manifest) -> dict[str, float]:
    """IoU (segment) or accuracy (classify) of each class, 0..1, best first; of those that were scored. Raises: as `read_card`."""
    if SCORES not in manifest.files:
        return {}
    try:
        details = json.loads(_published(folder, manifest, SCORES))
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"not a table of metrics: {error}", where=SCORES) from error
    scores = details.get(CLASS_SCORES[manifest.task]) if isinstance(details, dict) else None
    if not isinstance(scores, dict):
        return {}
    known = {name: scores[name] for name in manifest.labels if isinstance(scores.get(name), float | int) and 0 <= scores[name] <= 1}
    return dict(sorted(known.items(), key=lambda each: -each[1]))


def _published(folder: Path, manifest: Manifest, name: str) -> bytes:
    path = folder / name
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise BadCheckpoint(f"larger than {LARGEST_TEXT >> 20} MiB", where=name)
        content = path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(f"cannot be read: {error.strerror}", where=name) from error
    if sha256(content).hexdigest() != manifest.files.get(name):
        raise BadCheckpoint("the file differs from the digest in the manifest", where=name)
    return content


def model_ref(model: ModelVersion, digest: str, wanted: Reference) -> ModelRef:
    return ModelRef(name=model.name, version=str(model.version), digest=digest, alias=alias_of(model, wanted))


def check_task(name: str, manifest: Manifest, task: Task | None) -> None:
    """Raises: WrongTask (the model called so does something else; None is whatever it does)."""
    if task is not None and manifest.task != task:
        raise WrongTask(f"model {name!r} does not {task}, it does {manifest.task}: POST the file to /v1/{manifest.task}", where="model")


def alias_of(model: ModelVersion, wanted: Reference) -> str | None:
    """The alias a reference went through: the one it names; the champion for a bare name; none for a version."""
    if wanted.version is not None:
        return None
    return wanted.alias or (CHAMPION if CHAMPION in model.aliases else None)


def model_info(model: ModelVersion, manifest: Manifest, digest: str, alias: str | None, defaults: Collection[ModelVersion]) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        version=str(model.version),
        digest=digest,
        alias=alias,
        aliases=model.aliases,
        task=manifest.task,
        default=any((each.name, each.version) == (model.name, model.version) for each in defaults),
        labels=manifest.labels,
        label_map=manifest.label_map,
        input=manifest.input,
        metrics=manifest.metrics,
    )
