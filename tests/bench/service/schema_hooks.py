"""What schemathesis is told beyond the description of our API: what a sound upload is, and which headers matter to no answer.

Loaded by it (SCHEMATHESIS_HOOKS). Bytes of any kind fit the description of a body, and hardly any of them are a cloud: without
this, no made-up request would ever reach a net, and no answer of status 200 would be held against its schema.
"""

import random
from typing import TypeAlias

import schemathesis
from hypothesis import strategies as st

from tests.bench.service import clouds

# path -> a model that answers there; of points none does
UPLOADS = {"/v1/classify": "modelnet40", "/v1/segment": "lidar19", "/v1/jobs": "lidar19", "/v1/points": ""}
INFERENCES = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
SOUND = "sound-"  # how the request id of a sound upload begins
TIMEOUT = "X-Request-Timeout"
TAILS = ("", ".", "a:b", "-" * 100)
NO_EFFECT = {
    "User-Agent": ("", "x", "x/1 (;)"),
    "traceparent": ("", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0-0-0", "ff-1"),
    "Accept-Language": ("de-DE", "*", ";"),
}
FREE = ("json", "ply", "pcd", "xyz", "pts", "csv", "npz", "raw")  # answers that every file can have; all but a mesh have `same` too

Case: TypeAlias = schemathesis.Case


def varied(made: tuple[Case, int]) -> Case:
    """A case that fits the description gets headers of no effect; of those to a route for files, half carry a real cloud.

    One number decides everything: hypothesis soon gives up on what needs many choices.
    """
    case, number = made
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    rng = random.Random(number)
    request_id = f"{number:x}{rng.choice(TAILS)}"
    if case.method == "POST" and case.path in UPLOADS and rng.random() < 0.5:
        request_id = SOUND + request_id
        sound_upload(case, rng)
    elif case.path in INFERENCES and rng.random() < 0.75:  # made-up names are those of no model
        case.path_parameters |= {"model": rng.choice(["lidar19", "modelnet40"])} | ({"version": "1"} if "{version}" in case.path else {})
        if rng.random() < 0.7:
            request_id = SOUND + request_id
            sound_inference(case, rng)
    elif TIMEOUT in case.headers:
        case.headers[TIMEOUT] = rng.choice(["0.001", "0.5", "60", "1e3"])  # most made-up ones would leave no time at all
    case.headers["X-Request-ID"] = request_id
    case.headers.update({name: rng.choice(values) for name, values in NO_EFFECT.items() if rng.random() < 0.5})
    return case


def sound_upload(case: Case, rng: random.Random) -> None:
    """Replace the body by a cloud, and of the options keep those that fit any."""
    fmt = rng.choice(sorted(clouds.FORMATS))
    cloud = clouds.street(rng.randint(60, 400), rng.randint(0, 9))
    case.body, case.media_type = clouds.FORMATS[fmt](cloud), "application/octet-stream"
    query = {name: value for name, value in (case.query or {}).items() if name in ("top", "logits", "up")}
    query |= {"input_format": fmt} if fmt == "bin" or rng.random() < 0.5 else {}
    query |= {"model": UPLOADS[case.path]} if UPLOADS[case.path] and rng.random() < 0.5 else {}
    if case.path in ("/v1/segment", "/v1/jobs"):
        query |= {"format": rng.choice(FREE if fmt == "off" else (*FREE, "same"))}
    case.query = query
    case.headers.clear()
    case.headers["X-Filename"] = f"cloud.{fmt}"


def sound_inference(case: Case, rng: random.Random) -> None:
    """Replace the body by a cloud."""
    cloud = clouds.street(rng.randint(60, 400), rng.randint(0, 9))
    points = {"name": "points", "shape": list(cloud.shape), "datatype": "FP32", "data": cloud.tolist()}
    case.body, case.media_type = {"inputs": [points]}, "application/json"
    case.headers.clear()


@schemathesis.hook
def before_generate_case(context: schemathesis.HookContext, strategy: "st.SearchStrategy[Case]") -> "st.SearchStrategy[Case]":
    return st.tuples(strategy, st.integers(0, 2**40)).map(varied)


@schemathesis.check
def sound_upload_answered(context: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> None:
    """A sound file is answered; where the service is busy, politely."""
    if str(case.headers.get("X-Request-ID", "")).startswith(SOUND) and response.status_code not in (200, 202, 429):
        raise AssertionError(f"a sound upload was answered {response.status_code}: {response.text[:300]}")


@schemathesis.check
def time_is_up_when_asked(context: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> None:
    """504 only for who set a time."""
    if response.status_code == 504 and TIMEOUT not in case.headers:
        raise AssertionError(f"504 to a request without {TIMEOUT}: {response.text[:300]}")


@schemathesis.check
def problems_are_rfc_9457(context: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> None:
    """Every refusal is a problem document of that status with a code, also those that no operation documents."""
    if response.status_code < 400 or case.method == "HEAD" or case.path in ("/health/ready", "/v2/health/ready"):
        return
    kind = response.headers.get("content-type", [""])[0]
    if kind != "application/problem+json":
        raise AssertionError(f"a refusal of type {kind}")
    document = response.json()
    if document.get("status") != response.status_code or not document.get("code"):
        raise AssertionError(f"a problem document that does not tell its status or code: {document}")
