"""The log: every line is one JSON object, whatever is in it, and nobody waits for its reader."""

import json
import logging
import os
import select
import subprocess
import sys
import time
from datetime import datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.logs import JsonLines
from tests.fire import PROMPT_S


def line(message: object = "request", fields: object = None, arguments: tuple[object, ...] = (), **others: object) -> str:
    record = logging.LogRecord("fip.service", logging.INFO, __file__, 1, message, arguments, None)
    record.__dict__.update(others | ({} if fields is None else {"fields": fields}))
    return JsonLines().format(record)


def test_a_line_has_time_level_event_and_fields() -> None:
    event = json.loads(line(fields={"request_id": "1", "ms": 1.5, "code": None, "trace_id": "ab"}))
    assert datetime.fromisoformat(event.pop("time")).utcoffset() is not None
    assert event == {"level": "info", "event": "request", "request_id": "1", "ms": 1.5, "code": None, "trace_id": "ab"}
    assert "trace_id" not in json.loads(line(fields={"trace_id": None}))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=50) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3),
)


@given(st.text(st.characters()), st.dictionaries(st.text(st.characters()), values, max_size=4))
def test_nothing_breaks_a_line(message: str, fields: dict[str, object]) -> None:
    written = line(message, fields)
    assert written.isascii()
    assert written.isprintable()
    event = orjson.loads(written)  # which takes neither NaN nor lone surrogates
    assert event["level"] == "info"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=1900))
def test_text_is_read_back_as_it_was(text: str) -> None:
    event = json.loads(line("%s", {"path": text}, (text,)))
    assert (event["event"], event["path"]) == (text, text)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a\nb\r\x00\x1b[31m\x7f\u2028", "a\nb\r\x00\x1b[31m\x7f\u2028"),
        ("\udc80", "\\udc80"),
        ("x" * 100_000, "x" * 2000 + "… (100000 characters)"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**64, "0x10000000000000000"),
        (2**64 - 1, 2**64 - 1),
        (1 << 100_000, "0x1" + "0" * 1997 + "… (25003 characters)"),
        (Unprintable(), "(Unprintable that cannot be printed)"),
        ({"a": {"b": [1, None]}}, {"a": {"b": [1, None]}}),
        ([Unprintable()], ["(Unprintable that cannot be printed)"]),
        (list(range(1000)), list(range(100))),
    ],
    ids=lambda value: "",  # pytest itself cannot write all of them
)
def test_hostile_values(value: object, written: object) -> None:
    whole = line(fields={"value": value})
    assert whole.isprintable()
    assert orjson.loads(whole)["value"] == written


def test_a_list_that_holds_itself_comes_to_an_end() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert len(line(fields={"value": endless})) < 500


def test_a_field_cannot_pass_for_the_time_or_the_level() -> None:
    event = json.loads(line(fields={"level": "critical", "time": "never", "event": "other", 7: "seven"}))
    assert (event["level"], event["event"], event["7"]) == ("info", "request", "seven")
    assert event["time"] != "never"


@pytest.mark.parametrize("arguments", [("too", "many"), (Unprintable(),)])
def test_arguments_that_do_not_fit_still_make_a_line(arguments: tuple[object, ...]) -> None:
    assert json.loads(line("one %d", arguments=arguments))["event"] == "one %d"


def test_a_traceback_keeps_both_ends() -> None:
    def fail(depth: int) -> None:
        if depth:
            (fail if depth % 2 else lambda deeper: fail(deeper))(depth - 1)
        raise ValueError("the\nend \udc80")

    try:
        fail(150)
    except ValueError:
        event = orjson.loads(line("failed", exc_info=sys.exc_info()))
    assert event["traceback"].startswith("Traceback (most recent call last)")
    assert event["traceback"].endswith("the\nend \\udc80")
    assert len(event["traceback"]) < 8100


