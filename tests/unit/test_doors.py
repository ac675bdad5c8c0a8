"""Whose name and whose page a request may come by, and where a service may listen without keys."""

from pathlib import Path

import pytest

from models.errors import BadOption
from service.auth.access import needed
from service.auth.doors import Doors, check_reach
from service.errors import ForeignHost, ForeignOrigin
from service.settings import Settings

LOCAL = ["localhost", "LOCALHOST:8000", "fip.localhost:1", "localhost.", "127.0.0.1:8000", "127.8.9.1", "[::1]:8000", "[::1]"]
LOCAL += ["[::ffff:127.0.0.1]"]
FOREIGN = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", "@localhost:", "localhost@evil.example"]
FOREIGN += ["", "[::1", "\xff", "0.0.0.0", "2130706433", "localhost:x@evil", "localhost, localhost"]
EVIL = ["https://evil.example", "null", "http://localhost:3000", "http://localhost", "https://fip.example.evil.example", "x"]


def admits(doors: Doors, host: str | None, *, method: str = "GET", path: str = "/v1/models", origin: str | None = None) -> str:
    values = [[] if each is None else [each.encode("latin-1")] for each in (host, origin)]
    try:
        doors.check(method, path, *values)
    except (ForeignHost, ForeignOrigin) as error:
        return error.code
    return "yes"


def settings(**given: object) -> Settings:
    return Settings.model_validate(given)


@pytest.mark.parametrize("host", LOCAL)
def test_names_of_this_machine(host: str) -> None:
    assert admits(Doors(settings()), host) == "yes"


@pytest.mark.parametrize("host", FOREIGN)
def test_other_names_on_loopback_without_keys(host: str) -> None:
    assert admits(Doors(settings()), host) == "foreign_host"
    assert admits(Doors(settings()), host, path="/health/live") == "yes"


def test_names_that_are_listed(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text('{"keys": []}')
    behind_a_proxy = Doors(settings(hosts="fip.example, Other.Example"))
    assert [admits(behind_a_proxy, host) for host in ("FIP.example:443", "other.example", "localhost")] == ["yes"] * 3
    assert admits(behind_a_proxy, "evil.example") == "foreign_host"
    assert admits(Doors(settings(keys=str(tmp_path / "keys.json"))), "evil.example") == "yes"
    assert admits(Doors(settings(keys=str(tmp_path / "keys.json"), hosts="fip.example")), "evil.example") == "foreign_host"
    assert admits(Doors(settings(host="0.0.0.0", allow_anonymous=True)), "any.example") == "yes"
    assert admits(Doors(settings(host="0.0.0.0", allow_anonymous=True, hosts="fip")), "evil.example") == "foreign_host"
    assert admits(Doors(settings(host="box", allow_anonymous=True)), "box:8000") == "yes"
    assert admits(Doors(settings(host="box", allow_anonymous=True)), "evil.example") == "foreign_host"
    assert admits(Doors(settings()), None) == "yes"  # every browser says one


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_pages_of_other_sites_change_nothing(method: str) -> None:
    doors = Doors(settings(hosts="fip.example, box.example:8443"))
    assert admits(doors, "localhost:8000", method=method, origin="https://box.example:8443") == "yes"
    assert admits(doors, "box.example:8443", method=method, origin="https://box.example") == "foreign_origin"
    for origin in (*EVIL, "", "https://fip.example:9999"):
        assert admits(doors, "localhost:8000", method=method, origin=origin) == "foreign_origin", origin
    for origin in ("http://localhost:8000", "https://LOCALHOST:8000", "https://fip.example"):
        assert admits(doors, "localhost:8000", method=method, origin=origin) == "yes", origin
    assert admits(doors, "localhost:8000", origin="https://evil.example") == "yes"  # who may not read the answer
    assert admits(doors, None, method=method, origin="http://localhost") == "foreign_origin"


@pytest.mark.parametrize("addresses", [["0.0.0.0"], ["::"], ["127.0.0.1", "10.1.2.3"], ["192.168.0.1"], ["::1", "fe80::1%eth0"]])
def test_where_others_can_ask_there_are_keys(addresses: list[str], tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"FIP_KEYS .* FIP_ALLOW_ANONYMOUS"):
        check_reach(addresses, settings())
    check_reach(addresses, settings(allow_anonymous=True))
    (tmp_path / "keys.json").write_text('{"keys": []}')
    check_reach(addresses, settings(keys=str(tmp_path / "keys.json")))


def test_this_machine_needs_none() -> None:
    check_reach(["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"], settings())


TABLE = {
    ("GET", "/health/live"): None,
    ("HEAD", "/health/ready"): None,
    ("GET", "/v2/health/ready"): None,
    ("GET", "/v2"): None,
    ("GET", "/"): None,
    ("GET", "/docs"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/static-offline-docs/swagger-ui.css"): None,
    ("POST", "/health/live"): "infer",
    ("POST", "/v2"): "infer",
    ("GET", "/metrics"): "metrics",
    ("POST", "/metrics"): "metrics",
    ("GET", "/metrics/"): "infer",
    ("GET", "/v1/models"): "infer",
    ("GET", "/v1/models/a"): "infer",
    ("PUT", "/v1/models/a/aliases/champion"): "admin",
    ("DELETE", "/v1/models"): "admin",
    ("OPTIONS", "/v1/models/a"): "admin",
    ("POST", "/v1/modelsx"): "infer",
    ("POST", "/v2/repository/index"): "admin",
    ("POST", "/v2/repository/models/a/load"): "admin",
    ("GET", "/v2/repository/index"): "infer",
    ("GET", "/v2/models/a"): "infer",
    ("POST", "/v2/models/a/infer"): "infer",
    ("POST", "/v1/classify"): "infer",
    ("POST", "/v1/jobs"): "infer",
    ("GET", "/health/../v1/models"): "infer",
    ("GET", "/health/"): "infer",
    ("GET", "//metrics"): "infer",
    ("GET", "/anything"): "infer",
}


@pytest.mark.parametrize(("asked", "scope"), TABLE.items())
def test_who_may_what(asked: tuple[str, str], scope: str | None) -> None:
    assert needed(*asked) == scope
