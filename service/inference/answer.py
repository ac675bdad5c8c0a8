"""The body of an answer: JSON, then the binary tensors, a piece at a time. N points, L classes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import orjson

from models.processor import Classification, Segmentation
from service.inference.request import Inference, Wanted
from service.inference.schemas import TensorMetadata
from service.inference.tensors import DTYPES
from service.schemas import ModelRef

ANSWER_DTYPES = DTYPES | {"INT32": "<i4"}
AT_ONCE = 1 << 16  # numbers

Arrays = Mapping[str, npt.NDArray[np.generic]]


def arrays_of(found: Classification | Segmentation) -> Arrays:
    """The outputs that there are, by name, as the model has them."""
    if isinstance(found, Classification):
        return {"logits": found.logits, "scores": found.scores, "label": found.ranking[:1]}
    of_points: dict[str, npt.NDArray[np.generic]] = {"labels": found.labels, "confidence": found.confidence}
    return of_points if found.logits is None else of_points | {"logits": found.logits}


def write_inference(
    out: BinaryIO, model: ModelRef, inference: Inference, found: Classification | Segmentation, outputs: Iterable[TensorMetadata]
) -> int | None:
    """Write the answer; the bytes of its JSON if anything comes behind it."""
    arrays, datatypes = arrays_of(found), {each.name: each.datatype for each in outputs}
    scaled = found.scaled if isinstance(found, Segmentation) else ()
    said = {"digest": model.digest, "filled": ",".join(found.filled), "scaled": ",".join(scaled)}
    head: dict[str, object] = {"model_name": model.name, "model_version": model.version, "parameters": said}
    if inference.id is not None:
        head["id"] = inference.id
    out.write(orjson.dumps(head)[:-1] + b',"outputs":[')
    for number, wanted in enumerate(inference.outputs):
        out.write(b"," if number else b"")
        _write_output(out, wanted, datatypes[wanted.name], arrays[wanted.name])
    out.write(b"]}")
    length = out.tell()
    behind = [wanted.name for wanted in inference.outputs if wanted.binary]
    for name in behind:
        for piece in _pieces(arrays[name], datatypes[name]):
            out.write(piece.tobytes())
    return length if behind else None


def _write_output(out: BinaryIO, wanted: Wanted, datatype: str, array: npt.NDArray[np.generic]) -> None:
    output: dict[str, object] = {"name": wanted.name, "datatype": datatype, "shape": array.shape}
    if wanted.binary:
        output["parameters"] = {"binary_data_size": array.size * np.dtype(ANSWER_DTYPES[datatype]).itemsize}
        out.write(orjson.dumps(output))
        return
    out.write(orjson.dumps(output)[:-1] + b',"data":[')
    for number, piece in enumerate(_pieces(array, datatype)):
        out.write((b"," if number else b"") + orjson.dumps(piece, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
    out.write(b"]}")


def _pieces(array: npt.NDArray[np.generic], datatype: str) -> Iterator[npt.NDArray[np.generic]]:
    """The numbers of an array by row, some at a time: little-endian, of the type that the answer says."""
    flat, dtype = array.reshape(-1), ANSWER_DTYPES[datatype]
    return (flat[start : start + AT_ONCE].astype(dtype) for start in range(0, len(flat), AT_ONCE))
