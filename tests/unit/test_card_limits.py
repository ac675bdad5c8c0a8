"""What a card says of the objects that a classifier learnt from, which follows from how they were changed."""

import numpy as np

from models.artefact import read_manifest
from models.registry import Catalogue
from training.card_clouds import limits
from training.card_parts import Scores, Story
from training.datasets import LabelledClouds
from training.recipe import load_recipe

PLAIN = {"rotate_deg": 0, "p_rotate": 1, "tilt_deg": 0, "cut": 0, "p_cut": 1, "strays": 0, "p_strays": 1, "drop": 0}


def said(**augment: object) -> str:
    manifest = read_manifest(Catalogue().locate("modelnet40")[0])[0]
    recipe = load_recipe("bundled-modelnet40", {f"augment.{key}": value for key, value in (PLAIN | augment).items()})
    clouds = LabelledClouds(np.zeros((40, 8, 3), np.float32), np.arange(40), manifest.labels)
    return "\n".join(limits(manifest, Story(recipe, clouds, None, Scores(None, None), 0)))


def test_clouds_that_stayed_as_they_were() -> None:
    found = said()
    assert "one object a cloud, upright, facing as in the data. Its scores" in found
    assert "far fewer than 1,024 points" in found
    assert "strays" not in found


def test_clouds_that_were_turned_thinned_and_damaged() -> None:
    found = said(rotate_deg=180, p_rotate=0.5, tilt_deg=10, cut=0.3, strays=0.1, drop=0.75)
    assert "leaning by up to 10°, 50% of the clouds turned about the up axis by up to 180°, the others facing as in the data" in found
    assert "thinned by up to 75%, without up to 30% of the points at one side, with up to 10% strays within its ball. Its scores" in found
    assert "far fewer than 179 points" in found  # 1,024 of which a side is cut off, and then some are dropped
    assert "50% without up to 30%" in said(cut=0.3, p_cut=0.5)
    assert "25% with up to 10% strays" in said(strays=0.1, p_strays=0.25)
    assert "leaning" not in said(rotate_deg=15)
    assert "upright, turned about the up axis by up to 15°. Its" in said(rotate_deg=15)
    assert "some mirrored, some bent" in said(mirror=0.5, warp=0.5)
