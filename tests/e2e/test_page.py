"""The page in a real browser, before a real service: what is on the screen after a real upload, counted in pixels."""

import io
import json
import re
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from models.labels import load_label_map
from service.schemas import SEGMENT_FORMATS
from tests.browser import STREET, WAIT_MS, Launch, hash_of, opened, pixels, sent
from tests.fire import until

pytestmark = pytest.mark.e2e

KEPT_AFTER_MS = 250  # of the page: how long after a change the address tells the view

STREETS = load_label_map("semantickitti19")


def shares(picture: np.ndarray) -> dict[str, float]:
    """Of the pixels that have the colour of a class, how many have that of each."""
    counts = {each.name: int((picture == np.array(each.colour)).all(axis=-1).sum()) for each in STREETS.classes}
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items() if count} if total else {}


def test_a_street_is_seen_in_the_colours_of_its_classes(page: Page) -> None:
    sent(page, STREET)
    assert page.inner_text("#status") == f"{STREET.stat().st_size // 16:,} points labelled"
    rows = {row.split("\t")[0].strip(): row for row in page.inner_text("#legend").split("only") if row.strip()}
    until(lambda: {"building", "road", "sidewalk", "vegetation", "car"} <= set(shares(pixels(page))) & set(rows), "they are seen")
    picture = pixels(page)
    seen = shares(picture)
    background = (picture == (0x10, 0x14, 0x18)).all(axis=-1).mean()
    coloured = sum((picture == np.array(each.colour)).all(axis=-1).mean() for each in STREETS.classes)
    assert coloured + background > 0.999  # nothing between the colours of the palette
    assert 0.25 < seen["building"] < 0.6
    assert 0.05 < seen["road"] < 0.3


def test_classes_are_hidden_and_shown_alone(page: Page) -> None:
    sent(page, STREET)
    page.click("#legend button:has-text('building')")
    until(lambda: (seen := shares(pixels(page))) != {} and "building" not in seen, "it is hidden")
    page.click("[aria-label='show road alone, or all again']")
    until(lambda: set(shares(pixels(page))) == {"road"}, "it is alone")
    page.click("[aria-label='show road alone, or all again']")
    until(lambda: {"road", "building", "car"} <= set(shares(pixels(page))), "all are back")


def test_a_point_is_picked_and_keys_turn_the_cloud(page: Page) -> None:
    sent(page, STREET)
    until(lambda: "building" in shares(pixels(page)), "it is drawn")
    picture = pixels(page)
    places = np.argwhere((picture == np.array(STREETS.classes[12].colour)).all(axis=-1))
    y, x = places[len(places) // 2]
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + float(x), box["y"] + float(y))
    said = dict(zip(*[iter(page.inner_text("#picked").split("\n"))] * 2, strict=True))
    assert said["class"] == "building"
    assert 0 < float(said["confidence"]) <= 1
    assert set(said) == {"class", "confidence", "x", "y", "z", "intensity", "index"}
    page.focus("#canvas")
    for key in ("ArrowLeft", "ArrowUp", "+"):
        page.keyboard.press(key)
    until(lambda: bool((pixels(page) != picture).any()), "it has turned")
    page.keyboard.press("c")
    assert page.input_value("#colour") == "confidence"
    until(lambda: len(shares(pixels(page))) < 5, "its colours are others")
    page.keyboard.press("Escape")
    assert page.is_hidden("#picking")


def test_an_object_gets_its_five_best_classes(page: Page) -> None:
    page.click("[data-sample='chair.ply']")
    page.wait_for_selector("#bars li", timeout=WAIT_MS)
    bars = page.locator("#bars li")
    assert bars.count() == 5
    assert bars.nth(0).inner_text().startswith("chair")
    assert page.is_hidden("#segmented")
    until(lambda: bool((pixels(page) != (0x10, 0x14, 0x18)).any(axis=-1).mean() > 0.02), "it is drawn")


