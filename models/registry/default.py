"""Which model answers when none is named: the same rule for the service and for `fip predict`."""

from pathlib import Path

from models.errors import UnknownModel
from models.registry.local import list_models


def default_model(registry: Path | None = None) -> str:
    """Name of the first bundled model, else of the registry's first. Raises: UnknownModel (there is none)."""
    for model in list_models() or list_models(registry):
        return model.name
    raise UnknownModel(
        "no model is bundled and no registry holds one; train one or name a checkpoint folder", where=str(registry or "models/bundled")
    )
