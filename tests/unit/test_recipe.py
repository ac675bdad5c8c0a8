"""Recipes: every bundled one is right, and a wrong one says what is wrong."""

import pytest

from models.errors import BadRecipe
from models.manifest import Provenance
from training.recipe import bundled_recipes, differences, load_recipe, parse_override, read_draft

NAME = "bundled-modelnet40"


def test_bundled_recipes_load_and_round_trip(tmp_path) -> None:
    assert NAME in bundled_recipes()
    for name in bundled_recipes():
        derived = {"voxel_size": 0.05, "normalise": "unit_sphere", "point_budget": 1024, "features": [{"name": "z"}]}
        recipe = read_draft(name).resolve(derived)
        file = tmp_path / f"{name}.yaml"
        file.write_text(recipe.to_yaml())
        assert load_recipe(str(file)) == recipe
        assert load_recipe(str(file)).digest == recipe.digest


def test_what_the_data_decides() -> None:
    draft = read_draft("finetune-cifar20", {"input.point_budget": 512})
    assert draft.open_keys == ("voxel_size", "normalise")
    assert draft.preview.epochs == 50
    recipe = draft.resolve({"voxel_size": 0.1, "normalise": "unit_sphere", "point_budget": 7})
    assert (recipe.input.voxel_size, recipe.input.point_budget) == (0.1, 512)  # what is said is not overruled
    with pytest.raises(BadRecipe, match=r"input\.normalise"):
        draft.resolve({"voxel_size": 0.1})
    with pytest.raises(BadRecipe, match=r"input\.voxel_size"):
        load_recipe("finetune-cifar20")
    with pytest.raises(BadRecipe, match="epochs"):
        read_draft("finetune-cifar20", {"epochs": 0})  # before any data is read


def test_later_fields_leave_old_digests_alone() -> None:
    plain = load_recipe(NAME)
    assert not {"accumulate", "balance", "early_stop"} & plain.model_dump().keys()
    for key, value in (("accumulate", 2), ("balance", "loss"), ("early_stop", {}), ("data.split_seed", 1), ("data.test", 0.1)):
        assert load_recipe(NAME, {key: value}).digest != plain.digest
    assert differences(plain, load_recipe(NAME, {"accumulate": 2, "optim.lr": 1.0})) == ["optim.lr 0.1 -> 1.0", "accumulate None -> 2"]


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("epoch=3", "epochs"),
        ("optim.learning=1", None),
        ("optim.momentun=1", "momentum"),
        ("augment.jiter=0", "jitter"),
        ("input.voxelsize=1", "voxel_size"),
        ("input.features=[{nam: x}]", "name"),
    ],
)
def test_unknown_key_names_the_nearest(override: str, hint: str | None) -> None:
    with pytest.raises(BadRecipe, match="unknown key") as caught:
        load_recipe(NAME, dict([parse_override(override)]))
    assert caught.value.where is not None
    assert caught.value.where.startswith(override.split("=")[0])
    assert caught.value.known
    if hint:
        assert f"did you mean {hint!r}" in str(caught.value)


def test_overrides_reach_inside() -> None:
    recipe = load_recipe(NAME, {"optim.lr": 0.5, "data.shots": 3, "inflate.axes": "x-axis"})
    assert (recipe.optim.lr, recipe.data.shots, recipe.inflate.directions) == (0.5, 3, ("x", "y", "z"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"network": "resnet19"}, "did you mean 'resnet1"),
        ({"init": "scratch", "mode": "io"}, "scratch trains everything"),
        ({"init": "random-frozen"}, "freezes the stages"),
        ({"init": "random-inflated"}, "freezes the stages"),
        ({"inflate.repeat": "x"}, "three different axes"),
        ({"inflate.axes": "x-axis", "inflate.repeat": "z"}, "not both"),
        ({"inflate.stages": [1, 9]}, "stages are 1 to 4"),
        ({"optim.lr": float("inf")}, "finite"),
        ({"augment.translate": float("nan")}, "finite"),
        ({"optim.momentum": 0}, "nesterov needs a momentum"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"epochs": 0}, "greater than 0"),
        ({"name.sub": 1}, "holds a value"),
    ],
)
def test_wrong_values(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(BadRecipe, match=message):
        load_recipe(NAME, overrides)


def test_files_that_are_no_recipe(tmp_path) -> None:
    with pytest.raises(BadRecipe, match="no bundled recipe"):
        load_recipe("bundled-modelnet4")
    for text, message in (("- a\n- b\n", "mapping"), ("a: [", "not YAML")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(BadRecipe, match=message):
            load_recipe(str(tmp_path / "bad.yaml"))
    (tmp_path / "bad.yaml").write_bytes(b"name: \xff")
    with pytest.raises(BadRecipe, match="not YAML"):
        load_recipe(str(tmp_path / "bad.yaml"))
    for text, message in (("epochs", "key=value"), ("optim.lr=[1", "not YAML")):
        with pytest.raises(BadRecipe, match=message):
            parse_override(text)


def test_digest_changes_with_any_value() -> None:
    base = load_recipe(NAME)
    assert base.digest != load_recipe(NAME, {"seed": 1}).digest


def test_a_manifest_from_before_engines_were_recorded_is_written_as_it_was() -> None:
    """Byte for byte, so that its digest holds."""
    made = Provenance(
        init="scratch",
        mode="all",
        recipe=NAME,
        recipe_sha256="0" * 64,
        seed=0,
        dataset="shapes",
        dataset_sha256="1" * 64,
        code_version="test",
        created="2026-01-01T00:00:00Z",
    )
    assert "engine" not in made.model_dump_json()
    assert Provenance.model_validate_json(made.model_dump_json()) == made
    told = made.model_copy(update={"engine": "native"})
    assert Provenance.model_validate_json(told.model_dump_json()).engine == "native"
