"""What a checkpoint says about itself: enough to serve it with no preprocessing option in a request.

`Manifest` is written as `manifest.json` beside `model.safetensors`. Everything here is frozen data; unknown keys are an
error, so that a typing mistake or a newer schema is noticed instead of ignored.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Literal[1] = 1

Axis = Literal["x", "y", "z"]
Axes = Literal["x", "y", "z", "xy", "xz", "yz", "xyz"]
Task = Literal["classify", "segment"]
Fidelity = Literal["reference", "paper", "corrected"]
Precision = Literal["fp32", "bf16"]  # of the factors of products, where a net runs; not part of a checkpoint
FeatureName = Literal["x", "y", "z", "red", "green", "blue", "intensity"]
MODEL_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FeatureSpec(Frozen):
    """One input channel: value · scale + offset. `fill` stands in where a file lacks the column (None: that is an error).

    x, y, z are the prepared coordinates (after unit, up axis and normalisation); red, green, blue are 0..255 as read.
    """

    name: FeatureName
    scale: float = 1.0
    offset: float = 0.0
    fill: float | None = None


class InputSpec(Frozen):
    """How a cloud becomes voxels. Source: Image2Point §4.1–4.2 as read from its public code; departures are switches.

    voxel_size is in prepared units (metres, or unit-sphere radii). `rounding` and `voxel_feature` hold the two quirks of
    the reference code (round to nearest; feature of the first point); `corrected` takes the floor and the mean.
    """

    features: tuple[FeatureSpec, ...]
    voxel_size: Annotated[float, Field(gt=0)]
    normalise: Literal["none", "unit_sphere"] = "none"
    up: Axis = "z"
    point_budget: Annotated[int, Field(gt=0)] | None = None
    rounding: Fidelity = "corrected"
    voxel_feature: Fidelity = "corrected"


def is_none(value: object) -> bool:
    """For fields that came later: they stay out of files while they are None, so that earlier files keep their digests."""
    return value is None


class NetworkSpec(Frozen):
    """Which entry of the zoo, and its free sizes.

    tied: the axis along which the filters of the stages are 2D filters repeated; their weights are then those filters.
    """

    name: str
    in_channels: Annotated[int, Field(gt=0, le=64)]
    num_classes: Annotated[int, Field(gt=0, le=100_000)]
    tied: Annotated[Axis | None, Field(exclude_if=is_none)] = None


class Provenance(Frozen):
    """Where the weights come from. Digests are sha256 in hex.

    engine: what training computed its convolutions on (the last part of it, where a run of a version that did not record it was
    gone on with); None in manifests from before the record.
    """

    weights_2d: str | None = None
    weights_2d_sha256: str | None = None
    init: Literal["image", "scratch", "random-frozen"]
    mode: Literal["io", "ioms", "iobn", "all"]
    recipe: str
    recipe_sha256: str
    seed: int
    dataset: str
    dataset_sha256: str
    code_version: str
    created: str
    licences: tuple[str, ...] = ()
    engine: Annotated[str | None, Field(exclude_if=is_none)] = None


class Manifest(Frozen):
    """The whole description.

    files: sha256 of every other file of the artefact. tied_filters: weights whose filters repeat themselves, with the axes, as
    found in the stored tensors when they were saved and checked when they are loaded; None in manifests from before the record.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Annotated[str, Field(pattern=MODEL_NAME)]
    task: Task
    network: NetworkSpec
    input: InputSpec
    labels: tuple[str, ...]
    metrics: dict[str, float]
    provenance: Provenance
    files: dict[str, str] = {}
    tied_filters: Annotated[dict[str, Axes] | None, Field(exclude_if=is_none)] = None

    @model_validator(mode="after")
    def sizes_agree(self) -> "Manifest":
        if len(self.input.features) != self.network.in_channels:
            raise ValueError(f"{len(self.input.features)} input features for {self.network.in_channels} input channels")
        if len(self.labels) != self.network.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.network.num_classes} classes")
        if len(set(self.labels)) != len(self.labels) or not all(self.labels):
            raise ValueError("labels: every class needs a name of its own")
        return self