def start(code: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """A process with a log, whose stderr is a pipe."""
    head = "import asyncio, logging, os, sys, time, warnings\nfrom service.logs import configure_logs\n"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", head + code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def events(stderr: bytes) -> list[dict[str, object]]:
    return [orjson.loads(written) for written in stderr.splitlines()]


def dropped(written: list[dict[str, object]]) -> int:
    return sum(int(str(event.get("dropped", 0))) for event in written)


OTHERS = """
import threading, socket, uvicorn
configure_logs("INFO")

async def app(scope, receive, send):
    raise RuntimeError("broken\\napp")

async def main():
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", port=0))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    for request in (b"GARBAGE\\r\\n\\r\\n", b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        await reader.read()
        writer.close()
    asyncio.get_running_loop().call_exception_handler({"message": "of\\nasyncio", "exception": ValueError("lost")})
    warnings.warn("a\\nwarning", stacklevel=1)
    logging.getLogger("fip.service").debug("too quiet")
    server.should_exit = True
    await task

asyncio.run(main())
logging.getLogger("fip.service").info("the last line")
"""


def test_uvicorn_asyncio_and_warnings_write_the_same_lines() -> None:
    _, stderr = start(OTHERS).communicate(timeout=60)
    written = {str(event["event"]): event for event in events(stderr)}
    assert written["Invalid HTTP request received."]["level"] == "warning"
    assert "broken\napp" in str(written["Exception in ASGI application\n"]["traceback"])
    assert "ValueError: lost" in str(written["of\nasyncio"]["traceback"])
    assert any("UserWarning: a\nwarning" in event for event in written)
    assert list(written)[-1] == "the last line"  # written to the end
    assert len(written) == 5


# An event loop that logs 20 MB while another task measures how late it is woken.
LOOP = """
configure_logs("INFO")
log = logging.getLogger("fip.service")
late = 0.0

async def watch():
    global late
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.01)
        late = max(late, time.monotonic() - before - 0.01)

async def main():
    watcher = asyncio.create_task(watch())
    for number in range(40_000):
        log.info("request", extra={"fields": {"number": number, "path": "x" * 500}})
        if not number % 100:
            await asyncio.sleep(0)
    watcher.cancel()

asyncio.run(main())
print(late, flush=True)
if "wait" in sys.argv:
    time.sleep(1.0)
    log.info("later")
"""


def test_a_log_that_nobody_reads_holds_up_neither_the_loop_nor_the_end() -> None:
    process = start(LOOP)
    assert process.stdout is not None
    assert process.stderr is not None
    late = float(process.stdout.readline())
    ended = time.monotonic()
    assert process.wait(timeout=60) == 0  # nothing was read from stderr so far
    assert time.monotonic() - ended < PROMPT_S  # 2 s
    assert late < 1.0
    stderr = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    whole = stderr[: stderr.rindex(b"\n")]  # the thread that wrote was left behind, maybe in the middle of a line
    assert [event["number"] for event in events(whole)] == list(range(whole.count(b"\n") + 1))


def test_lines_that_were_dropped_are_counted() -> None:
    process = start(LOOP, "wait")
    assert process.stdout is not None
    process.stdout.readline()  # all is logged; the pipe and the queue are full
    _, stderr = process.communicate(timeout=60)
    written = events(stderr)
    assert written[-1]["event"] == "later"
    assert dropped(written) > 10_000
    assert len(written) + dropped(written) == 40_001
    assert process.returncode == 0


def test_lines_dropped_at_the_end_are_counted_too() -> None:
    process = start(LOOP)
    assert process.stdout is not None
    process.stdout.readline()
    _, stderr = process.communicate(timeout=60)
    written = events(stderr)
    assert written[-1]["event"] == "lines of the log were dropped"
    assert len(written) - 1 + dropped(written) == 40_000


FORK = """
configure_logs("INFO")
log = logging.getLogger("fip.service")
log.info("parent")
child = os.fork()
if not child:
    log.info("child", extra={"fields": {"pid": os.getpid()}})
    sys.exit(0)
os.waitpid(child, 0)
log.info("parent again", extra={"fields": {"pid": child}})
"""


def test_a_forked_process_logs_too() -> None:
    _, stderr = start(FORK).communicate(timeout=60)
    written = events(stderr)
    assert sorted(str(event["event"]) for event in written) == ["child", "parent", "parent again"]
    assert len({event["pid"] for event in written if "pid" in event}) == 1


def test_a_reader_who_has_left_disturbs_nothing() -> None:
    process = start('configure_logs("INFO")\nfor _ in range(1000): logging.info("x" * 1000)\nprint("done")')
    assert process.stderr is not None
    process.stderr.close()
    assert process.stdout is not None
    assert process.stdout.read() == b"done\n"
    assert process.wait(timeout=60) == 0
    process.stdout.close()


def test_a_descriptor_that_does_not_wait_loses_no_line() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    code = 'from service.logs import configure_logs\nimport logging\nconfigure_logs("INFO")\nfor n in range(2000): logging.info("x" * 1000)'
    process = subprocess.Popen([sys.executable, "-c", code], stderr=writer, env={"PYTHONPATH": ":".join(sys.path)})
    os.close(writer)
    select.select([reader], [], [], 30)
    time.sleep(0.3)  # by then the pipe, 64 KiB, is full
    with os.fdopen(reader, "rb") as pipe:
        written = events(pipe.read())
    assert process.wait(timeout=60) == 0
    assert len(written) == 2000
