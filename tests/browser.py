"""A real Chromium before the page of a real service: how it is started, and what tests look at and do in it."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from service.routes.page import BUILT

CHROMIUM = next((path for path in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if path.exists()), None)
FLAGS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
WAIT_MS = 60_000
KEPT_MS = 400
STREET = BUILT / "street.bin"
CHAIR = BUILT / "chair.ply"
AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
RUN_AXE = "() => axe.run(document, {rules: {'target-size': {enabled: true}}})"
Launch = Callable[..., Browser]


@contextmanager
def chromium() -> Iterator[Launch]:
    """Starts browsers with the flags that it is given. Raises: FileNotFoundError."""
    if CHROMIUM is None:
        raise FileNotFoundError("no Chromium: apt-get install chromium")
    with sync_playwright() as started:
        yield lambda *flags: started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", *flags])


@contextmanager
def opened(browser: Browser, address: str, width: int = 1280, height: int = 800, **context: object) -> Iterator[Page]:
    """The page in a context of its own, with its models listed. Afterwards: nothing went wrong in it, and it asked nobody else."""
    within = browser.new_context(viewport={"width": width, "height": height}, **context)
    page = within.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((address.partition("#")[0], "blob:")) else wrong.append(request.url))
    page.goto(address)
    try:
        page.wait_for_selector("#model option, #error p", state="attached")
        yield page
    finally:
        within.close()
    assert wrong == []


def hash_of(page: Page) -> str:
    """What the address keeps of the view, a moment after it was changed."""
    page.wait_for_timeout(KEPT_MS)
    return str(page.evaluate("() => location.hash"))


def sent(page: Page, path: Path) -> None:
    """Once it is answered."""
    page.set_input_files("#file", str(path))
    answered(page)


def answered(page: Page) -> None:
    page.wait_for_selector("#legend tr, #bars li", timeout=WAIT_MS)


def pixels(page: Page) -> np.ndarray:
    """(H, W, 3) of the cloud."""
    shot = Image.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB")
    return np.asarray(shot)


def barriers(page: Page) -> list[str]:
    """What axe-core finds that keeps people out: how bad, which rule, where. The page's context has to bypass its policy."""
    if not page.evaluate("() => 'axe' in window"):
        page.add_script_tag(content=AXE)
    found = page.evaluate(RUN_AXE)["violations"]
    return [f"{each['impact']} {each['id']}: {[node['target'] for node in each['nodes']]}" for each in found]
