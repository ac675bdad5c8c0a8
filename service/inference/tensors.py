"""The tensors of a request: what a model takes, and arrays of them, whose sizes are checked before anything is allocated.

N points.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from models.errors import MissingFeature, TooManyPoints
from models.manifest import FeatureSpec, InputSpec
from models.pointcloud import PointCloud
from service.errors import BadTensor
from service.inference.numbers import LongArray
from service.inference.schemas import RequestInput, TensorMetadata

DTYPES: dict[str, str] = {"FP32": "<f4", "FP64": "<f8", "UINT8": "|u1"}
AT_ONCE = 1 << 14  # numbers of a list that are turned into an array: others have their turn in between

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Kind:
    """An input: the datatypes it may be of, how many columns it has, and the features that are made of it."""

    datatypes: tuple[str, ...]
    columns: int
    features: tuple[str, ...]


KINDS = {
    "points": Kind(("FP32", "FP64"), 3, ("x", "y", "z")),
    "intensity": Kind(("FP32",), 1, ("intensity",)),
    "rgb": Kind(("UINT8",), 3, ("red", "green", "blue")),
}
POINTS = "points"


def inputs_of(spec: InputSpec) -> tuple[TensorMetadata, ...]:
    """The inputs that a model reads: points, and what its features are made of besides."""
    return tuple(_metadata(name, kind, spec) for name, kind in KINDS.items() if name == POINTS or _read(kind, spec))


def _metadata(name: str, kind: Kind, spec: InputSpec) -> TensorMetadata:
    said: dict[str, bool | int | float | str] = {}
    if len(kind.datatypes) > 1:
        said["datatypes"] = ", ".join(kind.datatypes)
    if name != POINTS:
        said["optional"] = all(feature.fill is not None for feature in _read(kind, spec))
    shape = (-1, kind.columns) if kind.columns > 1 else (-1,)
    return TensorMetadata(name=name, datatype=kind.datatypes[0], shape=shape, parameters=said)


def _read(kind: Kind, spec: InputSpec) -> list[FeatureSpec]:
    return [feature for feature in spec.features if feature.name in kind.features]


@dataclass(frozen=True)
class Tensors:
    """The inputs of a request. Their data is in the JSON, or among the long arrays that were taken out of it, or behind it: from `offset`
    on of a file of `size` bytes.
    """

    inputs: list[RequestInput]
    long_arrays: Mapping[str, LongArray]
    file: BinaryIO
    offset: int
    size: int

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """Raises: BadTensor, BadInference."""
        offset = self.offset
        for tensor in self.inputs:
            if (size := _binary_size(tensor)) is not None:
                yield tensor.name, _from_file(self.file, offset, tensor)
                offset += size
            else:
                yield tensor.name, _from_json(tensor, self._data(tensor))

    def _data(self, tensor: RequestInput) -> list[object] | LongArray:
        """Raises: BadTensor."""
        if isinstance(tensor.data, str) and (found := self.long_arrays.get(tensor.data)):
            return found
        if not isinstance(tensor.data, list):
            raise BadTensor("its data is no array", where=tensor.name)
        return tensor.data


def read_cloud(tensors: Tensors, spec: InputSpec, max_points: int) -> PointCloud:
    """The cloud that the tensors are. Raises: BadTensor, BadInference, MissingFeature, TooManyPoints."""
    given = _named(tensors.inputs, spec)
    points = given.get(POINTS)
    if points is None:
        raise BadTensor("there is no such input, and every cloud has points", where=POINTS, known=[each.name for each in inputs_of(spec)])
    for name, tensor in given.items():
        _check(name, tensor)
        if tensor.shape[0] != points.shape[0]:
            raise BadTensor(f"of {tensor.shape[0]} points, while {POINTS!r} has {points.shape[0]}", where=name)
    if points.shape[0] > max_points:
        raise TooManyPoints(f"{points.shape[0]} points, the limit is {max_points}", where=POINTS)
    _check_sizes(tensors.inputs, tensors.size - tensors.offset)
    arrays = dict(tensors.arrays())
    intensity = arrays.get("intensity")
    return PointCloud(arrays[POINTS], arrays.get("rgb"), None if intensity is None else intensity.reshape(-1))  # type: ignore[arg-type]


def _named(inputs: list[RequestInput], spec: InputSpec) -> dict[str, RequestInput]:
    """The inputs by name: those that the model reads, each once, and all that it cannot do without. Raises: BadTensor, MissingFeature."""
    known, given = {each.name: each for each in inputs_of(spec)}, dict[str, RequestInput]()
    for tensor in inputs:
        if tensor.name not in known:
            raise BadTensor("the model has no such input", where=tensor.name[:40], known=known)
        if tensor.name in given:
            raise BadTensor("the input is there twice", where=tensor.name)
        given[tensor.name] = tensor
    for name, tensor_of in known.items():
        if name not in given and (tensor_of.parameters or {}).get("optional") is False:
            raise MissingFeature(f"the model needs the input {name!r}", where=name)
    return given


def _check(name: str, tensor: RequestInput) -> None:
    """Raises: BadTensor."""
    kind, shape = KINDS[name], tensor.shape
    if tensor.datatype not in kind.datatypes:
        raise BadTensor(f"of datatype {tensor.datatype[:20]!r} instead of {' or '.join(kind.datatypes)}", where=name)
    if not (len(shape) == 2 and shape[1] == kind.columns) and not (len(shape) == 1 and kind.columns == 1):
        raise BadTensor(f"of shape {str(shape)[:60]} instead of [N, {kind.columns}]", where=name)
    if (tensor.data is None) == (_binary_size(tensor) is None):
        raise BadTensor("needs its data either in the JSON or behind it (binary_data_size), and not both", where=name)


def _binary_size(tensor: RequestInput) -> int | None:
    return None if tensor.parameters is None else tensor.parameters.binary_data_size


def _check_sizes(inputs: list[RequestInput], behind: int) -> None:
    """behind: bytes of the body after its JSON. Raises: BadTensor (it is not what the tensors come to)."""
    total = 0
    for tensor in inputs:
        expected, size = math.prod(tensor.shape) * np.dtype(DTYPES[tensor.datatype]).itemsize, _binary_size(tensor)
        if size is not None and size != expected:
            raise BadTensor(f"binary_data_size is {size}, its shape and datatype come to {expected} bytes", where=tensor.name)
        total += size or 0
    if total != behind:
        raise BadTensor(f"the binary tensors come to {total} bytes, behind the JSON there are {behind}", where="inputs")


def _from_file(file: BinaryIO, offset: int, tensor: RequestInput) -> Array:
    array = np.empty(tensor.shape, DTYPES[tensor.datatype])
    left = array.reshape(-1).view(np.uint8).data
    file.seek(offset)
    while left and (count := file.readinto(left)):  # type: ignore[attr-defined]  # both kinds of spools have it
        left = left[count:]
    assert not left  # its size has been checked
    return array


def _from_json(tensor: RequestInput, data: list[object] | LongArray) -> Array:
    """Raises: BadTensor, BadInference."""
    nested = data.nested if isinstance(data, LongArray) else bool(data) and isinstance(data[0], list)
    if nested and len(tensor.shape) == 1:
        raise BadTensor("its data is nested, its shape is not", where=tensor.name)
    columns, count = tensor.shape[1] if nested else 1, math.prod(tensor.shape)
    if count > (data.most if isinstance(data, LongArray) else len(data) * columns):
        raise BadTensor(f"its data is too short for the {count} numbers of its shape", where=tensor.name)
    array, done = np.empty(count, DTYPES[tensor.datatype]), 0
    for piece in data.pieces() if isinstance(data, LongArray) else _pieces(data):
        numbers = _numbers(_unnested(piece, columns, tensor.name) if nested else piece, array.dtype, tensor.name)
        if done + len(numbers) > count:
            raise BadTensor(f"its data has more than the {count} numbers of its shape", where=tensor.name)
        array[done : done + len(numbers)] = numbers
        done += len(numbers)
    if done < count:
        raise BadTensor(f"its data has {done} of the {count} numbers of its shape", where=tensor.name)
    return array.reshape(tensor.shape)


def _pieces(data: list[object]) -> Iterator[list[object]]:
    return (data[start : start + AT_ONCE] for start in range(0, len(data), AT_ONCE))


def _unnested(rows: list[object], columns: int, where: str) -> list[object]:
    """Raises: BadTensor."""
    lists = [row for row in rows if isinstance(row, list)]
    if len(lists) != len(rows) or not set(map(len, lists)) <= {columns}:
        raise BadTensor(f"not every row of its data has {columns} numbers", where=where)
    return list(chain.from_iterable(lists))


def _numbers(values: list[object], dtype: np.dtype[np.generic], where: str) -> Array:
    """Raises: BadTensor."""
    found = set(map(type, values))
    whole = dtype.kind == "u"
    if not found <= ({int} if whole else {int, float}):
        raise BadTensor(f"its data holds other things than {'whole ' if whole else ''}numbers", where=where)
    numbers = np.array(values, np.float64)
    if whole and not ((numbers >= 0) & (numbers <= np.iinfo(np.uint8).max)).all():
        raise BadTensor("its data holds numbers that uint8 has not", where=where)
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, which is refused with the rest of that
        return numbers.astype(dtype)
