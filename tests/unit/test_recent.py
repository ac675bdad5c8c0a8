"""What is remembered of the registry, and for how long."""

import time
from typing import cast

from service.pool import Live
from service.recent import MOST, Recent

TINY, OTHER = cast(Live, "tiny"), cast(Live, "other")


def test_each_task_and_reference_for_a_moment() -> None:
    recent = Recent(0.05)
    recent.keep(None, "classify", TINY)
    recent.keep("tiny", "classify", OTHER)
    assert (recent.get(None, "classify"), recent.get("tiny", "classify")) == (TINY, OTHER)
    assert recent.get(None, "segment") is None
    time.sleep(0.06)
    assert recent.get(None, "classify") is None


def test_nothing_where_every_request_is_to_ask() -> None:
    recent = Recent(0)
    recent.keep(None, "classify", TINY)
    assert recent.get(None, "classify") is None


def test_made_up_references_take_no_memory() -> None:
    recent = Recent(0.2)
    for number in range(MOST + 50):
        recent.keep(f"tiny:{number}", "classify", TINY)
    assert recent.get(f"tiny:{MOST + 49}", "classify") is None
    time.sleep(0.25)
    recent.keep("tiny", "classify", TINY)  # the others have had their time
    assert recent.get("tiny", "classify") is TINY
