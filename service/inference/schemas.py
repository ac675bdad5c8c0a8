"""The JSON shapes of the Open Inference Protocol."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from models.voxelize import UNITS_M
from service.middleware import LONGEST_S
from service.schemas import AXES, Shape

MOST = 16  # members of an object, tensors of a request: what has more is not looked at any closer
ID_LENGTH = 256
Parameter = bool | int | float | str

Data = Annotated[object, WithJsonSchema({"type": "array", "items": {}, "description": "numbers by row, nested as the shape is or flat"})]


class Asked(BaseModel):
    """A part of a request. Nothing in it is turned into another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, value: object) -> object:
        if isinstance(value, dict) and len(value) > MOST:
            raise PydanticCustomError("too_many_members", "an object with {count} members", {"count": len(value)})
        return value


class InputParameters(Asked):
    binary_data_size: Annotated[int | None, Field(ge=0, description="bytes of its data behind the JSON")] = None


class RequestInput(Asked):
    name: str
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MOST, fail_fast=True)]
    datatype: str
    parameters: InputParameters | None = None
    data: Data = None


class OutputParameters(Asked):
    binary_data: Annotated[bool | None, Field(description="whether its data comes behind the JSON")] = None


class RequestOutput(Asked):
    name: str
    parameters: OutputParameters | None = None


class RequestParameters(Asked):
    """Of these, `up` and `unit` are what only the caller knows of the cloud."""

    binary_data_output: Annotated[bool, Field(description="binary_data of the outputs that do not say it")] = False
    up: Annotated[str | None, Field(description="its up axis, if not the model's", json_schema_extra={"enum": list(AXES)})] = None
    unit: Annotated[str | None, Field(description="its unit, if not metres", json_schema_extra={"enum": list(UNITS_M)})] = None
    timeout: Annotated[
        int | None, Field(ge=0, le=int(LONGEST_S * 1e6), description="microseconds, as X-Request-Timeout has seconds; 0 sets no limit")
    ] = None
    priority: Annotated[int, Field(description="only 0")] = 0
    sequence_id: Annotated[int | str, Field(description='only 0 or ""')] = 0
    sequence_start: Annotated[bool, Field(description="only false")] = False
    sequence_end: Annotated[bool, Field(description="only false")] = False

    @field_validator("priority", "sequence_id", "sequence_start", "sequence_end", mode="wrap")
    @classmethod
    def _usual(cls, value: object, handler: ValidatorFunctionWrapHandler) -> object:
        if found := handler(value):
            raise PydanticCustomError("unsupported_extension", "there are no sequences and no priorities here", {})
        return found


class InferRequest(Asked):
    """The request, or its head where the data of tensors comes behind it. model_name: as in the address, if it is there at all."""

    id: Annotated[str | None, Field(max_length=ID_LENGTH)] = None
    model_name: str | None = None
    parameters: RequestParameters | None = None
    inputs: Annotated[list[RequestInput], Field(max_length=MOST, fail_fast=True)]
    outputs: Annotated[list[RequestOutput] | None, Field(max_length=MOST, fail_fast=True)] = None


class ResponseOutput(Shape):
    """`data` is flat, by row; in its place a tensor whose data comes behind the JSON has `binary_data_size` among its parameters."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Parameter] | None = None
    data: tuple[float, ...] | None = None


class InferAnswer(Shape):
    """`parameters`: the model's digest, and the features that were `filled` and `scaled`, each a list with commas."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Parameter]
    outputs: tuple[ResponseOutput, ...]


class ServerLive(Shape):
    live: bool


class ServerReady(ServerLive):
    """The specification calls it live, clients look for ready; both are here."""

    ready: bool


class ServerMetadata(Shape):
    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(Shape):
    """-1 in a shape is any number: of points. parameters of an input: datatypes, where it may be of several; optional."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Parameter] | None = None


class ModelMetadata(Shape):
    """`parameters`: version, digest, task, and labels, the names of the classes by their indices."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    parameters: dict[str, Parameter | tuple[str, ...]]


class ModelReady(Shape):
    name: str
    ready: bool
