"""What a request asks for: its JSON, and the cloud that its tensors are."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import Headers

from models.errors import HeaderTooLarge
from models.manifest import Axis, Manifest
from models.pointcloud import PointCloud
from models.voxelize import check_options
from service.errors import AnswerTooLarge, BadInference, BadTensor, UnsupportedExtension
from service.inference.numbers import loads, without_long_arrays
from service.inference.schemas import InferRequest, RequestOutput, RequestParameters, TensorMetadata
from service.inference.tensors import Tensors, read_cloud

HEADER_LENGTH = "Inference-Header-Content-Length"
HEADER_BYTES = 1 << 20  # of the JSON in front of binary tensors
WHOLE = re.compile(r"[0-9]{1,18}")
EXTENSIONS = re.compile(r"shared_memory_.*|classification")  # parameters of those that are not here
LOGITS = "logits"
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Wanted:
    """An output that was asked for. binary: behind the JSON."""

    name: str
    binary: bool


@dataclass(frozen=True)
class Inference:
    """A request that has been read, but for its cloud. timeout_s: None if it sets no limit."""

    id: str | None
    num_points: int
    up: Axis | None
    unit: str | None
    timeout_s: float | None
    outputs: tuple[Wanted, ...]

    @property
    def logits(self) -> bool:
        return any(each.name == LOGITS for each in self.outputs)


@dataclass(frozen=True)
class Limits:
    """points: of a cloud; logit_bytes: of those of all its points."""

    points: int
    logit_bytes: int


def outputs_of(task: str, classes: int) -> tuple[TensorMetadata, ...]:
    """The outputs of a model."""
    if task == "classify":
        of_cloud = (("logits", "FP32", (classes,)), ("scores", "FP32", (classes,)), ("label", "INT32", (1,)))
        return tuple(TensorMetadata(name=name, datatype=kind, shape=shape) for name, kind, shape in of_cloud)
    of_points = (("labels", "INT32", (-1,)), ("confidence", "FP32", (-1,)), (LOGITS, "FP32", (-1, classes)))
    return tuple(TensorMetadata(name=name, datatype=kind, shape=shape) for name, kind, shape in of_points)


def json_bytes(headers: Headers) -> int | None:
    """How long the JSON is that binary tensors come behind; None where there are none. Raises: BadInference, HeaderTooLarge."""
    given = headers.getlist(HEADER_LENGTH)
    if not given:
        return None
    if len(given) > 1 or not WHOLE.fullmatch(given[0]):
        raise BadInference(f"one number of bytes, not {', '.join(given)[:40]!r}", where=HEADER_LENGTH)
    if int(given[0]) > HEADER_BYTES:
        raise HeaderTooLarge(f"the JSON in front of binary tensors may have {HEADER_BYTES} bytes, not {given[0]}", where=HEADER_LENGTH)
    return int(given[0])


def read_inference(
    file: BinaryIO, size: int, head: int | None, name: str, manifest: Manifest, most: Limits
) -> tuple[Inference, PointCloud]:
    """Read a body of so many bytes. head: see `json_bytes`; name: of the model that is asked.

    Raises: BadInference, BadTensor, UnsupportedExtension, BadOption, MissingFeature, TooManyPoints, AnswerTooLarge.
    """
    if head is not None and head > size:
        raise BadInference(f"the body has {size} bytes, which is less than {head}", where=HEADER_LENGTH)
    end = size if head is None else head
    file.seek(0)
    text, long_arrays = without_long_arrays(file.read(end))
    request = parse(text)
    if request.model_name not in (None, name):
        raise BadInference("another model than in the address", where="model_name")
    said = request.parameters or RequestParameters()
    up = cast(Axis | None, said.up)
    check_options(up, said.unit)
    outputs = tuple(_wanted(request.outputs or [], said.binary_data_output, manifest))
    cloud = read_cloud(Tensors(request.inputs, long_arrays, file, end, size), manifest.input, most.points)
    inference = Inference(request.id, len(cloud), up, said.unit, said.timeout / 1e6 if said.timeout else None, outputs)
    if (size_of_logits := logits_bytes(inference, manifest)) > most.logit_bytes:
        raise AnswerTooLarge(f"{size_of_logits} bytes, the limit is {most.logit_bytes}", where=LOGITS)
    return inference, cloud


def logits_bytes(inference: Inference, manifest: Manifest) -> int:
    """What the logits of all points take, if they were asked for."""
    wanted = inference.logits and manifest.task == "segment"
    return inference.num_points * len(manifest.labels) * FLOAT_BYTES if wanted else 0


def _wanted(outputs: list[RequestOutput], binary: bool, manifest: Manifest) -> Iterator[Wanted]:
    """The outputs in the order in which they were asked for; without any, all but the logits of points. Raises: BadTensor."""
    known = [each.name for each in outputs_of(manifest.task, len(manifest.labels))]
    if not outputs:
        yield from (Wanted(name, binary) for name in known if manifest.task == "classify" or name != LOGITS)
    seen = set[str]()
    for output in outputs:
        if output.name not in known:
            raise BadTensor("the model has no such output", where=output.name[:40], known=known)
        if output.name in seen:
            raise BadTensor("the output is asked for twice", where=output.name)
        seen.add(output.name)
        said = None if output.parameters is None else output.parameters.binary_data
        yield Wanted(output.name, binary if said is None else said)


def parse(text: bytes) -> InferRequest:
    """Raises: BadInference, UnsupportedExtension."""
    document = loads(text)
    try:
        return InferRequest.model_validate(document)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_input=False)[0], document) from error


def _refusal(first: ErrorDetails, document: object) -> BadInference | UnsupportedExtension:
    where = ".".join(_names(document, first["loc"])) or "body"
    member = str(first["loc"][-1]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        if EXTENSIONS.fullmatch(member):
            return UnsupportedExtension("the service does not have this extension", where=where)
        return BadInference("there is no such member here", where=where)
    if first["type"] == "unsupported_extension":
        return UnsupportedExtension(first["msg"], where=where)
    return BadInference(first["msg"], where=where)


def _names(document: object, location: Sequence[int | str]) -> Iterator[str]:
    """A place, with the names of tensors for their numbers."""
    for key in location:
        if isinstance(document, Mapping):
            document = document.get(key)
        elif isinstance(document, list) and isinstance(key, int) and key < len(document):
            document = document[key]
            name = document.get("name") if isinstance(document, Mapping) else None
            key = name if isinstance(name, str) else key
        yield str(key)[:40]
