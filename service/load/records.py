"""What happened to each request of a run."""

from dataclasses import asdict, dataclass
from typing import Literal

from service.load.plan import LoadPlan
from service.load.summary import Summary, is_right, summarize

Kind = Literal["whole", "malformed", "disconnected"]
WHOLE: Kind = "whole"
MALFORMED: Kind = "malformed"
DISCONNECTED: Kind = "disconnected"


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Moments are seconds from the start of the run; None is what never came.

    scheduled_s: when it was due (in a closed loop, when it was sent); done_s: when the answer was whole, the client left, or the
    attempt failed. status: 0 without an answer. code: of a problem document. damage: how a malformed body was damaged.
    kind "disconnected" is a client that means to leave; it has a status if the answer came before that. error: why there is no answer:
    the name of an exception, "timeout" (the client's own patience) or "interrupted" (the run was ended).
    readable: false where a 2xx is not what /v1/classify answers with.
    """

    request_id: str
    scheduled_s: float
    sent_s: float | None
    first_byte_s: float | None
    done_s: float
    status: int
    code: str | None
    body: str
    kind: Kind
    damage: str | None = None
    retry_after_s: float | None = None
    server_timing: str | None = None
    error: str | None = None
    readable: bool = True

    @property
    def accepted(self) -> bool:
        """Answered with 2xx, and with what was asked for as far as that is looked at."""
        return 200 <= self.status < 300 and self.readable

    @property
    def latency_s(self) -> float:
        """From the moment it was due: a client that was held up itself must not hide it."""
        return self.done_s - self.scheduled_s


@dataclass(frozen=True)
class LoadResult:
    """records: in the order in which they ended. elapsed_s: until the last of them did; sending_s: how long requests were sent;
    peak_connections: most that were used at once.
    """

    plan: LoadPlan
    records: tuple[Record, ...]
    elapsed_s: float
    sending_s: float
    interrupted: bool = False
    peak_connections: int = 0

    @property
    def any_right(self) -> bool:
        """Whether any file was answered rightly; where only damaged ones were sent, or clients left, any of those."""
        return any(is_right(record) for record in [each for each in self.records if each.kind == WHOLE] or self.records)

    def summary(self, goodput_ms: float | None = None) -> Summary:
        """See `service.load.summary.summarize`."""
        return summarize(self, goodput_ms)

    def rows(self) -> list[dict[str, object]]:
        """The records as JSON has them."""
        return [asdict(record) for record in self.records]
