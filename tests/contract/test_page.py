"""GET / and what it is made of: nothing of it comes from elsewhere, and its policy lets nothing else in."""

import gzip
import re
from collections.abc import Iterator

import httpx
import pytest

from service.app import create_app
from service.routes.page import FILES
from service.settings import Settings
from tests.contract.conftest import Serve

LARGEST_SCRIPTS = 500_000  # bytes, gzip


@pytest.fixture(scope="module")
def client(serve: Serve, tiny_settings: Settings) -> Iterator[httpx.Client]:
    with serve(create_app(tiny_settings)) as client:
        yield client


def test_the_page_names_only_files_of_this_service(client: httpx.Client) -> None:
    page = client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"ui/page.js", "ui/page.css", "ui/icon.svg"} <= set(named)
    for each in named:
        assert client.get(f"/{each}").status_code == 200, each
    assert not re.search(r"https?://", page.text)
    assert "<script>" not in page.text
    assert " style=" not in page.text


@pytest.mark.parametrize("path", ["/", *(f"/ui/{name}" for name in FILES)])
def test_its_policy_is_strict(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert not {"*", "'unsafe-eval'", "'unsafe-inline'"} & set(" ".join(policy.values()).split())
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_scripts_are_small(client: httpx.Client) -> None:
    scripts = [client.get(f"/ui/{name}").content for name in FILES if name.endswith(".js")]
    assert 0 < sum(len(gzip.compress(each)) for each in scripts) < LARGEST_SCRIPTS


def test_the_licence_of_what_is_built_in_lies_beside_it(client: httpx.Client) -> None:
    assert "three.LICENSE.txt" in client.get("/ui/page.js").text[:200]
    assert "The MIT License" in client.get("/ui/three.LICENSE.txt").text


def test_what_is_not_there(client: httpx.Client) -> None:
    for path in ("/ui/", "/ui/nothing.js", "/ui/../app.py", "/ui/%2e%2e/app.py"):
        assert client.get(path).status_code == 404
