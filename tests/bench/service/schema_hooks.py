"""What schemathesis is told beyond the description of our API: what a sound upload is, what there is to ask for, which headers matter to
no answer.

Loaded by it (SCHEMATHESIS_HOOKS). Bytes of any kind fit the description of a body, and hardly any of them are a cloud; hardly any name is
that of a model or a job: without this, no made-up request would ever reach a net or move an alias, and no answer of status 200 would be
held against its schema.
"""

import json
import os
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase

from tests.bench.service import clouds
from tests.bench.service.furnished import ALIASES, KEY, MODEL, VERSIONS

REFERENCES = (MODEL, f"{MODEL}:1", *(f"{MODEL}@{alias}" for alias in ALIASES), "lidar19", "modelnet40")
CLASSIFIERS = tuple(each for each in REFERENCES if each != "lidar19")
INFERENCES = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
ALIAS = "/v1/models/{name}/aliases/{alias}"
JOBS = "/v1/jobs"
JOB = f"{JOBS}/{{id}}"
# path -> models that answer there; of points none does
UPLOADS = {"/v1/classify": CLASSIFIERS, "/v1/segment": ("lidar19",), JOBS: ("lidar19",), "/v1/points": ()}
AGAIN = 0.3  # share of sound jobs that are one of so many, each with a key of its own
KEYED = 20
KEY_HEADER = "Idempotency-Key"
SOUND = "sound-"  # how the request id of a sound upload begins
KNOWN = 0.75  # share of requests that name something there is
TIMEOUT = "X-Request-Timeout"
BEARER = "Bearer "
CREDENTIALS = ("Authorization", "X-API-Key")
TAILS = ("", ".", "a:b", "-" * 100)
NO_EFFECT = {
    "User-Agent": ("", "x", "x/1 (;)"),
    "traceparent": ("", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0-0-0", "ff-1"),
    "Accept-Language": ("de-DE", "*", ";"),
}
FREE = ("json", "ply", "pcd", "xyz", "pts", "csv", "npz", "raw")  # answers that every file can have; all but a mesh have `same` too
GONE = ("failed", "cancelled", "expired")

Case: TypeAlias = schemathesis.Case


@dataclass(frozen=True)
class Told:
    """What answers have said so far. jobs: their ids, of which the service forgets the oldest; deleted: those of them that were; keyed: the
    id of each Idempotency-Key; pointed: the version of each alias.
    """

    jobs: deque[str] = field(default_factory=lambda: deque(maxlen=500))
    deleted: set[str] = field(default_factory=set)
    keyed: dict[str, str] = field(default_factory=dict)
    pointed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ALIASES, VERSIONS))


TOLD = Told()


def varied(made: tuple[Case, int]) -> Case:
    """Most cases name something there is, unless it is their path that breaks the description. One that does not break it gets headers of
    no effect; of those to a route for files, half carry a real cloud.

    One number decides everything: hypothesis soon gives up on what needs many choices.
    """
    case, number = made
    if case.meta is None:
        return case
    rng = random.Random(number)
    if not case.meta.is_negative_at(ParameterLocation.PATH) and rng.random() < KNOWN:
        case.path_parameters |= known(case, rng)
    if not case.meta.generation.mode.is_positive:
        return case
    request_id = f"{number:x}{rng.choice(TAILS)}"
    if case.method == "POST" and case.path in UPLOADS and rng.random() < 0.5:
        request_id = SOUND + request_id
        sound_upload(case, rng)
    elif case.path in INFERENCES and case.path_parameters["model"] in REFERENCES and rng.random() < 0.7:
        request_id = SOUND + request_id
        sound_inference(case, rng)
    elif case.method == "PUT" and case.path == ALIAS and rng.random() < KNOWN:
        move_on(case, rng)
    elif TIMEOUT in case.headers:
        case.headers[TIMEOUT] = rng.choice(["0.001", "0.5", "60", "1e3"])  # most made-up ones would leave no time at all
    case.headers["X-Request-ID"] = request_id
    case.headers.update({name: rng.choice(values) for name, values in NO_EFFECT.items() if rng.random() < 0.5})
    if rng.random() < 0.3:
        key_in_other_header(case)
    return case


def known(case: Case, rng: random.Random) -> dict[str, str]:
    """Path parameters that name what there is. Which job a sequence of requests is about, the sequence says."""
    if case.path.startswith(JOB):
        assert case.meta is not None
        fuzzing = case.meta.phase.name == TestPhase.FUZZING
        return {"id": rng.choice(TOLD.jobs)} if fuzzing and TOLD.jobs else {}
    if case.path.startswith(ALIAS):
        return {"name": MODEL, "alias": rng.choice(ALIASES)}
    if "{version}" in case.path:
        return {"model": rng.choice([MODEL, "lidar19", "modelnet40"]), "version": "1"}
    return {name: rng.choice(REFERENCES) for name in case.path_parameters}


