"""The page when things go wrong, each for real: a full house, a lost service, keys, bad files, somebody who changes his mind."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, CDPSession, Page

from service.auth.keys import add_key, new_key
from tests.bench.service.process import Service, free_port, service
from tests.browser import CHAIR, STREET, answered, barriers, opened, pixels, sent
from tests.fire import until

pytestmark = pytest.mark.e2e

SLOW = 150_000  # bytes a second of an upload
ANY = -1
BAD = {
    "missing_coordinates": ("broken.ply", b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n1\n2\n3\n"),
    "truncated_file": ("short.ply", CHAIR.read_bytes()[:2000]),
    "unsupported_format": ("letter.pdf", b"%PDF-1.7 no cloud at all"),
    "non_finite": ("depth.xyz", b"1 2 3\nnan 2 3\n4 5 6\n"),
}


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    """A service that has room for one file, and has its net at hand."""
    with service(FIP_MAX_WAITING="1") as running:
        post(running).raise_for_status()
        yield running


@pytest.fixture(scope="module")
def address(running: Service) -> str:
    return running.url


def post(running: Service) -> httpx.Response:
    named = {"X-Filename": STREET.name}
    return httpx.post(f"{running.url}/v1/segment?format=raw", content=STREET.read_bytes(), headers=named, timeout=60)


@contextmanager
def held(running: Service) -> Iterator[None]:
    """Nets stand still meanwhile."""
    pid = running.worker_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def in_line(running: Service, count: int) -> None:
    until(lambda: running.metric("fip_queue_requests") == count, f"{count} wait for the net")


def said(page: Page, place: str) -> str:
    """What stands there; also lets the page's events in, which `page.url` and the like do not."""
    return page.inner_text(place)


def upload_rate(page: Page, rate: int, network: CDPSession | None = None) -> CDPSession:
    network = network or page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.send("Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": ANY, "uploadThroughput": rate})
    return network


def on_its_way(page: Page) -> None:
    """The file is partly sent."""
    until(lambda: 0 < int("".join(filter(str.isdigit, said(page, "#status"))) or 0) < 90, "some of it is sent")
    assert page.is_visible("#progress")
    assert page.is_visible("#cancel")


def test_a_full_house_is_waited_for(page: Page, running: Service) -> None:
    with ThreadPoolExecutor(1) as pool:
        with held(running):
            other = pool.submit(post, running)
            in_line(running, 1)
            page.set_input_files("#file", str(STREET))
            page.wait_for_selector("#again")
            assert "overloaded" in said(page, "#error")
            assert said(page, "#when").startswith("Again in ")
            page.click("#again-never")
            assert page.is_hidden("#again")
            page.click("#run")
            page.wait_for_selector("#again")
            first = said(page, "#when")
            until(lambda: said(page, "#when") != first, "it counts down")
            page.wait_for_timeout(1500)
            assert page.locator("#legend tr").count() == 0
        assert other.result().status_code == 200
    answered(page)  # without a further hand
    assert page.is_hidden("#error")
    assert page.is_hidden("#again")


def test_cancelled_while_it_is_computed(page: Page, running: Service) -> None:
    with held(running):
        page.set_input_files("#file", str(STREET))
        in_line(running, 1)
        until(lambda: said(page, "#status") == "Computing …", "it says what it waits for")
        page.emulate_media(reduced_motion="no-preference")
        assert moves(page)
        page.emulate_media(reduced_motion="reduce")
        assert not moves(page)
        page.click("#cancel")
        assert said(page, "#status") == "cancelled"
        assert page.is_hidden("#progress")
        assert page.evaluate("document.activeElement.id") == "run"
        in_line(running, 0)
    assert bool((pixels(page) != (0x10, 0x14, 0x18)).any(axis=-1).mean() > 0.05)  # the points are there all the same
    page.keyboard.press("Enter")
    answered(page)


def moves(page: Page) -> bool:
    """Whether the bar without a share looks different a moment later."""
    bar = page.locator("#progress")
    shots = []
    for _ in range(4):
        shots.append(bar.screenshot())
        page.wait_for_timeout(120)
    return len(set(shots)) > 1


def test_cancelled_while_it_is_sent(page: Page, running: Service) -> None:
    network = upload_rate(page, SLOW)
    page.set_input_files("#file", str(STREET))
    on_its_way(page)
    page.keyboard.press("Escape")
    assert said(page, "#status") == "cancelled"
    assert page.is_hidden("#progress")
    assert page.is_hidden("#error")
    upload_rate(page, ANY, network)
    sent(page, CHAIR)


def test_what_a_file_is_can_be_said(page: Page, tmp_path: Path) -> None:
    points = np.fromfile(STREET, "<f4").reshape(-1, 4)
    np.random.default_rng(0).permutation(points).tofile(tmp_path / "scan.dat")  # in the order of a scanner it would be known
    page.set_input_files("#file", str(tmp_path / "scan.dat"))
    page.wait_for_selector("#error p")
    assert "unsupported_format" in said(page, "#error")
    page.click("summary:has-text('What only you know')")
    page.select_option("#input_format", "bin")
    answered(page)
    assert page.is_hidden("#error")


@pytest.mark.parametrize("code", BAD)
def test_bad_files(page: Page, running: Service, tmp_path: Path, code: str) -> None:
    name, content = BAD[code]
    (tmp_path / name).write_bytes(content)
    page.set_input_files("#file", str(tmp_path / name))
    page.wait_for_selector("#error p")
    problem = httpx.post(f"{running.url}/v1/points", content=content, headers={"X-Filename": name}).json()
    shown = said(page, "#error")
    assert problem["code"] == code
    assert problem["detail"] in shown
    assert code in shown
    assert problem.get("where") is None or problem["where"] in shown
    assert page.locator("#error .advice").count() == (code != "missing_coordinates")  # whose own words say what to do
    assert page.is_hidden("#again")
    sent(page, STREET)
    assert page.is_hidden("#error")


