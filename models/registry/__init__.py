"""Where published models live: a directory `name/version/` or an MLflow server, over the models bundled in the package."""

from models.registry.catalogue import Catalogue, Entry, open_catalogue, open_registry
from models.registry.protocol import CHAMPION, ModelVersion, Registry
from models.registry.publish import point, pointed_at, publish_as
from models.registry.reference import Reference, parse_reference, parse_target

__all__ = [
    "CHAMPION",
    "Catalogue",
    "Entry",
    "ModelVersion",
    "Reference",
    "Registry",
    "open_catalogue",
    "open_registry",
    "parse_reference",
    "parse_target",
    "point",
    "pointed_at",
    "publish_as",
]
