"""Inflation: the filters of a 2D ConvNet become filters of a 3D sparse ConvNet. Pure functions, no files.

A 2D filter W2[h, w] is repeated along one axis of space: W3[x, y, z] = W2[h, w], where two axes take the roles of image
height and width. Source: Image2Point §3.1 and A.5; the tap-by-tap rules are those of its public code. Copies are not
divided by the number of repetitions unless `scale` says so, because the published numbers hang on that.

K = k³ taps, Cout and Cin channels.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator

from models.errors import InflationError
from models.frozen import Frozen
from models.manifest import Axis
from models.sparse.nn import Tie
from models.sparse.tying import tied_axes, tied_filter
from training.minkowski import Taps

NO_TIES: Mapping[str, Tie] = {}
LEGACY_AXES: dict[str, tuple[Axis, Axis, Axis]] = {  # the reference's names -> what they do: (repeat, height, width)
    "x-axis": ("x", "y", "z"),
    "y-axis": ("z", "y", "x"),
    "z-axis": ("y", "z", "x"),
}
_SPELLED_OUT = {"repeat": "y", "height": "z", "width": "x"}  # the defaults
_STEM, _STEM_KERNEL = ("conv1.", "bn1."), "conv1.weight"
_STAGE = re.compile(r"^layer(\d+)\.|^ds(\d+)\.")


class InflateSpec(Frozen):
    """How to inflate.

    axes: a legacy name, or the three axes spelled out. scale: `none` copies; `mean` divides by the number of copies
    (I3D). shortcut: what a 1×1 filter becomes where the 3D net has 2×2×2: `repeat` = the same in all 8 taps, `mean` =
    an eighth of it. stages: which `layer{i}` to load; the others keep their random weights. tied: the parameters of the stages
    stay 2D filters, repeated in use; they then train as such. taps: the order of the taps in a file of MinkowskiEngine, whose
    kernels are 3D and are copied, whatever the axes and scales say. stem: `copy` takes the stem as well where it is 3D, as in what
    `fip weights body` writes; else it starts fresh.
    """

    axes: Literal["x-axis", "y-axis", "z-axis"] | None = None
    repeat: Axis = "y"
    height: Axis = "z"
    width: Axis = "x"
    scale: Literal["none", "mean"] = "none"
    shortcut: Literal["repeat", "mean"] = "repeat"
    stages: tuple[int, ...] = (1, 2, 3, 4)
    tied: Annotated[bool, Field(exclude_if=lambda tied: not tied)] = False
    taps: Annotated[Taps, Field(exclude_if=lambda taps: taps == "hybrid")] = "hybrid"
    stem: Annotated[Literal["fresh", "copy"], Field(exclude_if=lambda stem: stem == "fresh")] = "fresh"

    @model_validator(mode="after")
    def fits_together(self) -> "InflateSpec":
        said = self.model_fields_set & _SPELLED_OUT.keys()
        written = {name: getattr(self, name) for name in said} == _SPELLED_OUT  # a recipe that was saved: all of its values are in it
        if self.axes is not None and said and not written:
            raise ValueError("say axes, or repeat, height and width, not both")
        if self.axes is None and {self.repeat, self.height, self.width} != {"x", "y", "z"}:
            raise ValueError("repeat, height and width must be three different axes")
        if not set(self.stages) <= {1, 2, 3, 4}:
            raise ValueError(f"stages are 1 to 4, found {list(self.stages)}")
        return self

    @property
    def directions(self) -> tuple[Axis, Axis, Axis]:
        """(repeat, height, width)."""
        return LEGACY_AXES[self.axes] if self.axes else (self.repeat, self.height, self.width)

    @property
    def tied_axis(self) -> Axis | None:
        """What the network's spec says of tied filters."""
        return self.directions[0] if self.tied else None


