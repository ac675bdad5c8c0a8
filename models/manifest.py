"""What a checkpoint says about itself: enough to serve it with no preprocessing option in a request.

`Manifest` is written as `manifest.json` beside `model.safetensors`. Everything here is frozen data; unknown keys are an
error, so that a typing mistake or a newer schema is noticed instead of ignored.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.frozen import Frozen, is_none
from models.labels import LabelMap

SCHEMA_VERSION: Literal[1] = 1

Axis = Literal["x", "y", "z"]
Axes = Literal["x", "y", "z", "xy", "xz", "yz", "xyz"]
Task = Literal["classify", "segment"]
Fidelity = Literal["reference", "paper", "corrected"]
Quirk = Literal["reference", "corrected"]
Precision = Literal["fp32", "tf32", "fp16", "bf16"]  # of the factors of products, where a net runs; not part of a checkpoint
Decoder = Literal["listing", "reference"]
Devoxelize = Literal["nearest", "trilinear"]
FeatureName = Literal["x", "y", "z", "red", "green", "blue", "intensity", "one", "count", "near", "far"]
OF_CELLS = ("count", "near", "far")  # features of all points of a voxel, not the mean of theirs
MODEL_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class FeatureSpec(Frozen):
    """One input channel: value · scale + offset. `fill` stands in where a file lacks the column (None: that is an error).

    x, y, z are the prepared coordinates (after unit, up axis and normalisation); red, green, blue are 0..255 as read; one is 1 where
    there is something; count: the logarithm, to base 2, of the number of points in the voxel; near, far: of views, the smallest and
    the largest depth in the pixel.
    """

    name: FeatureName
    scale: float = 1.0
    offset: float = 0.0
    fill: float | None = None


class VoteSpec(Frozen):
    """Variants of a cloud whose logits are averaged: the cloud itself and count - 1 others, the same for every cloud.

    scale: each axis by a factor between 1 / (1 + scale) and 1 + scale; translate: each axis by up to so much either way, in prepared
    units, which moves no voxel, as those are counted from a corner of the cloud: features x, y and z see it.
    """

    count: Annotated[int, Field(ge=2, le=64)]
    scale: Annotated[float, Field(ge=0, le=1)] = 0.15
    translate: Annotated[float, Field(ge=0)] = 0.05


class ViewSpec(Frozen):
    """A cloud as flat pictures of it instead of as a body: turned about the up axis `count` times by 360° / count, and seen along `depth`.

    A pixel is a voxel of a plane, so an inflated net applies its 2D filters to it as they are where they repeat along `depth`.
    """

    count: Annotated[int, Field(ge=1, le=64)]
    depth: Axis = "y"


class InputSpec(Frozen):
    """How a cloud becomes voxels. Source: Image2Point §4.1–4.2 as read from its public code; departures are switches.

    voxel_size is in prepared units (metres, or unit-sphere radii). `rounding` and `voxel_feature` hold the two quirks of
    the reference code (round to nearest; feature of the first point); `corrected` takes the floor and the mean.
    devoxelize: how a point gets its answer where every point has one: `nearest` from the voxel that it is in, `trilinear` from up
    to eight voxels around it.
    """

    features: tuple[FeatureSpec, ...]
    voxel_size: Annotated[float, Field(gt=0)]
    normalise: Literal["none", "unit_sphere"] = "none"
    up: Axis = "z"
    point_budget: Annotated[int, Field(gt=0)] | None = None
    rounding: Fidelity = "corrected"
    voxel_feature: Fidelity = "corrected"
    devoxelize: Annotated[Devoxelize, Field(exclude_if=lambda kind: kind == "nearest")] = "nearest"
    votes: Annotated[VoteSpec | None, Field(exclude_if=is_none)] = None
    views: Annotated[ViewSpec | None, Field(exclude_if=is_none)] = None

    @model_validator(mode="after")
    def views_are_of_the_side(self) -> "InputSpec":
        if self.views is not None and self.views.depth == self.up:
            raise ValueError(f"views.depth: the up axis is {self.up}; views are from the sides")
        deep = [feature.name for feature in self.features if feature.name in ("near", "far")]
        if deep and self.views is None:
            raise ValueError(f"features: {deep[0]} is a depth; say views")
        return self

    @property
    def whole_only(self) -> str | None:
        """What of it is for nets that name whole clouds; None where nothing is."""
        if self.votes is not None or self.views is not None:
            return "votes" if self.votes is not None else "views"
        return next((f"features: {feature.name}" for feature in self.features if feature.name in OF_CELLS), None)


class NetworkSpec(Frozen):
    """Which backbone of the zoo, and its free sizes.

    tied: the axis along which the filters of the stages are 2D filters repeated; their weights are then those filters.
    decoder: makes it a U-Net with an answer for every voxel: of the widths of the paper's `listing`, or of its `reference` code.
    blur: the reference's detour of the coarsest features over the points, and the dropout behind it (models.unet3d).
    layout: of a classifier, the parts of a cloud along each axis that its head tells apart; None = it reads one mean over all.
    """

    name: str
    in_channels: Annotated[int, Field(gt=0, le=64)]
    num_classes: Annotated[int, Field(gt=0, le=100_000)]
    tied: Annotated[Axis | None, Field(exclude_if=is_none)] = None
    decoder: Annotated[Decoder | None, Field(exclude_if=is_none)] = None
    blur: Annotated[bool, Field(exclude_if=lambda blur: not blur)] = False
    layout: Annotated[int | None, Field(ge=2, le=4, exclude_if=is_none)] = None

    @model_validator(mode="after")
    def layout_is_of_clouds(self) -> "NetworkSpec":
        if self.layout and self.decoder:
            raise ValueError("layout: is for nets that name whole clouds")
        return self

    @property
    def task(self) -> Task:
        return "segment" if self.decoder else "classify"


class Provenance(Frozen):
    """Where the weights come from. Digests are sha256 in hex.

    engine: what training computed its convolutions on (the last part of it, where a run of a version that did not record it was
    gone on with); None in manifests from before the record.
    """

    weights_2d: str | None = None
    weights_2d_sha256: str | None = None
    init: Literal["image", "scratch", "random-frozen", "random-inflated"]
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
    teacher: Annotated[str | None, Field(exclude_if=is_none)] = None


class Manifest(Frozen):
    """The whole description.

    files: sha256 of every other file of the artefact. tied_filters: weights whose filters repeat themselves, with the axes, as
    found in the stored tensors when they were saved and checked when they are loaded; None in manifests from before the record.
    label_map: colours of the classes and the ids that label files call them by, where every point gets one. largest_intensity: in
    the training data, where the net reads intensities: files of another range are brought to its (models.ranges).
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Annotated[str, Field(pattern=MODEL_NAME)]
    task: Task
    network: NetworkSpec
    input: InputSpec
    labels: tuple[str, ...]
    metrics: dict[str, float]
    provenance: Provenance
    files: dict[str, str] = Field(default_factory=dict)
    tied_filters: Annotated[dict[str, Axes] | None, Field(exclude_if=is_none)] = None
    label_map: Annotated[LabelMap | None, Field(exclude_if=is_none)] = None
    largest_intensity: Annotated[float | None, Field(ge=0, exclude_if=is_none)] = None

    @model_validator(mode="after")
    def sizes_agree(self) -> "Manifest":
        if len(self.input.features) != self.network.in_channels:
            raise ValueError(f"{len(self.input.features)} input features for {self.network.in_channels} input channels")
        if len(self.labels) != self.network.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.network.num_classes} classes")
        if len(set(self.labels)) != len(self.labels) or not all(self.labels):
            raise ValueError("labels: every class needs a name of its own")
        if self.task != self.network.task:
            raise ValueError(f"task is {self.task!r}, the network is one to {self.network.task}")
        if self.task == "segment" and self.input.point_budget is not None:
            raise ValueError("input.point_budget: a net that answers for every point cannot leave any out")
        if self.task == "segment" and self.input.whole_only:
            raise ValueError(f"input.{self.input.whole_only}: is for nets that name whole clouds")
        if self.network.layout and self.input.views:
            raise ValueError("network.layout: pictures side by side have none; leave out input.views")
        if (self.label_map is not None) != (self.task == "segment"):
            raise ValueError("label_map: there is one if and only if the task is to segment")
        if self.label_map is not None and self.label_map.names != self.labels:
            raise ValueError("label_map: names other classes than labels")
        return self
