"""What schemathesis is told beyond the description of our API: what a sound upload is, and which headers matter to no answer.

Loaded by it (SCHEMATHESIS_HOOKS). Bytes of any kind fit the description of a body, and hardly any of them are a cloud: without
this, no made-up request would ever reach a net, and no answer of status 200 would be held against its schema.
"""

from typing import TypeAlias

import schemathesis
from hypothesis import strategies as st

from tests.bench.service import clouds

UPLOADS = {"/v1/classify": "modelnet40", "/v1/segment": "lidar19"}  # path -> a model that answers there
SOUND = "sound-"  # how the request id of a sound upload begins
SAFE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-"
FREE = ("json", "ply", "pcd", "xyz", "pts", "csv", "npz", "raw")  # answers that every file can have; all but a mesh have `same` too

Case: TypeAlias = schemathesis.Case
noise = st.fixed_dictionaries(
    {"X-Request-ID": st.text(SAFE, min_size=1, max_size=40)},
    optional={
        "User-Agent": st.text(SAFE, max_size=20),
        "traceparent": st.text("0123456789abcdef-", max_size=60),
        "Accept-Language": st.sampled_from(["en", "de-DE", "*", ";"]),
    },
)
files = st.tuples(st.sampled_from(sorted(clouds.FORMATS)), st.integers(60, 400), st.integers(0, 9))


@st.composite
def varied(draw: st.DrawFn, strategy: "st.SearchStrategy[Case]") -> Case:
    """A case with headers of no effect; of those to a route for files that fit the description, half carry a real cloud."""
    case = draw(strategy)
    headers = draw(noise)
    meta = case.meta
    if case.path in UPLOADS and meta is not None and meta.generation.mode.is_positive and draw(st.booleans()):
        fmt, points, seed = draw(files)
        cloud = clouds.street(points, seed)
        case.body, case.media_type = clouds.FORMATS[fmt](cloud), "application/octet-stream"
        query = {name: value for name, value in (case.query or {}).items() if name in ("top", "logits", "up")}
        query |= {"input_format": fmt} if fmt == "bin" or draw(st.booleans()) else {}
        query |= {"model": UPLOADS[case.path]} if draw(st.booleans()) else {}
        if case.path == "/v1/segment":
            query |= {"format": draw(st.sampled_from(FREE if fmt == "off" else (*FREE, "same")))}
        case.query = query
        case.headers.clear()
        case.headers["X-Filename"] = f"cloud.{fmt}"
        headers["X-Request-ID"] = f"{SOUND}{headers['X-Request-ID'][:30]}"
    case.headers.update(headers)
    return case


@schemathesis.hook
def before_generate_case(context: schemathesis.HookContext, strategy: "st.SearchStrategy[Case]") -> "st.SearchStrategy[Case]":
    return varied(strategy)


@schemathesis.check
def sound_upload_answered(context: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> None:
    """A sound file is answered; where the service is busy, politely."""
    if str(case.headers.get("X-Request-ID", "")).startswith(SOUND) and response.status_code not in (200, 429):
        raise AssertionError(f"a sound upload was answered {response.status_code}: {response.text[:300]}")


@schemathesis.check
def problems_are_rfc_9457(context: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> None:
    """Every refusal is a problem document of that status with a code, also those that no operation documents."""
    if response.status_code < 400 or case.method == "HEAD" or case.path == "/health/ready":
        return
    kind = response.headers.get("content-type", [""])[0]
    if kind != "application/problem+json":
        raise AssertionError(f"a refusal of type {kind}")
    document = response.json()
    if document.get("status") != response.status_code or not document.get("code"):
        raise AssertionError(f"a problem document that does not tell its status or code: {document}")
