"""A training run as data: recipe files are small YAML documents beside this module, or the user's own.

Unknown keys are errors that name the nearest right one. The resolved recipe is saved with every run and its digest goes
into the manifest.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from models.errors import BadRecipe, nearest
from models.frozen import Frozen, is_none
from models.manifest import MODEL_NAME, Decoder, InputSpec, NetworkSpec, Quirk, Task
from models.resnet3d import SHAPES
from training.augment import AugmentSpec, later
from training.datasets.kinds import FOLDER, GENERATED, LABELLED, SCENE_KINDS
from training.finetune import Init, Mode
from training.inflate import InflateSpec
from training.optim import OptimSpec, ScheduleSpec

BUNDLED = Path(__file__).resolve().parent / "recipes"
Positive = Annotated[int, Field(gt=0)]
Balance = Literal["none", "loss", "sampler"]
AUTO = "auto"
STAND_INS: dict[str, object] = {  # for keys of `input` that wait for the data, while all others are checked
    "voxel_size": 1.0,
    "normalise": "none",
    "point_budget": None,
    "features": [{"name": name, "fill": 0.0} for name in ("x", "red", "green", "blue", "intensity")],
}
TEST_SHARE = 0.2
MOST_CLASSES, MOST_SHAPES = 30_000, 100_000_000  # generated ones: their programs are kept in memory, and a number of each shape
KINDS = ("modelnet40", FOLDER, GENERATED, *SCENE_KINDS)
OF_SCENES = {  # keys that say nothing to a classifier, by the part of the recipe that they are in
    "": ("blur", "lovasz", "voxel_label", "miou_empty"),
    "input": ("devoxelize",),
    "data": ("label_map", "exclude", "extra", "test_area", "clip", "clip_test"),
    "augment": ("crop", "max_voxels", "mix"),
}
OF_SHAPES = ("classes", "shapes")  # keys of the data that say nothing of clouds that somebody has


class DataSpec(Frozen):
    """Which clouds. shots: training clouds a class (None = all); validation: share of *train* held out for choices.

    test: share of every class that is set aside as test clouds where a folder comes without any, drawn by split_seed, so that runs
    of other seeds are scored on the same clouds. licence: what the card says of the data.

    Of generated shapes: classes of them, and shapes of each to learn from; split_seed draws other classes.

    Of scenes: label_map: a map of the package or a YAML file instead of the data set's own; exclude: titles of scenes to leave
    out; extra: folders below that of the data, each of labelled clouds with a labels.yaml, whose classes and groups are some of
    those of the data set: trained on as well, never scored; test_area: of S3DIS, the one that is not trained on; clip: what is
    more than so many metres from the middle of a scene's bounding box, along any axis, is left out of training, and with
    clip_test `reference` out of the test too (a quirk).

    (Fields that came later stay out of files and digests while they have their default: old recipes keep theirs.)
    """

    kind: str = "modelnet40"
    shots: Positive | None = None
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(ge=0, lt=1, exclude_if=lambda share: share == TEST_SHARE)] = TEST_SHARE
    split_seed: Annotated[int, Field(ge=0, exclude_if=lambda seed: seed == 0)] = 0
    licence: Annotated[str | None, Field(exclude_if=is_none)] = None
    classes: Annotated[int, Field(ge=2, le=MOST_CLASSES), later(1000)] = 1000
    shapes: Annotated[int, Field(ge=2, le=100_000), later(100)] = 100
    label_map: Annotated[str | None, Field(exclude_if=is_none)] = None
    exclude: Annotated[tuple[str, ...], later(())] = ()
    extra: Annotated[tuple[str, ...], later(())] = ()
    test_area: Annotated[int, Field(ge=1, le=6), later(5)] = 5
    clip: Annotated[float | None, Field(gt=0), later(None)] = None
    clip_test: Annotated[Quirk, later("corrected")] = "corrected"


class EarlyStop(Frozen):
    """Stop once `patience` epochs have brought validation accuracy, or mIoU, no further than `min_delta` above the best before them."""

    patience: Positive = 10
    min_delta: Annotated[float, Field(ge=0)] = 0.0


class DistillSpec(Frozen):
    """How much of what a teacher says of unlabelled clouds is learnt (see training.teaching).

    temperature: what its logits are divided by before the softmax: below 1 its scores are sharpened. least: clouds of whose class it is
    less sure are left out. copies: how often a labelled cloud comes in an epoch.
    """

    temperature: Annotated[float, Field(gt=0)] = 0.8
    least: Annotated[float, Field(ge=0, lt=1)] = 0.0
    copies: Positive = 1


class Recipe(Frozen):
    """Everything that decides a run, except where files lie.

    half: store the published weights as float16. precision: `bf16` multiplies in bfloat16 while training (autocast).
    batch_size: clouds that go through the net at once, over all processes; accumulate: such batches an optimiser step.
    balance: against classes of unequal size, weigh the loss or draw classes equally often. With early_stop the published
    weights are those of the epoch best on validation, without it those of the last.

    recalibrate: before the first step, the statistics of the frozen batch norms are estimated anew on the training samples.
    soup: how many runs of `epochs` there are, one after the other from the same start with draws of their own; the mean of their weights is
    published (see training.soup).
    notes: what the card of the model has to say beside the facts of the run. distill: learn also from unlabelled clouds, by a teacher.
    """

    name: Annotated[str, Field(pattern=MODEL_NAME)]
    network: str
    weights: str | None = None
    init: Init = "image"
    mode: Mode = "all"
    input: InputSpec
    data: DataSpec = DataSpec()
    inflate: InflateSpec = InflateSpec()
    augment: AugmentSpec = AugmentSpec()
    optim: OptimSpec = OptimSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    epochs: Positive
    batch_size: Positive = 32
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    half: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: Annotated[int, Field(gt=0, exclude_if=lambda count: count == 1)] = 1
    balance: Annotated[Balance, Field(exclude_if=lambda kind: kind == "none")] = "none"
    early_stop: Annotated[EarlyStop | None, Field(exclude_if=is_none)] = None
    recalibrate: Annotated[bool, later(False)] = False
    notes: Annotated[tuple[str, ...], later(())] = ()
    distill: Annotated[DistillSpec | None, Field(exclude_if=is_none)] = None
    decoder: Annotated[Decoder | None, Field(exclude_if=is_none)] = None
    blur: Annotated[bool, later(False)] = False
    layout: Annotated[int | None, Field(ge=2, le=4), later(None)] = None
    soup: Annotated[int, Field(strict=True, gt=0, le=100), later(1)] = 1
    lovasz: Annotated[float, Field(ge=0), later(0.0)] = 0.0
    voxel_label: Annotated[Quirk, later("corrected")] = "corrected"
    miou_empty: Annotated[Quirk, later("corrected")] = "corrected"
    selection: Annotated[Quirk, later("corrected")] = "corrected"

    @model_validator(mode="after")
    def fits_together(self) -> "Recipe":
        if self.network not in SHAPES:
            raise ValueError(f"network: unknown {self.network!r}{nearest(self.network, SHAPES)}; known: {', '.join(SHAPES)}")
        if self.init == "scratch" and self.mode != "all":
            raise ValueError("init: scratch trains everything; say mode all, or init random-frozen for a frozen random net")
        if self.init.startswith("random") and self.mode == "all":
            raise ValueError(f"init: {self.init} freezes the stages; say mode io, ioms or iobn")
        if self.recalibrate and self.mode != "io":
            raise ValueError("recalibrate: is for frozen batch norms; say mode io")
        if self.soup > 1 and self.chooses:
            raise ValueError("soup: averages whole runs, and early_stop or selection picks an epoch; leave one out")
        if not self.input.features:
            raise ValueError("input.features: names no feature; the first is usually x, y and z")
        if self.data.kind not in KINDS:
            raise ValueError(f"data.kind: unknown {self.data.kind!r}{nearest(self.data.kind, KINDS)}; known: {', '.join(KINDS)}")
        if (self.data.kind in SCENE_KINDS) != (self.task == "segment"):
            wants = (
                "a class for every point: say decoder listing" if self.data.kind in SCENE_KINDS else "one class a cloud: leave out decoder"
            )
            raise ValueError(f"data.kind: {self.data.kind} has {wants}")
        for dropped, names in (("drop_colour", ("red", "green", "blue")), ("drop_intensity", ("intensity",))):
            unfilled = [each.name for each in self.input.features if each.name in names and each.fill is None]
            if getattr(self.augment, dropped) and unfilled:
                raise ValueError(f"augment.{dropped}: the feature {unfilled[0]} needs a fill value to stand in for it")
        if self.task == "classify":
            self._check_clouds()
        else:
            self._check_scenes()
        return self

    def _check_clouds(self) -> None:
        if self.batch_size < 2:
            raise ValueError("batch_size: batch norm of the answers needs two clouds")
        for place, keys in OF_SCENES.items():
            part = getattr(self, place) if place else self
            for key in keys:
                if getattr(part, key) != type(part).model_fields[key].default:
                    raise ValueError(f"{place}{'.' * bool(place)}{key}: is for nets that answer for every point; leave it out")
        for key in OF_SHAPES if self.data.kind != GENERATED else ("test",):
            if getattr(self.data, key) != DataSpec.model_fields[key].default:
                raise ValueError(f"data.{key}: is {'not ' * (key == 'test')}for data.kind {GENERATED}; leave it out")
        if self.data.kind == GENERATED and self.data.classes * self.data.shapes > MOST_SHAPES:
            raise ValueError(f"data.shapes: {self.data.classes} classes of so many are more than {MOST_SHAPES:,} shapes; say fewer")
        if self.layout and self.input.views:
            raise ValueError("layout: pictures side by side have none; leave out input.views")

    def _check_scenes(self) -> None:
        if self.layout:
            raise ValueError("layout: is for nets that name whole clouds; leave it out")
        if self.data.extra and self.data.kind == LABELLED:
            raise ValueError("data.extra: is for data sets of a known kind; put your own scenes into one folder")
        if self.input.point_budget is not None:
            raise ValueError(
                "input.point_budget: every point gets an answer, none can be left out; see augment.drop and augment.max_voxels"
            )
        if self.distill is not None:
            raise ValueError("distill: is for nets that name whole clouds; leave it out")
        if self.input.whole_only:
            raise ValueError(f"input.{self.input.whole_only}: is for nets that name whole clouds; leave it out")
        for key in ("cut", "strays", "warp"):
            if getattr(self.augment, key):
                raise ValueError(f"augment.{key}: is for nets that name whole clouds; leave it out")
        if self.balance == "sampler":
            raise ValueError("balance: scenes hold many classes and cannot be drawn by class; say loss")
        if self.data.clip_test == "reference" and self.data.clip is None:
            raise ValueError("data.clip_test: says whether the test is clipped too; say data.clip as well")

    @property
    def chooses(self) -> bool:
        """Whether the published weights are those of the best epoch on validation, not of the last."""
        return self.early_stop is not None or self.selection == "reference"

    @property
    def total_epochs(self) -> int:
        """Of all runs."""
        return self.epochs * self.soup

    @property
    def task(self) -> Task:
        return "segment" if self.decoder else "classify"

    def network_spec(self, num_classes: int) -> NetworkSpec:
        """The net that the recipe trains."""
        features = len(self.input.features)
        return NetworkSpec(
            name=self.network,
            in_channels=features,
            num_classes=num_classes,
            tied=self.inflate.tied_axis,
            decoder=self.decoder,
            blur=self.blur,
            layout=self.layout,
        )

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @property
    def digest(self) -> str:
        """sha256 of the resolved recipe."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def bundled_recipes() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


