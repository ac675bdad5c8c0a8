"""What `make sbom` says of the service."""

import importlib.metadata
import json
import os
import shutil
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.sbom import BIN, audit, judge, packages, write_sbom


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


@pytest.mark.slow
@pytest.mark.usefixtures("tools")
def test_the_sbom_names_them_all_and_who_needs_them(tmp_path: Path) -> None:
    document = json.loads(write_sbom(tmp_path).read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert not {"serialNumber", "timestamp"} & (document.keys() | document["metadata"].keys())  # it can be made again
    assert document["metadata"]["component"]["name"] == "fip-server"
    components: dict[str, dict] = {canonicalize_name(each["name"]): each for each in document["components"]}
    assert {name: each["version"] for name, each in components.items()} == packages()
    assert "BSD" in json.dumps(components["numpy"]["licenses"])
    needs = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    reached: set[str] = set()
    to_reach = ["root-component"]
    while to_reach:
        reached.add(ref := to_reach.pop())
        to_reach += [each for each in needs[ref] if each not in reached]
    assert reached == {"root-component", *(each["bom-ref"] for each in components.values())}
    assert "ruff" not in str(needs)


@pytest.mark.parametrize(
    ("entries", "status", "said"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "audited 1 of 1"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1"}]}, {"name": "b", "skip_reason": "x"}], 1, "a 1: PYSEC-1"),
        ([{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}], 2, "does not know b"),
    ],
)
def test_what_was_not_audited_does_not_pass(entries: list[dict], status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(entries) == status
    assert said in "".join(capsys.readouterr())


@pytest.mark.usefixtures("tools")
def test_an_audit_that_could_not_ask_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no answers kept from before
    assert audit(tmp_path) == 2
    assert "could not be reached" in capsys.readouterr().err
