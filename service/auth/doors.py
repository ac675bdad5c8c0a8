"""What a browser must not be used for: it sends whatever a page asks it to, from inside, to whoever listens there.

No answer ever permits another site to read it. A request that another site makes changes nothing, and a name that was made to point
at this machine is not taken for its own.
"""

import ipaddress
import re
from collections.abc import Iterable

from models.errors import BadOption
from service.errors import ForeignHost, ForeignOrigin
from service.settings import Settings

HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::[0-9]{0,5})?")
HARMLESS = ("GET", "HEAD")
ANY_HOST = ("/health/", "/v2/health/")  # asked by machines, under whatever name or address they know


class Doors:
    """The checks of Host and Origin. Without keys everybody in reach may ask, and only the name that they use tells a page of another
    site from them; with keys, names are checked if FIP_HOSTS lists them.
    """

    def __init__(self, settings: Settings) -> None:
        self._sites = frozenset(name.encode() for name in listed_hosts(settings.hosts))
        self._own = {_name_of(site) for site in self._sites} | {settings.host.lower()}
        self._check_hosts = bool(self._sites) or (settings.keys is None and not _is_public(settings.host))

    def check(self, method: str, path: str, hosts: list[bytes], origins: list[bytes]) -> None:
        """hosts, origins: the values of these headers. Raises: ForeignHost, ForeignOrigin."""
        if self._check_hosts and not path.startswith(ANY_HOST):
            for host in hosts:
                self._check_host(host)
        if origins and method not in HARMLESS:
            for origin in origins:
                self._check_origin(origin, hosts)

    def _check_host(self, host: bytes) -> None:
        name = _name_of(host)
        if name not in self._own and not is_loopback_name(name):
            raise ForeignHost("this service does not answer under that name; FIP_HOSTS lists those it should", where="Host")

    def _check_origin(self, origin: bytes, hosts: list[bytes]) -> None:
        """A proxy may have put another Host in the place of the one that the browser used: that one has to be listed."""
        _, separator, site = origin.lower().partition(b"://")
        if not separator or ([site] != [host.lower() for host in hosts] and site not in self._sites):
            raise ForeignOrigin("a page of another site asked for this; only what it may see anyway is answered", where="Origin")


def listed_hosts(text: str | None) -> list[str]:
    """The names of FIP_HOSTS, in lower case, each with its port if that is said."""
    return [name.strip().lower() for name in (text or "").split(",") if name.strip()]


def check_reach(addresses: Iterable[str], settings: Settings) -> None:
    """Before anybody is let in. addresses: those that are listened on. Raises: BadOption (others can reach them, and nobody has a key)."""
    public = sorted({address for address in addresses if not _is_loopback(address)})
    if public and settings.keys is None and not settings.allow_anonymous:
        raise BadOption(
            f"{', '.join(public)} can be reached from other machines, and there are no keys: name a file of keys in FIP_KEYS "
            "(fip keys new makes one), listen on 127.0.0.1, or set FIP_ALLOW_ANONYMOUS=true",
            where="host",
        )


def is_loopback_name(name: str) -> bool:
    """localhost, a name under it, or an address that only this machine has."""
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_public(host: str) -> bool:
    """Whether it is an address that others can reach. A name is not: it is checked where it is listened on (`check_reach`)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return not host
    return not _is_loopback(host)


def _name_of(host: bytes) -> str:
    """Without port, brackets and the dot that ends a full name, in lower case; empty of what is no host."""
    found = HOST.fullmatch(host)
    return (found[1] or found[2]).decode().lower().rstrip(".") if found else ""
