"""The page for everybody: by axe-core, with the keyboard alone, with a finger on a small screen, and for eyes that see fewer colours."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from playwright.sync_api import Browser, FileChooser, Page

from models.labels import load_label_map
from tests.browser import CHAIR, STREET, answered, barriers, hash_of, opened, pixels, sent
from tests.fire import until

pytestmark = pytest.mark.e2e

PALETTE = np.array([each.colour for each in load_label_map("semantickitti19").classes])
BACKGROUND = (0x10, 0x14, 0x18)
BROKEN = b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n1\n2\n3\n"
SMALL = ((360, 640), (768, 1024))
# Linear RGB without long, and without medium cones (Machado et al. 2009), and OKLab (Ottosson 2020).
SEEN_AS = np.array(
    [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ]
)
CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566], [0.0883024619, 0.2817188376, 0.6299787005]]
)
LAB = np.array(
    [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099], [0.0259040371, 0.7827717662, -0.808675766]]
)


@pytest.fixture(scope="module")
def looked_at(browser: Browser, address: str) -> Iterator[Page]:
    """A page that axe may be put into."""
    with opened(browser, address, bypass_csp=True) as page:
        yield page


def test_axe_finds_nothing_in_any_state(looked_at: Page, tmp_path: Path) -> None:
    page = looked_at
    found = {"empty": barriers(page)}
    sent(page, STREET)
    page.focus("#canvas")
    page.keyboard.press("n")
    page.keyboard.press("?")
    page.click("summary:has-text('About the model')")
    page.click("summary:has-text('What only you know')")
    page.click("#legend button >> nth=0")
    found["segmented"] = barriers(page)
    page.set_viewport_size({"width": 360, "height": 640})
    found["segmented, small"] = barriers(page)
    (tmp_path / "broken.ply").write_bytes(BROKEN)
    page.set_input_files("#file", str(tmp_path / "broken.ply"))
    page.wait_for_selector("#error p")
    found["an error, small"] = barriers(page)
    page.set_viewport_size({"width": 1280, "height": 800})
    found["an error"] = barriers(page)
    page.click("[data-sample='chair.ply']")
    page.wait_for_selector("#bars li")
    found["classified"] = barriers(page)
    assert not any(found.values()), found


def test_words_on_the_cloud_are_read_on_any_background(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/#background=%23ffffff") as page:
        assert page.input_value("#background") == "#ffffff"
        words = pixels(page)
        assert bool((words == BACKGROUND).all(axis=-1).mean() > 0.9)  # light words, as the style says
        sent(page, STREET)
        until(lambda: bool((pixels(page) == 255).all(axis=-1).mean() > 0.5), "the cloud has it")


def focused(page: Page) -> str:
    """What has the focus; it has to be seen."""
    name, outline = page.evaluate(
        """() => {
            const at = document.activeElement, seen = at.id === 'file' ? document.querySelector('.drop') : at;
            const {outlineStyle, outlineWidth} = getComputedStyle(seen);
            if (at === document.body) return ['', true];
            return [at.id || at.dataset.sample || at.textContent, outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2];
        }"""
    )
    assert outline, f"no focus is seen on {name}"
    return str(name)


def tab_to(page: Page, name: str) -> None:
    for _ in range(80):
        page.keyboard.press("Tab")
        if focused(page) == name:
            return
    raise AssertionError(f"the tab key does not get to {name}")


def test_everything_is_reached_by_the_tab_key_and_seen(page: Page) -> None:
    sent(page, STREET)
    reached: list[str] = []
    for _ in range(80):  # once around, from wherever it is
        page.keyboard.press("Tab")
        if (name := focused(page)) in reached:
            break
        reached.append(name)
    named = "canvas file street.bin chair.ply model run colour size background safe fit picture link help-title format download"
    assert set(named.split()) <= set(reached)
    assert sum(each.startswith("class-") for each in reached) == sum(each.startswith("only-") for each in reached) > 5


def test_the_keyboard_alone_does_it_all(page: Page) -> None:
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))  # early: it takes a moment until they are caught
    tab_to(page, "file")
    page.keyboard.press("Space")
    until(lambda: page.inner_text("#status") == "" and len(choosers) == 1, "a file is asked for")
    choosers[0].set_files(str(CHAIR))
    until(lambda: page.inner_text("#status").startswith("2,600 points labelled"), "it is answered")
    tab_to(page, "street.bin")
    page.keyboard.press("Enter")
    until(lambda: page.inner_text("#status") == "45,100 points labelled", "the other one too")
    tab_to(page, "class-12")
    page.keyboard.press("Space")
    assert page.get_attribute("#class-12", "aria-pressed") == "false"
    tab_to(page, "only-12")
    page.keyboard.press("Enter")
    assert focused(page) == "only-12"
    assert page.locator("#legend tr:not(.hidden)").count() == 1
    page.keyboard.press("Enter")
    assert page.locator("#legend tr.hidden").count() == 0
    tab_to(page, "colour")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#colour") == "confidence"
    tab_to(page, "size")
    before = float(page.input_value("#size"))
    page.keyboard.press("ArrowRight")
    assert float(page.input_value("#size")) == before + 0.5
    tab_to(page, "safe")
    page.keyboard.press("Space")
    assert page.is_checked("#safe")
    tab_to(page, "picture")
    with page.expect_download() as picture:
        page.keyboard.press("Enter")
    assert picture.value.suggested_filename == "view.png"
    tab_to(page, "link")
    page.keyboard.press("Enter")
    until(lambda: "the link is" in page.inner_text("#status"), "the link is there")
    tab_to(page, "download")
    with page.expect_download() as labelled:
        page.keyboard.press("Enter")
    assert labelled.value.suggested_filename == "street.label"


def test_keys_turn_move_and_pick(page: Page) -> None:
    sent(page, STREET)
    tab_to(page, "canvas")
    views = [hash_of(page)]
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowRight", "Shift+ArrowDown", "+", "-", "f", "]", "b"):
        page.keyboard.press(key)
        views.append(hash_of(page))
    assert all(a != b for a, b in itertools.pairwise(views))  # each did something
    assert "background=%23000000" in views[-1]
    page.keyboard.press("b")
    until(lambda: bool((pixels(page) == 0x80).all(axis=-1).mean() > 0.3), "the background is grey")

    points = []
    for key in ("n", "n", "Shift+N", "p"):
        page.keyboard.press(key)
        points.append(page.inner_text("#picked dd:last-of-type"))
    assert points == ["0 of 45,100", "1 of 45,100", "453 of 45,100", "452 of 45,100"]
    assert page.is_visible("#mark")
    page.keyboard.press("Escape")
    assert page.is_hidden("#picking")
    assert page.is_hidden("#mark")
    page.keyboard.press("Enter")  # what is in the middle, or that there is nothing
    assert page.is_visible("#picking") or "in the middle" in page.inner_text("#status")
    page.keyboard.press("?")
    assert focused(page) == "help-title"
    assert "turn" in page.inner_text("#keys")


@pytest.mark.parametrize(("width", "height"), SMALL)
def test_small_screens(browser: Browser, address: str, width: int, height: int) -> None:
    with opened(browser, address, width, height, has_touch=True, is_mobile=True) as page:
        page.tap("[data-sample='street.bin']")
        answered(page)
        status = page.locator("#status").bounding_box()  # what came of it is in sight
        assert status is not None
        assert status["y"] + status["height"] <= height
        wide = page.evaluate("() => [document.documentElement, document.querySelector('aside')].map((each) => each.scrollWidth)")
        assert wide == [width, width]
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        assert box["width"] == width
        assert 0.4 * height < box["height"] < 0.7 * height
        until(lambda: bool((pixels(page) != BACKGROUND).any(axis=-1).mean() > 0.05), "it is drawn")
        before, place = pixels(page), page.url
        swipe(page, (box["width"] * 0.3, box["height"] / 2), (box["width"] * 0.6, box["height"] / 2))
        until(lambda: bool((pixels(page) != before).any(axis=-1).mean() > 0.02) and page.url != place, "a finger has turned it")
        ys, xs = np.nonzero((pixels(page) == PALETTE[12]).all(axis=-1))
        scale = pixels(page).shape[1] / width
        page.touchscreen.tap(float(xs[len(xs) // 2]) / scale, float(ys[len(ys) // 2]) / scale)
        assert page.is_visible("#picking")
        page.tap("#fit")  # scrolled to, and usable
        page.tap("#legend button >> nth=0")
        assert page.locator("#legend tr.hidden").count() == 1


def swipe(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """With one finger."""
    touch = page.context.new_cdp_session(page)
    steps = [{"x": start[0] + (end[0] - start[0]) * k / 8, "y": start[1] + (end[1] - start[1]) * k / 8} for k in range(9)]
    for k, at in enumerate(steps):
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove" if k else "touchStart", "touchPoints": [at]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def nearest(colours: np.ndarray) -> float:
    """(K, 3) bytes: the distance in OKLab of the two that somebody without red, without green or with full sight tells apart the worst."""
    parts = colours / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    distances = []
    for matrix in SEEN_AS:
        lab = np.cbrt((linear @ matrix.T).clip(0, 1) @ CONES.T) @ LAB.T
        distances += [float(np.linalg.norm(a - b)) for a, b in itertools.combinations(lab, 2)]
    return min(distances)


def swatches(page: Page) -> np.ndarray:
    said = page.eval_on_selector_all("#legend .swatch", "all => all.map(each => getComputedStyle(each).backgroundColor)")
    return np.array([[int(part) for part in each[4:-1].split(",")] for each in said])


def test_colours_for_the_colour_blind(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        sent(page, STREET)
        own = swatches(page)
        page.check("#safe")
        safe = swatches(page)
        assert len(safe) == len(own) > 7
        assert nearest(PALETTE) < 0.01
        assert nearest(safe) > 0.08
        until(lambda: bool((pixels(page) == safe[0]).all(axis=-1).mean() > 0.02), "the cloud has them")
        assert {tuple(each) for each in np.unique(pixels(page).reshape(-1, 3), axis=0)} <= {tuple(each) for each in safe} | {BACKGROUND}
        link = address + "/" + hash_of(page)
        page.reload()
        page.wait_for_selector("#model option", state="attached")
        assert page.is_checked("#safe")
    with opened(browser, link) as page:  # somebody else's browser
        assert page.is_checked("#safe")
        page.uncheck("#safe")
        sent(page, STREET)
        assert (swatches(page) == own).all()


def test_ramps_are_even_in_brightness(page: Page) -> None:
    """Height and confidence are drawn in viridis, as matplotlib has it."""
    sent(page, STREET)
    viridis = np.array(matplotlib.colormaps["viridis"].colors) * 255  # type: ignore[attr-defined]
    for mode in ("height", "confidence", "intensity"):
        before = pixels(page)
        page.select_option("#colour", mode)
        until(lambda before=before: bool((pixels(page) != before).any()), "it is in other colours")  # type: ignore[misc]
        picture = pixels(page)
        drawn = np.unique(picture[(picture != BACKGROUND).any(axis=-1)], axis=0).astype(float)
        assert len(drawn) > 100
        assert np.abs(drawn[:, None] - viridis).max(axis=-1).min(axis=1).max() < 16  # nine places of it, and straight between them
