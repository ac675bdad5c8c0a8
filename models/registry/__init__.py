"""Where published models live. Today: local directories `name/version/`, and the models bundled in the package."""

from models.registry.local import ModelVersion, find_model, list_models, resolve

__all__ = ["ModelVersion", "find_model", "list_models", "resolve"]