@dataclass(frozen=True)
class Draft:
    """A recipe as written; keys of `input` whose value is `auto` wait for the data."""

    source: str
    content: Mapping[str, object]

    @property
    def open_keys(self) -> tuple[str, ...]:
        """Keys of `input` that the data decides."""
        spec = self.content.get("input")
        return tuple(key for key, value in spec.items() if value == AUTO) if isinstance(spec, dict) else ()

    @property
    def preview(self) -> Recipe:
        """The recipe with stand-ins for its open keys: everything else about it counts. Raises: BadRecipe."""
        return self._completed({})

    def resolve(self, derived: Mapping[str, object]) -> Recipe:
        """The recipe with its open keys filled in from `derived`. Raises: BadRecipe."""
        missing = [key for key in self.open_keys if key not in derived]
        if missing:
            raise BadRecipe(f"{self.source}: the data does not tell input.{missing[0]}; set it", where=f"input.{missing[0]}")
        return self._completed(derived)

    def _completed(self, derived: Mapping[str, object]) -> Recipe:
        """Open keys that are not in `derived` take a value that fits, so that all the others can be checked."""
        content = dict(self.content)
        if self.open_keys:
            spec = content["input"]
            assert isinstance(spec, dict)
            stand_ins = {**STAND_INS, **derived}
            content["input"] = {key: stand_ins.get(key, value) if value == AUTO else value for key, value in spec.items()}
        try:
            return Recipe.model_validate(content)
        except ValidationError as error:
            raise _explained(error, self.source) from error


