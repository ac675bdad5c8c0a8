"""The same bytes give the same voxels in training and in the service, for every kind of scenes and every way of making voxels.

Training: the reader of the data set, and samples without augmentation. Service: the file as an upload, under the name that it has.
"""

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from fastapi import Request

from models.labels import load_label_map
from models.manifest import InputSpec, Manifest, NetworkSpec, Provenance
from models.predictor import Predictor
from models.voxelize import Voxels
from models.zoo import build
from service.pool import Live
from service.routes.upload_parts import read_voxels
from service.schemas import ClassifyOptions, ModelRef
from service.telemetry import Telemetry, Timings
from service.uploads import Spool, Upload
from tests.scene_folders import LABELS_YAML, ids, labelled, nuscenes, room, scan, scannet, write_ply
from training.datasets import FileScenes, read_scenes
from training.samples import SceneSamples

SPECS = {
    "corrected": {},
    "reference": {"rounding": "reference", "voxel_feature": "reference"},
    "trilinear": {"devoxelize": "trilinear"},
    "y up": {"up": "y"},
    "unit sphere": {"normalise": "unit_sphere", "voxel_size": 0.25},
}
NAMES = ("x", "y", "z", "red", "green", "blue", "intensity")


def predictor(options: dict[str, object]) -> Predictor:
    """An untrained net: only what its manifest says of its input matters."""
    features = [{"name": name, "scale": 0.7, "offset": -0.1, "fill": 0.25} for name in NAMES]
    spec = InputSpec.model_validate({"features": features, "voxel_size": 0.4, **options})
    label_map = load_label_map("s3dis13")
    network = NetworkSpec(name="cifar_resnet20", in_channels=len(NAMES), num_classes=len(label_map), decoder="listing")
    made = {"init": "scratch", "mode": "all", "recipe": "none", "seed": 0, "dataset": "none", "code_version": "test", "created": "now"}
    manifest = Manifest(
        name="untrained",
        task="segment",
        network=network,
        input=spec,
        labels=label_map.names,
        label_map=label_map,
        metrics={},
        provenance=Provenance.model_validate({**made, "recipe_sha256": "0" * 64, "dataset_sha256": "0" * 64}),
    )
    return Predictor(build(network), manifest, engine="torch")  # FIP_CACHE is elsewhere here: a native one would be compiled anew


def served(path: Path, model: Predictor, folder: Path) -> Voxels:
    """What the service makes of a file that somebody posts."""
    spool = Spool(folder)
    spool.write(path.read_bytes())
    live = Live(ModelRef(name="untrained", version="1", digest="", alias=None), model, "untrained", model.engine.name)
    request = Request({"type": "http", "headers": [(b"x-filename", path.name.encode()), (b"content-type", b"application/octet-stream")]})
    return read_voxels(Upload(spool, request), live, ClassifyOptions(), Timings(Telemetry()), max_points=10**6).voxels


def assert_same(one: Voxels, other: Voxels) -> None:
    """Byte for byte, with their types."""
    for field in dataclasses.fields(Voxels):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, np.ndarray):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), field.name
            assert ours.tobytes() == theirs.tobytes(), field.name
        else:
            assert ours == theirs, field.name


def kitti(root: Path) -> FileScenes:
    for seed, title in enumerate(("00/000000", "00/000001")):
        scan(root / "sequences", title, seed, count=500)
    return read_scenes("semantickitti", root, "train")


def sweeps(root: Path) -> FileScenes:
    nuscenes(root, "v1.0-mini", {"scene-0061": 2, "scene-0103": 1})
    return read_scenes("nuscenes", root, "train")


def scans(root: Path) -> FileScenes:
    scannet(root / "scans", "scene0000_00", "scene0001_00")
    (root / "scannetv2_train.txt").write_text("scene0000_00\nscene0001_00\n")
    return read_scenes("scannet", root, "train")


