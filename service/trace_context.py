"""W3C Trace Context: the headers `traceparent` and `tracestate`, read and written. Pure.

Source: https://www.w3.org/TR/trace-context-2/, sections 3.2 and 3.3.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

SAMPLED, RANDOM = 0x01, 0x02  # the flags that the standard knows; others are not passed on
TRACESTATE_CHARACTERS = 512

# version, trace id, span id, flags, and what only a future version may append
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
_PRINTABLE = re.compile(r"[ -~]+")


@dataclass(frozen=True)
class TraceParent:
    """trace_id: 32, span_id: 16 lower-case hex digits, neither all zero; flags: of SAMPLED and RANDOM."""

    trace_id: str
    span_id: str
    flags: int

    @property
    def sampled(self) -> bool:
        return bool(self.flags & SAMPLED)


def parse_traceparent(header: str) -> TraceParent | None:
    """The caller's span; None for anything the standard tells to ignore. Versions after 00 are read as 00."""
    match = _TRACEPARENT.fullmatch(header.strip(" \t"))
    if match is None:
        return None
    version, trace_id, span_id, flags, appended = match.groups()
    if version == "ff" or (version == "00" and appended) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceParent(trace_id, span_id, int(flags, 16) & (SAMPLED | RANDOM))


def format_traceparent(parent: TraceParent) -> str:
    """The header, in version 00."""
    return f"00-{parent.trace_id}-{parent.span_id}-{parent.flags:02x}"


def join_tracestate(headers: Sequence[str]) -> str | None:
    """The vendors' own list as it came, several headers joined; None where there is none, or more than 512 characters, or others than
    printable ASCII.
    """
    text = ",".join(headers)
    return text if len(text) <= TRACESTATE_CHARACTERS and _PRINTABLE.fullmatch(text) else None
