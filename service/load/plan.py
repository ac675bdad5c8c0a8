"""What a load is: which bodies go where, when, and what some of the clients do wrong. Frozen data, checked when it is made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from models.errors import BadOption

Arrivals = Literal["poisson", "even"]
ARRIVALS: tuple[str, ...] = get_args(Arrivals)
MAX_REQUESTS = 10_000_000  # their schedule is made beforehand and kept in memory


@dataclass(frozen=True)
class Body:
    """A file to send. name goes along as X-Filename; weight: its share among the bodies of a plan, which need not add up to one."""

    name: str
    data: bytes = field(repr=False)
    weight: float = 1.0


@dataclass(frozen=True)
class LoadPlan:
    """One run. Open loop: requests are due at moments drawn beforehand, at `rate` a second, or `ramp` (from, to) linearly over the
    duration, whether or not earlier ones are answered. Closed loop: `clients` that each wait for an answer before they ask again.

    malformed, disconnect: shares of requests whose body is damaged, and whose client leaves before the answer.
    timeout_s: sent as X-Request-Timeout. connections: most that are open at once; a request that finds none waits, and is late.
    patience_s: how long after it was due a request is given up. key: sent as a Bearer token; it stands in no report.
    Raises: BadOption, where = the name of the field.
    """

    url: str
    bodies: tuple[Body, ...]
    path: str = "/v1/classify"
    query: Mapping[str, str] = field(default_factory=dict)
    arrivals: Arrivals = "poisson"
    rate: float | None = None
    ramp: tuple[float, float] | None = None
    duration_s: float = 30.0
    seed: int = 0
    disconnect: float = 0.0
    malformed: float = 0.0
    timeout_s: float | None = None
    connections: int = 512
    clients: int | None = None
    patience_s: float = 60.0
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _require(self.url.startswith(("http://", "https://")), "url", f"{self.url!r} does not begin with http:// or https://")
        _require(len(self.bodies) > 0, "bodies", "there is nothing to send")
        _require(all(_positive(body.weight) for body in self.bodies), "bodies", "a weight is not a number above 0")
        pace = [name for name in ("rate", "ramp", "clients") if getattr(self, name) is not None]
        _require(len(pace) == 1, "rate", f"one of rate, ramp and clients sets the pace, not {' and '.join(pace) or 'none of them'}")
        _require(self.rate is None or _positive(self.rate), "rate", f"{self.rate} is not a number of requests a second")
        _require(self.ramp is None or _is_ramp(*self.ramp), "ramp", f"{self.ramp} are not two rates, at least one of them above 0")
        _require(self.arrivals in ARRIVALS, "arrivals", f"{self.arrivals!r} is unknown", ARRIVALS)
        for name in ("duration_s", "patience_s", "connections"):
            _require(_positive(getattr(self, name)), name, f"{getattr(self, name)} is not above 0")
        for name in ("timeout_s", "clients"):
            value = getattr(self, name)
            _require(value is None or _positive(value), name, f"{value} is not above 0")
        for name in ("disconnect", "malformed"):
            _require(0 <= getattr(self, name) <= 1, name, f"{getattr(self, name)} is not a share between 0 and 1")
        _require(self.disconnect + self.malformed <= 1, "malformed", "more than all clients would disconnect or send damaged bodies")
        _require(self.expected_requests <= MAX_REQUESTS, "duration_s", f"more than {MAX_REQUESTS:,} requests")

    @property
    def start_rate(self) -> float:
        """Requests a second when the run begins; 0 in a closed loop."""
        return self.ramp[0] if self.ramp else self.rate or 0.0

    @property
    def end_rate(self) -> float:
        return self.ramp[1] if self.ramp else self.rate or 0.0

    @property
    def expected_requests(self) -> float:
        """The integral of the rate over the duration; 0 in a closed loop."""
        return (self.start_rate + self.end_rate) / 2 * self.duration_s


def _require(holds: bool, where: str, message: str, known: tuple[str, ...] = ()) -> None:
    if not holds:
        raise BadOption(message, where=where, known=known)


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _is_ramp(start: float, end: float) -> bool:
    return math.isfinite(start) and math.isfinite(end) and min(start, end) >= 0 and max(start, end) > 0