def rooms(root: Path) -> FileScenes:
    for seed, title in enumerate(("Area_1/office_1", "Area_2/hallway_1")):
        room(root / title, seed)
    return read_scenes("s3dis", root, "train")


def own(*names: str) -> Callable[[Path], FileScenes]:
    return lambda root: read_scenes("labelled", labelled(root, *names), "train")


def own_npy(root: Path) -> FileScenes:
    """Arrays (N, 4) in double precision, far from the origin, with a .label file beside each."""
    root.mkdir(exist_ok=True)
    (root / "labels.yaml").write_text(LABELS_YAML)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        np.save(root / f"{seed}.npy", np.c_[rng.normal([5e5, 5.4e6, 300], size=(40, 3)), rng.random(40)])
        ids(seed).astype("<u4").tofile(root / f"{seed}.label")
    return read_scenes("labelled", root, "train")


KINDS: dict[str, Callable[[Path], FileScenes]] = {
    "semantickitti": kitti,
    "nuscenes": sweeps,
    "scannet": scans,
    "s3dis": rooms,
    "labelled ply": own("a.ply", "b.ply", "c.ply"),
    "labelled npz": own("a.npz", "b.npz", "c.npz"),
    "labelled bin": own("a.bin", "b.bin", "c.bin"),
    "labelled npy": own_npy,
}


@pytest.mark.parametrize("options", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_give_the_same_voxels(
    kind: str, options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    scenes, model = KINDS[kind](tmp_path / "data"), predictor(options)
    samples = SceneSamples(scenes, model.manifest.input)
    with closing(samples.cached(tmp_path / "packs")) as kept:
        for row in range(len(scenes)):
            trained = samples.sample(row, np.random.default_rng(0)).voxels
            assert len(trained) > 10
            assert_same(served(scenes.clouds.path(int(scenes.rows[row])), model, tmp_path), trained)
            assert_same(kept.sample(row, np.random.default_rng(0)).voxels, trained)
            assert (trained.grid is not None) == (options.get("devoxelize") == "trilinear")


def test_columns_are_those_that_files_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is filled in, in training as in the service: nothing that a file has."""
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "cache"))
    model, filled = predictor({}), {}
    for kind, write in KINDS.items():
        (root := tmp_path / kind).mkdir()
        filled[kind] = SceneSamples(write(root), model.manifest.input).sample(0).voxels.filled
    colour, intensity = ("red", "green", "blue"), ("intensity",)
    lacking = {"semantickitti": colour, "nuscenes": colour, "scannet": intensity, "s3dis": intensity, "labelled ply": colour + intensity}
    assert filled == {**lacking, "labelled npz": intensity, "labelled bin": colour, "labelled npy": colour}


def test_a_room_is_the_same_in_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3DIS comes as text that the service does not read; whoever posts the room posts its points in another form."""
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "cache"))
    scenes, model = rooms(tmp_path / "data"), predictor({})
    cloud = scenes.scene(0).cloud
    assert cloud.rgb is not None
    trained = SceneSamples(scenes, model.manifest.input).sample(0).voxels
    columns = dict(zip(("x", "y", "z", "red", "green", "blue"), [*cloud.xyz.T, *cloud.rgb.T], strict=True))
    np.savez(tmp_path / "room.npz", xyz=cloud.xyz, rgb=cloud.rgb)
    for path in (write_ply(tmp_path / "room.ply", columns), tmp_path / "room.npz"):
        assert_same(served(path, model, tmp_path), trained)


@pytest.mark.data
def test_a_real_scan(data_dir: Path, tmp_path: Path) -> None:
    model = predictor({"voxel_size": 0.2})
    scenes = read_scenes("semantickitti", data_dir / "semantickitti", "test")
    trained = SceneSamples(scenes, model.manifest.input).sample(0).voxels
    assert len(trained.inverse) == 123_389
    assert_same(served(scenes.clouds.path(0), model, tmp_path), trained)