def test_a_service_that_goes_and_comes_back(browser: Browser) -> None:
    port = free_port()
    with service(port=port) as first, opened(browser, first.url) as page:
        network = upload_rate(page, SLOW)
        page.set_input_files("#file", str(STREET))
        on_its_way(page)
        os.killpg(first.process.pid, signal.SIGKILL)
        page.wait_for_selector("#again")
        assert "cannot be reached" in said(page, "#error")
        page.click("#again-never")
        upload_rate(page, ANY, network)
        page.click("#run")
        page.wait_for_selector("#again")
        assert "as soon as the service answers" in said(page, "#when")
        page.click("#again-now")
        page.wait_for_selector("#again")
        with service(port=port):
            answered(page)
            assert page.is_hidden("#error")
            assert page.is_hidden("#again")


def test_keys_of_a_real_file(browser: Browser, tmp_path: Path) -> None:
    text, key = new_key("somebody", ["infer"], None, None)
    add_key(tmp_path / "keys.json", key)
    with service(FIP_KEYS=str(tmp_path / "keys.json")) as running, opened(browser, running.url, bypass_csp=True) as page:
        assert "unauthorized" in said(page, "#error")
        assert page.evaluate("document.activeElement.id") == "key"
        assert barriers(page) == []
        page.keyboard.type(text[:-1] + ("a" if text[-1] != "a" else "b"))
        with page.expect_response("**/v1/models") as refused:
            page.keyboard.press("Enter")
        assert refused.value.status == 401
        page.wait_for_selector("#asking")
        assert page.input_value("#key") == ""
        page.keyboard.type(text)
        page.keyboard.press("Enter")
        page.wait_for_selector("#model option", state="attached")
        assert page.is_hidden("#asking")
        assert page.is_hidden("#error")
        sent(page, STREET)
        assert text not in page.url + page.content()
        page.reload()
        page.wait_for_selector("#model option", state="attached")


def test_a_key_of_few_points_is_waited_for(browser: Browser, tmp_path: Path) -> None:
    """Its points are read once, however often labels have to be asked for."""
    text, key = new_key("somebody", ["infer"], 3_000, None)
    add_key(tmp_path / "keys.json", key)
    with service(FIP_KEYS=str(tmp_path / "keys.json")) as running, opened(browser, running.url) as page:
        page.keyboard.type(text)
        page.keyboard.press("Enter")
        page.wait_for_selector("#model option", state="attached")
        page.set_input_files("#file", str(STREET))
        page.wait_for_selector("#again")
        assert "rate_limited" in said(page, "#error")
        answered(page)


def test_a_file_that_changed_is_no_lost_service(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "scan.bin"
    path.write_bytes(STREET.read_bytes())
    sent(page, path)
    path.write_bytes(STREET.read_bytes()[:16_000])
    os.utime(path, (0, 0))  # browsers look at whole seconds
    page.click("#run")
    page.wait_for_selector("#error p")
    assert "file_changed" in said(page, "#error")
    assert page.is_hidden("#again")
    sent(page, path)  # the same name once more
    until(lambda: said(page, "#status") == "1,000 points labelled", "it is the file as it is now")


def test_samples_of_a_service_that_is_gone(browser: Browser) -> None:
    port = free_port()
    with service(port=port) as first, opened(browser, f"{first.url}/#sample=../v1/models") as page:
        assert said(page, "#file-name") == ""  # a link names samples and nothing else
        os.killpg(first.process.pid, signal.SIGKILL)
        first.process.wait()
        page.click("[data-sample='street.bin']")
        page.wait_for_selector("#again")
        with service(port=port):
            answered(page)


def test_a_browser_that_keeps_nothing(browser: Browser, address: str) -> None:
    denied = "for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name, {get() { throw Error(); }});"
    with opened(browser, address) as page:
        page.add_init_script(denied)
        page.reload()
        page.wait_for_selector("#model option", state="attached")
        page.check("#safe")
        sent(page, STREET)


def test_a_graphics_card_that_goes_and_comes_back(page: Page) -> None:
    sent(page, STREET)
    page.locator("#canvas").blur()
    until(lambda: bool((pixels(page) != (0x10, 0x14, 0x18)).any(axis=-1).mean() > 0.05), "it is drawn")
    before = pixels(page)
    page.evaluate("() => void (window.card = document.getElementById('canvas').getContext('webgl2').getExtension('WEBGL_lose_context'))")
    page.evaluate("() => window.card.loseContext()")
    page.wait_for_selector("#no-webgl")
    page.evaluate("() => window.card.restoreContext()")
    page.wait_for_selector("#no-webgl", state="hidden")
    until(lambda: bool((pixels(page) == before).all(axis=-1).mean() > 0.99), "it is drawn again")


def test_more_points_than_are_drawn(page: Page, tmp_path: Path) -> None:
    street = np.fromfile(STREET, "<f4").reshape(-1, 4)
    count = 45 * len(street)
    np.tile(street, (45, 1)).tofile(tmp_path / "city.bin")
    sent(page, tmp_path / "city.bin")
    until(lambda: "labelled" in said(page, "#status"), "it is answered")
    assert said(page, "#status") == f"{count:,} points labelled"
    note = said(page, "#thinned")
    drawn = int(note.partition(" ")[0].replace(",", ""))
    assert 500_000 < drawn <= 2_000_000 < count
    assert note == f"{drawn:,} of {count:,} points are drawn; all are labelled, counted and downloaded."
    assert sum(int(each.replace(",", "")) for each in page.locator("#legend td:nth-child(2)").all_inner_texts()) == count
