"""/docs in a real browser: it renders under its policy, and asks nobody else."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("there is no browser")
        pytest.skip("there is no browser on this machine")
    return found


@pytest.mark.e2e
def test_the_documentation_renders_under_its_policy(client: httpx.Client, browser: str, tmp_path: Path) -> None:
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    page = f"{client.base_url}/docs#/classify/classify_v1_classify_post"  # with one operation open
    shown = subprocess.run([browser, *options, page], capture_output=True, text=True, timeout=120, check=False)
    said = [line for line in shown.stderr.splitlines() if ":CONSOLE" in line]
    assert [line for line in said if re.search("Content.Security.Policy|Refused to|violates|Uncaught", line)] == []
    for text in ("/v1/classify", "/v1/segment", "Point clouds in, classes of objects and of points out", "Try it out", "X-Request-Timeout"):
        assert text in shown.stdout, shown.stderr[-2000:]