def test_another_model_answers_for_the_same_view(page: Page) -> None:
    sent(page, STREET)
    page.focus("#canvas")
    page.keyboard.press("ArrowLeft")
    read: list[str] = []
    page.on("request", lambda request: read.append(request.url) if "v1/points" in request.url else None)
    view = parse_qs(hash_of(page)[1:])["view"]
    page.select_option("#model", "modelnet40:1")
    page.wait_for_selector("#bars li", timeout=WAIT_MS)
    assert page.is_hidden("#segmented")
    page.select_option("#model", "lidar19:1")
    page.wait_for_selector("#legend tr", timeout=WAIT_MS)
    assert page.is_hidden("#classified")
    assert parse_qs(hash_of(page)[1:])["view"] == view
    assert read == []


def saved(page: Page, button: str) -> tuple[str, bytes]:
    """Name and content of what a button downloads."""
    with page.expect_download() as waiting:
        page.click(button)
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_a_download_is_called_as_its_file_in_any_letters(page: Page, tmp_path: Path) -> None:
    street = tmp_path / "Straße 点云.bin"
    street.write_bytes(STREET.read_bytes())
    sent(page, street)
    page.select_option("#format", "label")
    assert saved(page, "#download")[0] == "Straße 点云.label"


def test_downloads_are_the_answers_of_the_service(page: Page, address: str) -> None:
    sent(page, STREET)
    formats = page.eval_on_selector_all("#format option", "all => all.map(each => each.value)")
    assert set(formats) == set(SEGMENT_FORMATS) - {"npy"}  # which only a file of that kind can become
    for each in formats:
        page.select_option("#format", each)
        name, content = saved(page, "#download")
        direct = httpx.post(
            f"{address}/v1/segment?format={each}", content=STREET.read_bytes(), headers={"X-Filename": "street.bin"}, timeout=60
        )
        said = re.search('filename="([^"]+)"', direct.headers.get("content-disposition", ""))
        assert name == (said[1] if said else f"labelled.{each}")
        if each == "json":
            assert {**json.loads(content), "timings_ms": None} == {**direct.json(), "timings_ms": None}
        else:
            assert content == direct.content, each


def test_it_fits_the_window_and_its_panel(browser: Browser, address: str) -> None:
    for width, height in ((1280, 800), (390, 780)):
        with opened(browser, address, width, height) as page:
            sent(page, STREET)
            page.click("summary:has-text('About the model')")
            assert page.evaluate("() => document.documentElement.scrollHeight") == height
            assert page.evaluate("() => { const all = document.querySelector('aside'); return all.scrollWidth - all.clientWidth; }") == 0


def test_what_was_hidden_hides_no_whole_cloud(page: Page, tmp_path: Path) -> None:
    sent(page, STREET)
    page.click("[aria-label='show fence alone, or all again']")
    until(lambda: set(shares(pixels(page))) == {"fence"}, "the fence is alone")
    ball = np.random.default_rng(0).normal(size=(3000, 3)) * 0.2
    (tmp_path / "ball.xyz").write_text("\n".join(f"{x:.3f} {y:.3f} {z:.3f}" for x, y, z in ball))
    sent(page, tmp_path / "ball.xyz")
    assert "3,000 points labelled; the file has no intensity" in page.inner_text("#status")
    until(lambda: shares(pixels(page)) != {}, "it is seen")


def test_survey_coordinates_keep_their_millimetres(page: Page, tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0, 50, (2000, 3)).round(3) + np.array([447_000, 5_318_000, 500])
    (tmp_path / "survey.xyz").write_text("\n".join(f"{x:.3f} {y:.3f} {z:.3f}" for x, y, z in points))
    page.select_option("#model", "modelnet40:1")
    sent(page, tmp_path / "survey.xyz")
    page.focus("#canvas")
    page.keyboard.press("n")
    said = dict(zip(*[iter(page.inner_text("#picked").split("\n"))] * 2, strict=True))
    assert [float(said[axis]) for axis in "xyz"] == pytest.approx(points[0], abs=5e-4)
    low, high = (float(page.inner_text(f"#{end}")) for end in ("low", "high"))
    assert page.input_value("#colour") == "height"
    assert low == pytest.approx(500.5, abs=1)
    assert high == pytest.approx(549.5, abs=1)


