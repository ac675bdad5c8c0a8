"""Every import of another's package is declared, in the extra of the side that needs it."""

import ast
import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OURS = {"models", "service", "training"}
EXTRAS = {"models": ("torchsparse", "mlflow", "e57"), "service": ("serve", "load", "otel"), "training": ("train", "analyse")}
# Pinned and brought by a package that we declare, and part of its public face.
BROUGHT = {"anyio": "fastapi", "starlette": "fastapi", "pydantic-core": "pydantic"}
BROUGHT |= {f"opentelemetry-{part}": "opentelemetry-sdk" for part in ("api", "semantic-conventions")}
BROUGHT |= {
    f"opentelemetry-{part}": "opentelemetry-exporter-otlp-proto-http"
    for part in ("exporter-http-transport", "exporter-otlp-common", "exporter-otlp-proto-common", "proto")
}
BROUGHT |= {"triton": "torch"}  # by one for CUDA
# What the tests install holds the modules of what users install.
BROUGHT |= {"mlflow": "mlflow-skinny", "mlflow-tracing": "mlflow-skinny"}


def declared(package: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS[package] for line in project["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def imported(package: str) -> set[str]:
    """Top-level names imported anywhere in a package, also inside functions."""
    found: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - OURS - set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", sorted(OURS))
def test_what_is_imported_is_declared(package: str) -> None:
    owners = importlib.metadata.packages_distributions()
    needed = {canonicalize_name(owner) for name in imported(package) for owner in owners.get(name, [name])}
    missing = {name for name in needed if BROUGHT.get(name, name) not in declared(package)}
    assert missing == set()
