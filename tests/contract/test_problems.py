"""Every error has one status, one shape, and says nothing about the inside of the service."""

import json
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError

from models import errors
from models.errors import FipError
from service import errors as wrong
from service import problems

READY = ("/health/ready", "/v2/health/ready")  # whose refusals say what is missing in the shape of their other answers


def every(base: type[FipError]) -> Iterator[type[FipError]]:
    yield base
    for child in base.__subclasses__():
        yield from every(child)


EXPECTED = {
    errors.InputError: 400,
    errors.BadOption: 422,
    errors.FileError: 400,
    errors.UnsupportedFormat: 415,
    errors.EmptyFile: 400,
    errors.BadHeader: 400,
    errors.HeaderTooLarge: 400,
    errors.TruncatedFile: 400,
    errors.BadBody: 400,
    errors.MissingCoordinates: 422,
    errors.CloudError: 422,
    errors.NoPoints: 422,
    errors.NonFinite: 422,
    errors.DegenerateCloud: 422,
    errors.ExtentTooLarge: 422,
    errors.MissingFeature: 422,
    errors.TooManyPoints: 413,
    errors.TooManyVoxels: 413,
    errors.ModelError: 500,
    errors.UnknownModel: 404,
    errors.BadModelName: 422,
    errors.WrongTask: 422,
    errors.BadCheckpoint: 500,
    errors.AliasConflict: 409,
    errors.RegistryUnavailable: 503,
    wrong.BodyTooLarge: 413,
    wrong.BadInference: 400,
    wrong.BadTensor: 400,
    wrong.UnsupportedExtension: 400,
    wrong.AnswerTooLarge: 413,
    wrong.BadMultipart: 400,
    wrong.UnsupportedEncoding: 415,
    wrong.SpoolFull: 507,
    wrong.Overloaded: 429,
    wrong.RateLimited: 429,
    wrong.Unauthorized: 401,
    wrong.Forbidden: 403,
    wrong.ForeignOrigin: 403,
    wrong.ForeignHost: 421,
    wrong.NotReady: 503,
    wrong.JobsOff: 503,
    wrong.TooManyJobs: 429,
    wrong.TooManyListeners: 429,
    wrong.UnknownJob: 404,
    wrong.NotDone: 409,
    wrong.Expired: 410,
    wrong.KeyReused: 422,
    wrong.KeyInUse: 409,
}


@pytest.mark.parametrize(("error", "status"), EXPECTED.items(), ids=lambda value: getattr(value, "code", value))
def test_status_of_every_error_a_caller_can_meet(error: type[FipError], status: int) -> None:
    assert problems.status_of(error) == status


def test_codes_are_unique() -> None:
    codes = [error.code for error in every(FipError)]
    assert len(codes) == len(set(codes))


def test_document_of_an_error() -> None:
    response = problems.from_error(errors.UnknownModel("no model 'chiar'", where="model", known=["chair"]))
    assert response.media_type == "application/problem+json"
    assert json.loads(bytes(response.body)) == {
        "type": "urn:fip:problem:unknown_model",
        "title": "Unknown model",
        "status": 404,
        "detail": "no model 'chiar'",
        "code": "unknown_model",
        "where": "model",
        "known": ["chair"],
    }


@pytest.mark.parametrize(
    ("path", "said"), [("/v2", True), ("/v2/models/chair", True), ("/v1/classify", False), ("/v2x", False), ("", False)]
)
def test_clients_of_the_open_inference_protocol_find_the_error(path: str, said: bool) -> None:
    document = json.loads(bytes(problems.from_error(errors.UnknownModel("no model 'chiar'", where="model"), path).body))
    assert document.get("error") == ("model: no model 'chiar'" if said else None)


def test_failures_of_the_service_keep_their_details_to_the_log() -> None:
    response = problems.from_error(errors.ModelError("digest of /srv/secret/model.safetensors differs", where="/srv/secret"))
    assert response.status_code == 500
    assert b"secret" not in bytes(response.body)


def test_a_busy_service_says_when_to_come_back() -> None:
    assert problems.from_error(wrong.Overloaded("full", retry_after_s=2.3)).headers["Retry-After"] == "3"
    assert "Retry-After" not in problems.from_error(errors.NoPoints("none")).headers


async def _answer(error: RequestValidationError) -> tuple[int, bytes]:
    request = Request({"type": "http", "method": "POST", "path": "/v1/classify", "headers": [], "state": {}})
    response = await problems.on_bad_option(request, error)
    return response.status_code, bytes(response.body)


def test_validation_errors_become_one_problem() -> None:
    import asyncio

    error = RequestValidationError([{"loc": ("query", "top"), "msg": "Input should be a valid integer", "type": "int_parsing"}])
    status, body = asyncio.run(_answer(error))
    assert status == 422
    assert json.loads(body)["code"] == "bad_option"
    assert json.loads(body)["where"] == "top"


def test_every_refusal_is_described_as_a_problem(app: FastAPI) -> None:
    described = app.openapi()
    refusals = {
        (method, path, status): set(answer["content"])
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
        for status, answer in operation["responses"].items()
        if int(status) >= 400 and path not in READY
    }
    assert {each: kinds for each, kinds in refusals.items() if kinds != {problems.MEDIA_TYPE}} == {}
    assert ("get", "/v1/jobs/{id}", "404") in refusals
    assert ("get", "/v1/jobs/{id}", "422") not in refusals  # an id of any form is that of no job
    assert not {"HTTPValidationError", "ValidationError"} & described["components"]["schemas"].keys()
