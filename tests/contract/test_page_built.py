"""What is built is what its sources say."""

import shutil
import subprocess
from pathlib import Path

import pytest

from models.io.raw import guess_records
from service.routes.page import BUILT, UI
from tests.page_samples import main


def test_the_samples_are_what_their_script_makes(tmp_path: Path) -> None:
    main(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {name: (BUILT / name).read_bytes() for name in ("street.bin", "chair.ply")}


def test_the_street_is_known_as_a_scan_without_a_name() -> None:
    assert guess_records((BUILT / "street.bin").read_bytes()[:16_384]) == "bin"


@pytest.mark.timeout(300)
def test_the_page_is_what_its_sources_make(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("no Node.js to build the page with")
    copy = tmp_path / "ui"
    shutil.copytree(UI, copy, ignore=shutil.ignore_patterns("node_modules", "built"))
    if subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=copy, check=False, capture_output=True, timeout=240).returncode:
        pytest.skip("npm cannot install what the page is built with")
    for command in (("run", "check"), ("run", "build")):
        subprocess.run(["npm", *command], cwd=copy, check=True, capture_output=True, timeout=240)
    made = {path.name: path.read_bytes() for path in (copy / "built").iterdir()}
    assert made == {path.name: path.read_bytes() for path in BUILT.iterdir() if path.name not in ("street.bin", "chair.ply")}
