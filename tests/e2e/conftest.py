"""One service and one browser for each module that looks at the page."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.bench.service.process import service
from tests.browser import CHROMIUM, FLAGS, Launch, chromium, opened


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with service() as running:
        yield running.url


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with chromium() as launch:
        yield launch


@pytest.fixture(scope="module")
def browser(launch: Launch) -> Browser:
    return launch(*FLAGS)


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with opened(browser, address) as page:
        yield page
