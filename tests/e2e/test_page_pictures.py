"""The pictures of the README, taken of the page as it is; FIP_PICTURES names the folder that they are kept in (make pictures)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from tests.browser import answered, opened, pixels
from tests.fire import until

pytestmark = pytest.mark.e2e

LARGE, SMALL = (1280, 800), (390, 780)
REST_MS = 600


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kept = Path(os.environ.get("FIP_PICTURES", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    return kept


@contextmanager
def with_sample(browser: Browser, address: str, size: tuple[int, int], sample: str) -> Iterator[Page]:
    with opened(browser, address, *size) as page:
        page.click(f"[data-sample='{sample}']")
        answered(page)
        until(lambda: drawn(page) > 0.03, "it is drawn")
        yield page


def drawn(page: Page) -> float:
    """The share of the cloud's picture that is not its commonest colour."""
    found = pixels(page).reshape(-1, 3)
    return float(1 - np.unique(found, axis=0, return_counts=True)[1].max() / len(found))


def test_a_street_by_class(browser: Browser, address: str, folder: Path) -> None:
    with with_sample(browser, address, LARGE, "street.bin") as page:
        page.focus("#canvas")
        for _ in range(3):
            page.keyboard.press("+")
        page.keyboard.press("Enter")
        page.wait_for_selector("#picking")
        page.locator("#canvas").blur()
        page.wait_for_timeout(REST_MS)
        page.screenshot(path=folder / "street.png")
        assert drawn(page) > 0.1


def test_a_chair_and_the_model(browser: Browser, address: str, folder: Path) -> None:
    with with_sample(browser, address, LARGE, "chair.ply") as page:
        page.click("summary:has-text('About the model')")
        page.wait_for_selector("#card p")
        page.locator("#bars").scroll_into_view_if_needed()
        page.wait_for_timeout(REST_MS)
        page.screenshot(path=folder / "chair.png")


def test_a_telephone(browser: Browser, address: str, folder: Path) -> None:
    with with_sample(browser, address, SMALL, "street.bin") as page:
        page.wait_for_timeout(REST_MS)
        page.screenshot(path=folder / "telephone.png")
