"""Recipes: every bundled one is right, and a wrong one says what is wrong."""

import pytest

from models.errors import BadRecipe
from training.recipe import Recipe, bundled_recipes, load_recipe, parse_override

NAME = "bundled-modelnet40"


def test_bundled_recipes_load_and_round_trip(tmp_path) -> None:
    assert NAME in bundled_recipes()
    for name in bundled_recipes():
        recipe = load_recipe(name)
        file = tmp_path / f"{name}.yaml"
        file.write_text(recipe.to_yaml())
        assert load_recipe(str(file)) == recipe
        assert load_recipe(str(file)).digest == recipe.digest


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
    base: Recipe = load_recipe(NAME)
    assert base.digest != load_recipe(NAME, {"seed": 1}).digest
