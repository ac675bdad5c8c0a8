"""Large clouds on the page: they become jobs, which tell how far they are and outlive the service, and turn without a GPU."""

import base64
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.bench.service.clouds import kitti, street
from tests.bench.service.process import Service, free_port, service
from tests.browser import opened, pixels
from tests.fire import until

pytestmark = pytest.mark.e2e

POINTS = 300_000  # 4.8 MB
WAIT_MS = 120_000
WATCH = """
() => {
  window.said = [];
  new MutationObserver(() => window.said.push(document.getElementById("status").textContent))
    .observe(document.getElementById("status"), { childList: true });
}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(FIP_JOBS_DIR=str(tmp_path_factory.mktemp("jobs"))) as running:
        yield running


@pytest.fixture(scope="module")
def address(running: Service) -> str:
    return running.url


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scans") / "large.bin"
    path.write_bytes(kitti(street(POINTS, half_m=40.0)))
    return path


def states(url: str) -> list[str]:
    """Of the jobs, the newest first."""
    return [each["state"] for each in httpx.get(f"{url}/v1/jobs").json()["jobs"]]


def test_it_tells_how_far_it_is_and_leaves_nothing_behind(page: Page, running: Service, scan: Path) -> None:
    page.evaluate(WATCH)
    page.set_input_files("#file", str(scan))
    page.wait_for_selector("#legend tr", timeout=WAIT_MS)
    assert page.inner_text("#status") == f"{POINTS:,} points labelled"
    assert "Computing …" in page.evaluate("() => window.said")
    direct = httpx.post(f"{running.url}/v1/segment?format=raw&input_format=bin", content=scan.read_bytes(), timeout=120).content
    classes = np.frombuffer(direct[:POINTS], np.uint8)
    counts = sorted((int(count) for count in np.unique(classes, return_counts=True)[1]), reverse=True)
    shown = [row.split("\t")[1].replace(",", "") for row in page.inner_text("#legend").split("only")[:-1]]
    assert [int(each) for each in shown] == counts
    until(lambda: states(running.url)[0] == "expired", "the result is removed")


def turning(page: Page, key: str) -> bool:
    """Whether the processor draws, after one more turn."""
    page.keyboard.press(key)
    return page.is_visible("#quick")


def test_the_processor_turns_it_and_webgl_draws_the_same_at_rest(page: Page, scan: Path) -> None:
    page.set_input_files("#file", str(scan))
    page.wait_for_selector("#legend tr", timeout=WAIT_MS)
    page.focus("#canvas")
    until(lambda: turning(page, "ArrowLeft"), "WebGL in software takes too long")
    page.locator("#canvas").blur()  # the frame of what has the focus is no part of the cloud
    until(lambda: page.is_hidden("#quick"), "it rests")
    rested = pixels(page)
    address = page.evaluate("() => document.getElementById('quick').toDataURL()")
    turned = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))
    assert (rested != rested[0, 0]).any(axis=-1).mean() > 0.05
    assert (turned == rested).all(axis=-1).mean() > 0.995
    page.click("#legend button:has-text('sidewalk'), #legend button >> nth=0")
    page.focus("#canvas")
    until(lambda: turning(page, "ArrowRight"), "it turns without a class")
    page.keyboard.press("c")
    until(lambda: page.is_hidden("#quick"), "it rests in other colours")


def test_cancelled_it_is_no_job_any_more(page: Page, running: Service, scan: Path) -> None:
    pid = running.worker_pid()
    os.kill(pid, signal.SIGSTOP)  # nets stand still meanwhile
    try:
        page.set_input_files("#file", str(scan))
        until(
            lambda: page.inner_text("#status") in ("Computing …", "In line …") and states(running.url)[:1] in (["queued"], ["running"]),
            "it is a job",
        )
        page.click("#cancel")
        assert page.is_enabled("#run")
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: states(running.url)[0] == "cancelled", "it is cancelled")
    assert page.inner_text("#status") == "cancelled"


def test_closed_it_leaves_no_job(browser: Browser, running: Service, scan: Path) -> None:
    pid = running.worker_pid()
    with opened(browser, running.url) as page:
        os.kill(pid, signal.SIGSTOP)
        try:
            with page.expect_response(lambda answer: "/v1/jobs/" in answer.url):  # from then on the page knows its job
                page.set_input_files("#file", str(scan))
            until(lambda: states(running.url)[:1] == ["running"], "it runs")
            page.goto("about:blank")
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: states(running.url)[0] == "cancelled", "it is cancelled")


def test_it_outlives_the_service(browser: Browser, scan: Path, tmp_path: Path) -> None:
    port = free_port()
    with service(port=port, FIP_JOBS_DIR=str(tmp_path)) as first:
        pid = first.worker_pid()
        with opened(browser, first.url) as page:
            httpx.post(f"{first.url}/v1/segment?format=raw&input_format=bin", content=scan.read_bytes()[:16_000], timeout=60)
            os.kill(pid, signal.SIGSTOP)
            page.set_input_files("#file", str(scan))
            until(lambda: states(first.url) != [], "it is a job")
            first.process.kill()
            first.process.wait()
            until(lambda: "trying again" in page.inner_text("#status") or page.is_visible("#again"), "the page says so")
            with service(port=port, FIP_JOBS_DIR=str(tmp_path)):
                page.wait_for_selector("#legend tr", timeout=WAIT_MS)
                assert page.inner_text("#status") == f"{POINTS:,} points labelled"


def test_a_file_is_dropped(page: Page, scan: Path) -> None:
    script = (
        "async (head) => { const all = new DataTransfer(); all.items.add(new File([new Uint8Array(head)], 'dropped.bin')); return all; }"
    )
    dropped = page.evaluate_handle(script, list(scan.read_bytes()[:160_000]))
    page.dispatch_event("#stage", "dragover", {"dataTransfer": dropped})
    assert page.evaluate("() => document.body.classList.contains('dropping')")
    page.dispatch_event("#stage", "drop", {"dataTransfer": dropped})
    page.wait_for_selector("#legend tr", timeout=WAIT_MS)
    assert page.inner_text("#status") == "10,000 points labelled"
    assert page.inner_text("#file-name").startswith("dropped.bin")


def test_a_model_is_described(page: Page) -> None:
    page.click("summary:has-text('About the model')")
    page.wait_for_selector("#card h3:has-text('lidar19')")
    bars = page.locator("#class-scores li").all_inner_texts()
    assert bars[0].split("\n") == ["vegetation", "71.2 %"]
    assert len(bars) == 15
    assert page.locator("#card table").count() == 3
    assert page.locator("#card img").count() == 0
    page.select_option("#model", "modelnet40:1")
    page.wait_for_selector("#card h3:has-text('modelnet40')")
    assert page.inner_text("#class-scores-title") == "Accuracy of each class"
    assert page.locator("#class-scores li").count() == 40