def load_recipe(source: str, overrides: dict[str, object] | None = None) -> Recipe:
    """A bundled name or a YAML file, with dotted overrides (`{"optim.lr": 0.01}`). Raises: BadRecipe."""
    return read_draft(source, overrides).resolve({})


def read_draft(source: str, overrides: dict[str, object] | None = None) -> Draft:
    """The same, with keys that the data decides left open. Raises: BadRecipe."""
    path = Path(source) if source.endswith((".yaml", ".yml")) else BUNDLED / f"{source}.yaml"
    if not path.is_file():
        names = bundled_recipes()
        raise BadRecipe(f"no recipe file and no bundled recipe of that name{nearest(source, names)}", where=source, known=names)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRecipe(f"not YAML: {error}", where=str(path)) from error
    if not isinstance(content, dict):
        raise BadRecipe("must be a mapping of keys", where=str(path))
    for key, value in (overrides or {}).items():
        _set(content, key, value)
    draft = Draft(str(path), content)
    _ = draft.preview  # a mistake is told before any data is read
    return draft


def differences(old: Recipe, new: Recipe) -> list[str]:
    """`seed 0 -> 1` for every key whose value differs."""
    before, after = (_flat(recipe.model_dump(mode="json")) for recipe in (old, new))
    return [f"{key} {before.get(key)} -> {after.get(key)}" for key in {**before, **after} if before.get(key) != after.get(key)]


