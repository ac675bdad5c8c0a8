"""The tensors of a model that reads colours, which the models of the contract tests do not."""

import io
import json

import numpy as np
import pytest

from models.errors import MissingFeature
from models.io import read_cloud
from models.manifest import FeatureSpec, InputSpec
from models.pointcloud import PointCloud
from service.errors import BadTensor
from service.inference import tensors
from service.inference.schemas import InferRequest
from service.inference.tensors import Tensors, inputs_of
from tests.open_inference import binary, in_json

COLOURS = ("red", "green", "blue")
POINTS = np.arange(9, dtype="<f4").reshape(3, 3)
RGB = np.array([[0, 1, 2], [253, 254, 255], [7, 8, 9]], "|u1")


def spec(fill: float | None) -> InputSpec:
    """z, colours, and an intensity that is filled."""
    features = [FeatureSpec(name="z"), *(FeatureSpec.model_validate({"name": name, "fill": fill}) for name in COLOURS)]
    return InputSpec(features=(*features, FeatureSpec(name="intensity", fill=0.5)), voxel_size=0.1)


def cloud_of(inputs: list[dict], data: bytes = b"", fill: float | None = None) -> PointCloud:
    request = InferRequest.model_validate(json.loads(json.dumps({"inputs": inputs})))
    return tensors.read_cloud(Tensors(request.inputs, {}, io.BytesIO(b"head" + data), 4, 4 + len(data)), spec(fill), 100)


def test_a_cloud_of_tensors_is_that_of_a_file() -> None:
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    header += "".join(f"property uchar {name}\n" for name in COLOURS) + "end_header\n"
    rows = b"".join(point.tobytes() + colour.tobytes() for point, colour in zip(POINTS, RGB, strict=True))
    expected = read_cloud(io.BytesIO(header.encode() + rows))
    assert expected.rgb is not None
    sent = RGB.tobytes() + POINTS.tobytes()
    for found in (
        cloud_of([binary("rgb", RGB), binary("points", POINTS)], sent),
        cloud_of([in_json("points", POINTS), in_json("rgb", RGB)]),
        cloud_of([in_json("points", POINTS), in_json("rgb", RGB) | {"data": RGB.tolist()}]),
        cloud_of([in_json("rgb", RGB), binary("points", POINTS)], POINTS.tobytes()),
    ):
        assert found.rgb is not None
        assert np.array_equal(found.xyz, expected.xyz)
        assert np.array_equal(found.rgb, expected.rgb)
        assert (found.xyz.dtype, found.rgb.dtype, found.intensity) == (expected.xyz.dtype, expected.rgb.dtype, None)


def test_inputs_are_those_that_the_model_reads() -> None:
    assert [(each.name, each.datatype, each.shape) for each in inputs_of(spec(None))] == [
        ("points", "FP32", (-1, 3)),
        ("intensity", "FP32", (-1,)),
        ("rgb", "UINT8", (-1, 3)),
    ]
    for fill, optional in ((None, False), (127.5, True)):
        assert [(each.parameters or {})["optional"] for each in inputs_of(spec(fill))[1:]] == [True, optional]


def test_colours_that_are_not_filled_have_to_be_there() -> None:
    with pytest.raises(MissingFeature) as refused:
        cloud_of([in_json("points", POINTS)])
    assert refused.value.where == "rgb"
    assert cloud_of([in_json("points", POINTS)], fill=127.5).rgb is None


@pytest.mark.parametrize("data", [[256] * 9, [-1] * 9, [1.0] * 9, [True] * 9, [2**70] * 9])
def test_numbers_that_are_no_bytes(data: list[object]) -> None:
    with pytest.raises(BadTensor) as refused:
        cloud_of([in_json("points", POINTS), in_json("rgb", RGB) | {"data": data}])
    assert refused.value.where == "rgb"


def test_bytes_of_another_type() -> None:
    with pytest.raises(BadTensor, match="of datatype 'FP32' instead of UINT8"):
        cloud_of([in_json("points", POINTS), in_json("rgb", POINTS)])