def move_on(case: Case, rng: random.Random) -> None:
    """Ask for the version after the one that the alias points at, so that there is always one to roll back to."""
    now = TOLD.pointed.get(case.path_parameters["alias"], 0)
    case.query = {"version": now % VERSIONS + 1} | ({"expected": now} if rng.random() < 0.3 else {})


def sound_upload(case: Case, rng: random.Random) -> None:
    """Replace the body by a cloud, and of the options keep those that fit any; of a job that comes again, none."""
    again = f"again-{rng.randrange(KEYED)}" if case.path == JOBS and rng.random() < AGAIN else None
    if again is not None:
        rng, case.query = random.Random(again), {}
    fmt = rng.choice(sorted(clouds.FORMATS))
    cloud = clouds.street(rng.randint(60, 400), rng.randint(0, 9))
    case.body, case.media_type = clouds.FORMATS[fmt](cloud), "application/octet-stream"
    query = {name: value for name, value in (case.query or {}).items() if name in ("top", "logits", "up", "most")}
    query |= {"input_format": fmt} if fmt == "bin" or rng.random() < 0.5 else {}
    query |= {"model": rng.choice(UPLOADS[case.path])} if UPLOADS[case.path] and rng.random() < 0.5 else {}
    if case.path in ("/v1/segment", JOBS):
        query |= {"format": rng.choice(FREE if fmt == "off" else (*FREE, "same"))}
    case.query = query
    without_headers(case)
    case.headers["X-Filename"] = f"cloud.{fmt}"
    if again is not None:
        case.headers[KEY_HEADER] = again


def sound_inference(case: Case, rng: random.Random) -> None:
    """Replace the body by a cloud."""
    cloud = clouds.street(rng.randint(60, 400), rng.randint(0, 9))
    points = {"name": "points", "shape": list(cloud.shape), "datatype": "FP32", "data": cloud.tolist()}
    case.body, case.media_type = {"inputs": [points]}, "application/json"
    without_headers(case)


def without_headers(case: Case) -> None:
    """But for the key."""
    for name in [each for each in case.headers if each not in CREDENTIALS]:
        del case.headers[name]


def key_in_other_header(case: Case) -> None:
    """The second of the two ways to send a key; schemathesis takes the first that is described."""
    if str(case.headers.get("Authorization", "")).startswith(BEARER):
        case.headers["X-API-Key"] = case.headers.pop("Authorization").removeprefix(BEARER)


@schemathesis.hook
def before_generate_case(context: schemathesis.HookContext, strategy: "st.SearchStrategy[Case]") -> "st.SearchStrategy[Case]":
    return st.tuples(strategy, st.integers(0, 2**40)).map(varied)


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Case, kwargs: dict[str, object]) -> None:
    """A method that no operation has is refused with 405, which is told only to who has a key, also where another method needs none."""
    if case.method.upper() != case.operation.method.upper() and not any(name in case.headers for name in CREDENTIALS):
        case.headers["X-API-Key"] = os.environ[KEY]


@schemathesis.hook
def after_call(context: schemathesis.HookContext, case: Case, response: schemathesis.Response) -> None:
    """Keep what later requests can name."""
    if response.status_code >= 300:
        return
    if case.method == "POST" and case.path == JOBS:
        TOLD.jobs.append(id := response.json()["id"])
        TOLD.keyed.setdefault(str(case.headers.get(KEY_HEADER, id)), id)
    elif case.method == "DELETE" and case.path == JOB:
        TOLD.deleted.add(response.json()["id"])
    elif case.path.startswith(ALIAS):
        moved = response.json()
        TOLD.pointed[moved["alias"]] = int(moved["version"])


@schemathesis.check
def sound_upload_answered(context: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> None:
    """A sound file is answered; where the service is busy, politely."""
    if str(case.headers.get("X-Request-ID", "")).startswith(SOUND) and response.status_code not in (200, 202, 429):
        raise AssertionError(f"a sound upload was answered {response.status_code}: {response.text[:300]}")


@schemathesis.check
def the_same_key_is_the_same_job(context: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> None:
    """However often a job is sent."""
    if case.method != "POST" or case.path != JOBS or response.status_code not in (200, 202) or KEY_HEADER not in case.headers:
        return
    if (id := response.json()["id"]) != (first := TOLD.keyed[str(case.headers[KEY_HEADER])]):
        raise AssertionError(f"{case.headers[KEY_HEADER]} was the job {first} and is {id}")


@schemathesis.check
def deleted_jobs_are_gone(context: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> None:
    """Of a job that was deleted is told that it has ended, and nothing else."""
    if not case.path.startswith(JOB) or response.status_code != 200 or case.path_parameters["id"] not in TOLD.deleted:
        return
    if case.path == f"{JOB}/result":
        raise AssertionError("the result of a job that was deleted")
    last = response.text.rpartition("data: ")[2]  # of its events, or the whole answer
    if (state := json.loads(last)["state"]) not in GONE:
        raise AssertionError(f"a job that was deleted is {state}")


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