def test_an_object_file_is_classified_first(page: Page, tmp_path: Path) -> None:
    (tmp_path / "thing.off").write_text("OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n")
    sent(page, tmp_path / "thing.off")
    assert page.input_value("#model") == "modelnet40:1"
    assert page.locator("#bars li").count() == 5


def test_a_picture_is_what_is_seen(page: Page) -> None:
    sent(page, STREET)
    until(lambda: "building" in shares(pixels(page)), "it is drawn")
    name, content = saved(page, "#picture")
    assert name == "view.png"
    assert (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) == pixels(page)).all(axis=-1).mean() > 0.99


def test_a_coloured_file_is_seen_in_its_colours(page: Page, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = np.zeros(4000, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("age", "<f8")])
    for axis in "xyz":
        points[axis] = rng.normal(size=len(points))
    points["red"], points["blue"], points["age"] = 255, 40, 12.5
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 4000\nproperty float x\nproperty float y\nproperty float z\n"
    head += "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty double age\nend_header\n"
    (tmp_path / "coloured.ply").write_bytes(head.encode() + points.tobytes())
    page.select_option("#model", "modelnet40:1")
    sent(page, tmp_path / "coloured.ply")
    assert page.input_value("#colour") == "rgb"
    until(lambda: bool((pixels(page) == (255, 0, 40)).all(axis=-1).mean() > 0.05), "it has its colours")
    page.focus("#canvas")
    page.keyboard.press("n")
    said = page.inner_text("#picked")
    assert "255, 0, 40" in said
    assert re.search(r"age\s+12.5", said)


def test_errors_are_said_as_the_service_says_them(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n1\n2\n3\n")
    page.set_input_files("#file", str(tmp_path / "broken.ply"))
    page.wait_for_selector("#error p", timeout=WAIT_MS)
    said = page.inner_text("#error")
    assert "no y, z among the columns" in said
    assert "missing_coordinates" in said
    sent(page, STREET)  # and the next one is answered
    assert page.is_hidden("#error")
    page.set_input_files("#file", str(tmp_path / "broken.ply"))  # of which nothing is shown beneath the name of another
    page.wait_for_selector("#error p", timeout=WAIT_MS)
    assert page.locator("#legend tr").count() == 0
    assert page.is_hidden("#downloads")
    until(lambda: bool((pixels(page) == (0x10, 0x14, 0x18)).all()), "nothing is drawn")


def test_a_link_brings_the_view_back(page: Page, address: str) -> None:
    page.click("[data-sample='street.bin']")
    page.wait_for_selector("#legend tr", timeout=WAIT_MS)
    page.click("#legend button:has-text('vegetation')")
    page.focus("#canvas")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    until(lambda: (seen := shares(pixels(page))) != {} and "vegetation" not in seen, "it is hidden")
    page.locator("#canvas").blur()  # the frame of what has the focus is no part of the view
    before, link = pixels(page), address + "/" + hash_of(page)
    page.goto(f"{address}/#sample=chair.ply")  # another link in the same tab
    page.wait_for_selector("#bars li", timeout=WAIT_MS)
    page.goto(link)
    page.wait_for_selector("#legend tr.hidden", timeout=WAIT_MS)
    until(lambda: bool((pixels(page) != before).any(axis=-1).mean() < 0.01), "it is the same view")


def test_a_link_that_is_being_followed_is_not_written_over(page: Page) -> None:
    page.click("[data-sample='chair.ply']")
    page.wait_for_selector("#bars li", timeout=WAIT_MS)
    until(lambda: "sample=chair.ply" in page.evaluate("location.hash"), "the address tells the view")
    page.evaluate("history.replaceState(null, '', '#sample=street.bin')")  # as the address is before the page hears of it
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(4 * KEPT_AFTER_MS)
    assert page.evaluate("location.hash") == "#sample=street.bin"


def test_without_webgl_it_says_so_and_labels_all_the_same(launch: Launch, address: str) -> None:
    blind = launch("--disable-gpu", "--disable-3d-apis")
    page = blind.new_page()
    page.goto(address)
    page.wait_for_selector("#model option", state="attached")
    assert page.is_visible("#no-webgl")
    sent(page, STREET)
    assert "building" in page.inner_text("#legend")
    blind.close()
