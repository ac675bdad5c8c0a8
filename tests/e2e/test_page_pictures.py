"""The pictures of the README, taken of the page as it is; FIP_PICTURES names the folder that they are kept in (make pictures)."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.fire import until

pytestmark = pytest.mark.e2e

WAIT_MS = 60_000
LARGE, SMALL = {"width": 1280, "height": 800}, {"width": 390, "height": 780}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kept = Path(os.environ.get("FIP_PICTURES", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def opened(browser: Browser, address: str, size: dict[str, int], sample: str) -> Page:
    page = browser.new_page(viewport=size)
    page.goto(address)
    page.wait_for_selector("#model option", state="attached")
    page.click(f"[data-sample='{sample}']")
    page.wait_for_selector("#legend tr, #bars li", timeout=WAIT_MS)
    until(lambda: drawn(page.locator("#canvas").screenshot()) > 0.03, "it is drawn")
    return page


def drawn(png: bytes) -> float:
    """The share of a picture that is not its commonest colour."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    _, counts = np.unique(pixels, axis=0, return_counts=True)
    return 1 - counts.max() / len(pixels)


def test_a_street(browser: Browser, address: str, folder: Path) -> None:
    page = opened(browser, address, LARGE, "street.bin")
    page.focus("#canvas")
    for _ in range(3):
        page.keyboard.press("+")
    page.keyboard.press("Enter")
    page.wait_for_selector("#picking", timeout=WAIT_MS)
    page.wait_for_timeout(500)
    page.screenshot(path=folder / "street.png")
    page.close()


def test_a_chair(browser: Browser, address: str, folder: Path) -> None:
    page = opened(browser, address, LARGE, "chair.ply")
    page.click("summary:has-text('About the model')")
    page.wait_for_selector("#card p")
    page.wait_for_timeout(500)
    page.screenshot(path=folder / "chair.png")
    page.close()


def test_a_telephone(browser: Browser, address: str, folder: Path) -> None:
    page = opened(browser, address, SMALL, "street.bin")
    page.wait_for_timeout(500)
    page.screenshot(path=folder / "small.png")
    page.close()
