"""What `make sbom` says of the service."""

import importlib.metadata
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.sbom import BIN, audit, packages, write_sbom


@pytest.fixture
def tools() -> None:
    if not all(shutil.which(BIN / name) for name in ("cyclonedx-py", "pip-audit")):
        if os.environ.get("CI"):
            pytest.fail("cyclonedx-py and pip-audit are not installed: run `make install`")
        pytest.skip("cyclonedx-py and pip-audit are not installed: run `make install`")


def test_packages_are_those_of_the_service() -> None:
    found = packages()
    assert {name: found.get(name) for name in ("torch", "numpy", "fastapi", "uvicorn", "pydantic-core", "starlette")} == {
        name: importlib.metadata.version(name) for name in ("torch", "numpy", "fastapi", "uvicorn", "pydantic-core", "starlette")
    }
    assert not {"fip-server", "pytest", "mlflow", "h5py", "ruff", "aiohttp"} & found.keys()


@pytest.mark.usefixtures("tools")
def test_the_sbom_names_them_all_and_is_reproducible(tmp_path: Path) -> None:
    first, second = write_sbom(tmp_path / "a").read_bytes(), write_sbom(tmp_path / "b").read_bytes()
    assert first == second
    document = json.loads(first)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["name"] == "fip-server"
    assert {each["name"]: each["version"] for each in document["components"]} == packages()


@pytest.mark.usefixtures("tools")
def test_an_audit_that_could_not_ask_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no answers kept from before
    assert audit(tmp_path) == 2
    assert "could not be asked" in capsys.readouterr().err