def _flat(content: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def parse_override(text: str) -> tuple[str, object]:
    """`key.sub=value` with a YAML value. Raises: BadRecipe."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise BadRecipe("an override is written key=value", where=text)
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadRecipe(f"the value is not YAML: {str(error).splitlines()[0]}", where=text) from error


def _set(content: dict[str, object], key: str, value: object) -> None:
    *path, last = key.split(".")
    place = content
    for part in path:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise BadRecipe(f"{part!r} holds a value, not keys", where=key)
        place = inner
    place[last] = value


def _explained(error: ValidationError, source: str) -> BadRecipe:
    """The first problem of a recipe; an unknown key comes before the key that is missing for it, and names the nearest right one."""
    problem = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *parents, last = (str(part) for part in problem["loc"])
        known = list(_fields(parents))
        return BadRecipe(f"{source}: unknown key{nearest(last, known)}", where=where, known=known)
    return BadRecipe(f"{source}: {problem['msg']}", where=where or None)


def _fields(path: list[str]) -> list[str]:
    """Field names of the model at a path of keys inside Recipe."""
    model: type[BaseModel] = Recipe
    for part in path:
        if part.isdecimal():  # a place in a list, whose items the annotation before named
            continue
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        inner = next((item for item in get_args(inner) if isinstance(item, type)), inner)
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