@dataclass(frozen=True)
class InflationReport:
    """What happened to every tensor. loaded: 3D names; fresh: 3D names left as they were; unused: names without a place.

    copied: of the loaded ones, kernels that were 3D already. tied: of the loaded ones, filters that stay 2D; tied_values of the
    values are theirs, which stand for whole_values.
    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    loaded_values: int
    total_values: int
    copied: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    tied_values: int = 0
    whole_values: int = 0

    def __str__(self) -> str:
        share = self.loaded_values / self.total_values
        tied = f"{len(self.tied)} filters stay tied, {self.tied_values:,} values for {self.whole_values:,}; " if self.tied else ""
        done, kind = ("copied", "3D") if self.copied else ("inflated", "2D")
        return (
            f"{done} {len(self.loaded)} tensors ({share:.1%} of all values); {tied}"
            f"{len(self.fresh)} start fresh: {_brief(self.fresh)}; {len(self.unused)} {kind} tensors unused: {_brief(self.unused)}"
        )


def inflate_kernel(weight: torch.Tensor, spec: InflateSpec) -> torch.Tensor:
    """A square 2D kernel (Cout, Cin, k, k) -> (k³, Cin, Cout), repeated k times along the repeat axis.

    Raises: InflationError (not square).
    """
    cout, cin, k, width_taps = weight.shape
    if k != width_taps:
        raise InflationError(f"only square kernels can be inflated, found {k}×{width_taps}")
    repeat, height, width = spec.directions
    planes = weight.permute(2, 3, 1, 0)  # (h, w, Cin, Cout)
    if height > width:  # taps are indexed [x][y][z], in the order of the axes' names
        planes = planes.transpose(0, 1)
    kernel = planes.unsqueeze("xyz".index(repeat)).expand(k, k, k, cin, cout)
    if spec.scale == "mean":
        kernel = kernel / k
    return kernel.reshape(k**3, cin, cout).contiguous()


def inflate_pointwise(weight: torch.Tensor, taps: int, spec: InflateSpec) -> torch.Tensor:
    """A 1×1 kernel (Cout, Cin, 1, 1) -> (taps, Cin, Cout): the same matrix in every tap, or a share of it."""
    kernel = weight[:, :, 0, 0].t().expand(taps, -1, -1)
    if taps > 1 and (spec.shortcut == "mean" or spec.scale == "mean"):
        kernel = kernel / taps
    return kernel.contiguous()


def inflate_state_dict(
    source: Mapping[str, torch.Tensor],
    target: Mapping[str, torch.Tensor],
    spec: InflateSpec,
    ties: Mapping[str, Tie] = NO_TIES,
) -> tuple[dict[str, torch.Tensor], InflationReport]:
    """A full state dict for the 3D net: inflated where the 2D net has a tensor of the same name, else as in `target`.

    Only residual stages (`layer{i}`, and `ds{i}` where both nets have them) are inflated; the head stays fresh, and the stem unless
    it is 3D and `stem` says copy.
    `num_batches_tracked` may be absent. ties: the tied filters of the 3D net (`models.sparse.nn.ties_of`).
    Raises: InflationError when any tensor of a chosen stage has no counterpart or does not fit, or when nothing was chosen.
    """
    state = {name: tensor.clone() for name, tensor in target.items()}
    loaded: list[str] = []
    missing: list[str] = []
    stem = spec.stem == "copy" and _STEM_KERNEL in source and source[_STEM_KERNEL].dim() == 3
    counters: list[str] = []
    for name, tensor in target.items():
        if not _chosen(name, spec.stages) and not (stem and name.startswith(_STEM)):
            continue
        if name in source:
            state[name] = _inflate(name, source[name], tensor, spec, ties.get(name))
            loaded.append(name)
        elif name.endswith("num_batches_tracked"):
            counters.append(name)
        else:
            missing.append(name)
    if missing:
        raise InflationError(
            f"{len(missing)} tensors of the chosen parts are not in the weights: {_brief(missing)}", known=sorted(source)[:5]
        )
    if not loaded:
        raise InflationError(f"no stage was chosen or none matched (stages {list(spec.stages)}); nothing would be pretrained")
    done = set(loaded)
    tied = tuple(name for name in loaded if name in ties)
    report = InflationReport(
        loaded=tuple(loaded),
        fresh=tuple(name for name in target if name not in done and name not in counters),
        unused=tuple(name for name in source if name not in done),
        loaded_values=sum(target[name].numel() for name in loaded),
        total_values=sum(tensor.numel() for tensor in target.values()),
        copied=tuple(name for name in loaded if source[name].dim() == 3),
        tied=tied,
        tied_values=sum(target[name].numel() for name in tied),
        whole_values=sum(target[name][0].numel() * ties[name].taps for name in tied),
    )
    return state, report


def random_images(target: Mapping[str, torch.Tensor], ties: Mapping[str, Tie] = NO_TIES) -> dict[str, torch.Tensor]:
    """2D weights that nobody trained, for the stages of a 3D net: filters as torch.nn.Conv2d draws them, norms as they begin.

    Inflated, they differ from a trained image net in nothing but the training. Draws from torch's default generator.
    """
    state = {}
    for name, tensor in target.items():
        if not _chosen(name, (1, 2, 3, 4)):
            continue
        state[name] = tensor.clone()
        if tensor.dim() == 3:
            taps = ties[name].taps if name in ties else tensor.shape[0]
            k = 3 if taps == 27 else 1
            bound = 1 / math.sqrt(tensor.shape[1] * k * k)
            state[name] = torch.empty(tensor.shape[2], tensor.shape[1], k, k).uniform_(-bound, bound)
    return state


def _inflate(name: str, source: torch.Tensor, target: torch.Tensor, spec: InflateSpec, tie: Tie | None) -> torch.Tensor:
    """One tensor in the shape of its 3D counterpart: 2D kernels (Cout, Cin, k, k) are inflated, everything else is copied.

    A tied filter is the whole one without its repetitions, so both compute the same.
    """
    if not source.isfinite().all():
        raise InflationError("the tensor holds NaN or infinity", where=name)
    if tie and source.dim() == 3 and source.shape != target.shape:
        raise InflationError("a kernel that is 3D already cannot be tied: it does not repeat itself", where=name)
    inflated = source
    if source.dim() == 4:
        pointwise = source.shape[2:] == (1, 1)
        taps = tie.taps if tie else target.shape[0]
        inflated = inflate_pointwise(source, taps, spec) if pointwise else inflate_kernel(source, spec)
        if tie and len(inflated) == tie.taps:
            if not set(tie.axes) <= set(tied_axes(inflated)):
                raise InflationError(f"the net repeats this filter along {tie.axes}, inflation along {spec.directions[0]}", where=name)
            inflated = tied_filter(inflated, tie.axes)
    if inflated.shape != target.shape:
        found = f"2D shape {tuple(source.shape)} becomes {tuple(inflated.shape)}" if source.dim() == 4 else f"shape {tuple(source.shape)}"
        raise InflationError(f"{found}, the 3D net wants {tuple(target.shape)}", where=name)
    return inflated.to(target.dtype)


def _chosen(name: str, stages: tuple[int, ...]) -> bool:
    match = _STAGE.match(name)
    return match is not None and int(match[1] or int(match[2]) + 1) in stages


def _brief(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "") if names else "none"
