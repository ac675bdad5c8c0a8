"""Made-up clouds are what they say; damaged ones are refused by the very readers that the service uses."""

import io
from pathlib import Path

import numpy as np
import pytest

from models.errors import BadOption, InputError
from models.io import read_cloud
from service.load.bodies import gather, made_up, parse_points
from service.load.damage import damaged, is_refused
from service.load.plan import Body

XYZ = np.random.default_rng(0).normal(size=(500, 3)).astype("<f4")


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, XYZ, allow_pickle=False)
    return file.getvalue()


FILES = {
    "cloud.ply": made_up(500, "classify", 0),
    "cloud.xyz": "\n".join(" ".join(f"{value:.4f}" for value in row) for row in XYZ).encode(),
    "scan.bin": np.column_stack([XYZ, np.ones(len(XYZ))]).astype("<f4").tobytes(),
    "cloud.npy": npy(),
}


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_made_up_clouds_have_their_points(tmp_path: Path, task: str) -> None:
    (tmp_path / "a.ply").write_bytes(made_up(12_345, task, 0))
    cloud = read_cloud(tmp_path / "a.ply").checked()
    assert len(cloud) == 12_345
    assert cloud.intensity is not None
    assert made_up(100, task, 0) == made_up(100, task, 0) != made_up(100, task, 1)


@pytest.mark.parametrize("name", FILES)
def test_damaged_bodies_are_refused(tmp_path: Path, name: str) -> None:
    variants = damaged(Body(name, FILES[name]), 3)
    assert not is_refused(FILES[name], name)
    assert "empty" in {each.name for each in variants}
    for each in variants:
        path = tmp_path / name
        path.write_bytes(each.data)
        with pytest.raises(InputError):
            read_cloud(path).checked()


def test_a_binary_ply_can_be_damaged_in_every_way() -> None:
    assert [each.name for each in damaged(Body("cloud.ply", FILES["cloud.ply"]), 0)] == ["cut", "header", "random", "empty"]


def test_text_that_is_a_cloud_still_is_not_taken_for_damaged() -> None:
    text = b"".join(b"%d.5 1 2\n" % each for each in range(1000))  # cut within a last number it is rows of three numbers still
    assert all(is_refused(each.data, "a.xyz") for each in damaged(Body("a.xyz", text), 0))


def test_points_and_weights() -> None:
    assert parse_points("1000:0.7,20000:0.25,5,6:") == {1000: 0.7, 20000: 0.25, 5: 1.0, 6: 1.0}


@pytest.mark.parametrize("text", ["", "x", "5:y", "0", "-3", "1,,2", "99999999999"])
def test_wrong_points_are_named(text: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_points(text)
    assert caught.value.where == "--points"


def test_files_and_made_up_clouds_together(tmp_path: Path) -> None:
    (tmp_path / "scan.bin").write_bytes(FILES["scan.bin"])
    bodies = gather([tmp_path / "scan.bin"], {64: 0.5}, "classify", 0)
    assert [(body.name, body.weight) for body in bodies] == [("scan.bin", 1.0), ("made-up-64.ply", 0.5)]
    assert bodies[0].data == FILES["scan.bin"]
