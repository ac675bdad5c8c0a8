"""What is remembered of the registry, and for how long."""

import asyncio
import weakref
from typing import cast

from service.pool import Live
from service.recent import MOST, Recent


class Model:
    """Stands for a loaded one."""


def model() -> Live:
    return cast(Live, Model())


def test_each_task_and_reference_for_a_moment() -> None:
    async def run() -> None:
        recent, tiny, other = Recent(0.05), model(), model()
        recent.keep(None, "classify", tiny)
        recent.keep("tiny", "classify", other)
        assert (recent.get(None, "classify"), recent.get("tiny", "classify")) == (tiny, other)
        assert recent.get(None, "segment") is None
        await asyncio.sleep(0.07)
        assert recent.get(None, "classify") is None

    asyncio.run(run())


def test_nothing_where_every_request_is_to_ask() -> None:
    async def run() -> None:
        recent, tiny = Recent(0), model()
        recent.keep(None, "classify", tiny)
        assert recent.get(None, "classify") is None

    asyncio.run(run())


def test_models_are_let_go_of() -> None:
    async def run() -> None:
        recent = Recent(0.05)
        kept = []
        for number in range(10):
            recent.keep(f"tiny:{number}", "classify", found := model())
            kept.append(weakref.ref(found))
        del found
        assert all(each() is not None for each in kept)
        await asyncio.sleep(0.07)
        assert all(each() is None for each in kept)

    asyncio.run(run())


def test_made_up_references_take_no_memory() -> None:
    async def run() -> None:
        recent = Recent(0.05)
        for number in range(MOST + 50):
            recent.keep(f"tiny:{number}", "classify", model())
        assert recent.get(f"tiny:{MOST - 1}", "classify") is not None
        assert recent.get(f"tiny:{MOST}", "classify") is None
        await asyncio.sleep(0.07)
        recent.keep("tiny", "classify", tiny := model())  # the others have had their time
        assert recent.get("tiny", "classify") is tiny

    asyncio.run(run())
