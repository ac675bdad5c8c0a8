"""A Chromium without a window, as tests and benchmarks of the page start it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = next((path for path in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if path.exists()), None)
SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
Launch = Callable[..., Browser]


@contextmanager
def chromium() -> Iterator[Launch]:
    """Starts browsers with the flags that it is given. Raises: FileNotFoundError."""
    if CHROMIUM is None:
        raise FileNotFoundError("no Chromium: apt-get install chromium")
    with sync_playwright() as started:
        yield lambda *flags: started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", *flags])
