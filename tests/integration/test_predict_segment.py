"""`fip predict` with a model that segments: what it prints, what it writes, and what it refuses to write over."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.answers import ANSWERS
from models.answers.names import answer_name
from models.cli import run
from models.commands.predict import ANSWER_NAMES
from models.commands.predict_out import FORMATS
from models.commands.predict_progress import LARGE_BYTES, tile_of
from models.commands.predict_rows import ADVICE, notes
from models.io import read_cloud
from models.labels import load_label_map
from models.predictor import Predictor
from models.processor import Segmentation
from models.registry.catalogue import BUNDLED
from models.tiling import TILE
from service.app import create_app
from service.settings import Settings
from tests.untrained_segmenter import save_segmenter

STREETS = load_label_map("semantickitti19")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def registry(tiny_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier `tiny` and the untrained segmenter `streets`, which fills a missing intensity."""
    registry = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_registry / "tiny", registry / "tiny")
    save_segmenter(registry / "streets" / "1", "streets")
    return registry


@pytest.fixture
def use(registry: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.delenv("FIP_MODEL", raising=False)
    return ["predict", "--registry", str(registry), "--model", "streets"]


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """A made-up scan: 2,000 points with intensity."""
    rng = np.random.default_rng(0)
    path = tmp_path / "street.bin"
    path.write_bytes(np.column_stack([rng.uniform(-8, 8, (2000, 3)), rng.random(2000)]).astype("<f4").tobytes())
    return path


def answer(registry: Path, path: Path) -> Segmentation:
    predictor = Predictor.load(registry / "streets" / "1")
    return predictor.segment([predictor.voxelize(read_cloud(path))])[0]


def served(registry: Path, path: Path, fmt: str) -> httpx.Response:
    """What the service says of a KITTI file."""

    async def post() -> httpx.Response:
        app = create_app(Settings(registry=str(registry), model="streets"))
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/segment", content=path.read_bytes(), params={"input_format": "bin", "format": fmt})

    return asyncio.run(post()).raise_for_status()


def test_a_line_of_shares(use: list[str], street: Path, registry: Path, capsys: Capture) -> None:
    assert run([*use, "--top", "2", str(street)]) == 0
    counts = np.bincount(answer(registry, street).labels)
    first, second = np.argsort(-counts, kind="stable")[:2]
    shares = [f"{STREETS.names[index]} {100 * (counts[index] / 2000):.1f} %" for index in (first, second)]
    assert capsys.readouterr().out == f"{street}: 2,000 points: {', '.join(shares)}, …\n"
    assert run([*use, "--top", "99", str(street)]) == 0
    assert "…" not in capsys.readouterr().out
    assert run([*use, str(street)]) == 0
    assert capsys.readouterr().out.count("%") == 5


def test_json_has_the_fields_and_values_of_the_service(use: list[str], street: Path, registry: Path, capsys: Capture) -> None:
    assert run([*use, "--json", str(street)]) == 0
    row = json.loads(capsys.readouterr().out)
    expected = served(registry, street, "json").json()
    assert set(row) == {"file", *expected} - {"timings_ms"}
    assert {name: row[name] for name in set(row) - {"file", "model"}} == {
        name: expected[name] for name in set(expected) - {"model", "timings_ms"}
    }
    assert row["model"] == {name: expected["model"][name] for name in ("name", "version", "digest")}


@pytest.mark.parametrize("fmt", [*(name for name in ANSWERS if name != "npy"), "same"])  # npy is for npy files
def test_what_is_written_is_what_the_service_answers(use: list[str], street: Path, registry: Path, tmp_path: Path, fmt: str) -> None:
    assert run([*use, "--format", fmt, "--out", str(tmp_path / "new" / "folder") + "/", str(street)]) == 0
    [written] = (tmp_path / "new" / "folder").iterdir()  # and nothing else: no half-written file is left
    assert written.name == answer_name("street.bin", fmt)
    assert written.read_bytes() == served(registry, street, fmt).content


def test_the_file_itself_with_columns_added(use: list[str], street: Path, registry: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run([*use, "-o", str(tmp_path), str(street)]) == 0
    first = tmp_path / "street.ply"
    assert run([*use, "--format", "same", "-o", str(tmp_path / "again.ply"), str(first)]) == 0
    table = read_cloud(tmp_path / "again.ply")
    assert table.extra["fip_label"].tolist() == table.extra["label"].tolist() == answer(registry, street).labels.tolist()
    scan = shutil.copy(street, tmp_path / "street.dat")
    assert run([*use, "--format", "same", "--input-format", "bin", "-o", str(tmp_path), str(scan)]) == 0
    assert np.fromfile(tmp_path / "street.dat.label", "<u4").tolist() == STREETS.ids_of(answer(registry, street).labels).tolist()
    mesh = tmp_path / "mesh.off"
    mesh.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    capsys.readouterr()
    assert run([*use, "--format", "same", "-o", str(tmp_path / "out"), str(mesh)]) == 2
    assert "error [bad_option]: " in capsys.readouterr().err
    assert not any((tmp_path / "out").iterdir())


def test_tiles_are_told(use: list[str], street: Path, registry: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a margin as wide as the net sees the answer is that of one piece; one that is narrower is told."""
    assert run([*use, "--json", str(street)]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["tiles"], whole["halo"]) == (1, None)
    full = Predictor.load(registry / "streets" / "1").reach.radius
    asked = [*use, "--tile-voxels", "1500", str(street)]
    assert run([*asked, "--tile-halo", "4"]) == 0
    told = capsys.readouterr()
    tiles = int(told.out.partition(" points, ")[2].partition(" tiles ")[0])
    assert tiles > 1
    assert told.out.startswith(f"{street}: 2,000 points, {tiles} tiles with a margin of 4 of the {full} voxels that the net sees: ")
    assert told.err == ""  # so short a run has no line of progress where it is no terminal
    monkeypatch.setenv("FIP_TILE_VOXELS", "1500")
    monkeypatch.setenv("FIP_TILE_HALO", "4")
    assert run([*use, "--json", str(street)]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["tiles"], row["halo"]) == (tiles, {"voxels": 4, "full": full})
    monkeypatch.delenv("FIP_TILE_HALO")
    assert run([*use, "--json", str(street)]) == 3
    assert json.loads(capsys.readouterr().out)["code"] == "too_many_voxels"
    assert run([*asked, "--tile-voxels", "0"]) == 2


def test_wide_margins_change_nothing(use: list[str], tmp_path: Path, capsys: Capture) -> None:
    """A street long enough to be cut."""
    rng = np.random.default_rng(0)
    cloud = np.column_stack([rng.uniform(0, 400, 6000), rng.uniform(-3, 3, (6000, 2)), rng.random(6000)])
    cloud.astype("<f4").tofile(tmp_path / "long.bin")
    asked = [*use, str(tmp_path / "long.bin")]
    assert run([*asked, "-o", str(tmp_path / "one.label")]) == 0
    capsys.readouterr()
    assert run([*asked, "-o", str(tmp_path / "tiles.label"), "--tile-voxels", "5000"]) == 0
    said = capsys.readouterr().out
    assert " tiles: " in said
    assert "with a margin" not in said
    one, tiled = (np.fromfile(tmp_path / name, "<u4") for name in ("one.label", "tiles.label"))
    assert (one == tiled).mean() >= 0.999


def test_the_help_names_what_there_is(capsys: Capture) -> None:
    """It imports nothing that knows."""
    assert (set(ANSWER_NAMES), len(ANSWER_NAMES)) == (set(FORMATS), len(FORMATS))
    assert run(["predict", "--help"]) == 0
    assert f"[default: {TILE.voxels}]" in " ".join(capsys.readouterr().out.split())


def test_json_in_a_file(use: list[str], street: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "answer.json"
    assert run([*use, "--json", "-o", str(out), str(street)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("out") == str(out)
    assert json.loads(out.read_text()) == printed


@pytest.mark.parametrize(
    ("out", "options", "begins"),
    [
        ("x.ply", [], b"ply\n"),
        ("x.npz", [], b"PK"),
        ("x.NPZ", [], b"PK"),
        ("x/street.ply", [], b"ply\n"),
        ("x.ply", ["--format", "npz"], b"PK"),
        ("a/b/x.ply", [], b"ply\n"),
    ],
)
def test_the_ending_says_the_format(use: list[str], street: Path, tmp_path: Path, out: str, options: list[str], begins: bytes) -> None:
    assert run([*use, *options, "--out", str(tmp_path / out), str(street)]) == 0
    assert (tmp_path / out).read_bytes().startswith(begins)


def test_same_under_the_ending_of_another_format_is_refused(use: list[str], street: Path, tmp_path: Path, capsys: Capture) -> None:
    for fmt in ("las", "laz"):
        assert run([*use, "-o", str(tmp_path / f"street.{fmt}"), str(street)]) == 0
    asked = [*use, "--format", "same"]
    for source, out, word in (
        ("street.laz", "x.las", "gives laz here"),
        ("street.las", "x.laz", "say --format laz"),
        ("street.bin", "x.ply", ""),
    ):
        capsys.readouterr()
        assert run([*asked, "-o", str(tmp_path / out), str(tmp_path / source)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith(f"error [bad_option]: {tmp_path / source}: --out: --format same gives ")
        assert word in said.err
        assert not (tmp_path / out).exists()
    for source, out in (("street.laz", "x.laz"), ("street.las", "x.las"), ("street.bin", "x.label"), ("street.bin", "x.dat")):
        assert run([*asked, "-o", str(tmp_path / out), str(tmp_path / source)]) == 0


def test_without_an_ending_it_is_a_folder(use: list[str], street: Path, tmp_path: Path) -> None:
    assert run([*use, "--out", str(tmp_path / "x"), str(street)]) == 0
    assert (tmp_path / "x" / "street.ply").read_bytes().startswith(b"ply\n")


def test_one_name_is_not_for_two_files(use: list[str], street: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(street.read_bytes())
    assert run([*use, "--out", str(tmp_path / "x.ply"), str(street), str(other)]) == 2
    assert "is the name of one file, and there are 2 to write" in capsys.readouterr().err
    assert not (tmp_path / "x.ply").exists()


def test_links_and_pipes_are_not_replaced(use: list[str], street: Path, tmp_path: Path, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "pipe.ply")
    (tmp_path / "link.ply").symlink_to(tmp_path / "elsewhere.ply")
    for name in ("pipe.ply", "link.ply"):
        assert run([*use, "--force", "--out", str(tmp_path / name), str(street)]) == 2
        assert "is no plain file, and is not replaced" in capsys.readouterr().err
    assert (tmp_path / "pipe.ply").is_fifo()
    assert (tmp_path / "link.ply").is_symlink()


def test_a_labelled_ply_is_read_again(use: list[str], street: Path, registry: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run([*use, "-o", str(tmp_path), str(street)]) == 0
    assert capsys.readouterr().out.endswith(f" -> {tmp_path / 'street.ply'}\n")
    again = read_cloud(tmp_path / "street.ply")
    assert again.extra["label"].tolist() == answer(registry, street).labels.tolist()
    assert run([*use, "-o", str(tmp_path), str(tmp_path / "street.ply")]) == 0  # beside the file that is read
    assert {path.name for path in tmp_path.glob("*.ply")} == {"street.ply", "street.labelled.ply"}
    table = read_cloud(tmp_path / "street.labelled.ply")
    assert {"label", "fip_label", "fip_confidence"} <= set(table.extra)


def test_several_files_and_one_that_is_bad(use: list[str], street: Path, tmp_path: Path, capsys: Capture) -> None:
    other, empty = tmp_path / "other.npy", tmp_path / "empty.bin"
    np.save(other, np.random.default_rng(1).uniform(-3, 3, (300, 3)))
    empty.touch()
    assert run([*use, "--format", "label", "-o", str(tmp_path / "out"), str(street), str(empty), str(other)]) == 3
    out, err = capsys.readouterr()
    assert [line.partition(": ")[0] for line in out.splitlines()] == [str(street), str(other)]
    assert err.startswith(f"error [empty_file]: {empty}: ")
    assert {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()} == {"street.label": 8000, "other.label": 1200}


def refused(arguments: list[str], capsys: Capture) -> str:
    """What wrong usage says; nothing is computed."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return " ".join(err.replace("│", " ").split())


def test_nothing_is_written_over(use: list[str], street: Path, tmp_path: Path, capsys: Capture) -> None:
    before = street.read_bytes()
    out = tmp_path / "street.label"
    out.write_text("mine")
    assert "exists; --force replaces it" in refused([*use, "-o", str(out), str(street)], capsys)
    assert "exists" in refused([*use, "--format", "label", "-o", str(tmp_path), str(street)], capsys)
    assert out.read_text() == "mine"
    for path in (street, tmp_path / "x" / ".." / "street.bin"):
        assert "is a file to read" in refused([*use, "--force", "--format", "raw", "-o", str(path), str(street)], capsys)
    link = tmp_path / "link.ply"
    link.symlink_to(street)
    assert "is a file to read" in refused([*use, "--force", "-o", str(link), str(street)], capsys)
    assert street.read_bytes() == before
    assert run([*use, "--force", "-o", str(out), str(street)]) == 0
    assert len(out.read_bytes()) == 8000


def test_what_out_may_be(use: list[str], street: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a").mkdir()
    twin = Path(shutil.copy(street, tmp_path / "a"))
    asked = [*use, "-o", str(tmp_path / "out")]
    assert "2 of the files would be written to" in refused([*asked, str(street), str(twin)], capsys)
    assert "names no format" in refused([*use, "-o", str(tmp_path / "x.shp"), str(street)], capsys)
    assert "did you mean 'label'?" in refused([*asked, "--format", "lable", str(street)], capsys)
    assert "there is no --out" in refused([*use, "--format", "label", str(street)], capsys)
    assert "there is no --out" in refused([*use, "--force", str(street)], capsys)
    assert "cannot be made" in refused([*use, "-o", str(street / "x.ply"), str(street)], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "street.bin"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_into(use: list[str], street: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert run([*use, "-o", str(tmp_path / "locked"), str(street)]) == 2
    assert "cannot be written: Permission denied" in capsys.readouterr().err


def test_a_classifier_has_no_answer_for_points(registry: Path, street: Path, tmp_path: Path, capsys: Capture) -> None:
    said = refused(["predict", "--registry", str(registry), "--model", "tiny", "-o", str(tmp_path / "out"), str(street)], capsys)
    assert "--out: tiny gives no point a class" in said
    assert not (tmp_path / "out").exists()


def model_of(arguments: list[str], capsys: Capture) -> str:
    assert run(["predict", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)["model"]["name"]


def test_the_task_chooses_the_model(registry: Path, street: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIP_MODEL", raising=False)
    common = ["--registry", str(registry), str(street)]
    segmenter = "lidar19" if (BUNDLED / "lidar19").is_dir() else "streets"
    assert model_of(common, capsys) == "modelnet40"
    assert model_of([*common, "--task", "classify"], capsys) == "modelnet40"
    assert model_of([*common, "--task", "segment"], capsys) == segmenter
    assert model_of([*common, "--out", str(tmp_path / "x.ply")], capsys) == segmenter
    assert model_of([*common, "--task", "segment", "--model", "streets"], capsys) == "streets"
    assert model_of([*common, "--task", "segment", "--model", str(registry / "streets" / "1")], capsys) == "streets"
    assert run(["predict", *common, "--task", "segment", "--model", "tiny"]) == 4
    assert "error [wrong_task]: model 'tiny' does not segment" in capsys.readouterr().err


def test_a_model_of_the_environment_is_the_default_of_its_own_task(
    registry: Path, street: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--registry", str(registry), str(street)]
    monkeypatch.setenv("FIP_MODEL", "streets")
    assert model_of(common, capsys) == "streets"
    assert model_of([*common, "--task", "segment"], capsys) == "streets"
    assert model_of([*common, "--task", "classify"], capsys) == "modelnet40"
    monkeypatch.setenv("FIP_MODEL", "tiny")
    assert model_of(common, capsys) == "tiny"
    assert model_of([*common, "--format", "raw", "-o", str(tmp_path)], capsys) not in ("tiny", "modelnet40")


def test_filled_features_are_told(use: list[str], tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "bare.npy"
    np.save(path, np.random.default_rng(1).uniform(-3, 3, (300, 3)))
    assert run([*use, "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["filled"] == ["intensity"]
    assert run([*use, str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: 300 points, intensity filled: ")
    assert notes((), ("intensity",)) == ["intensity scaled"]


def test_who_chose_no_task_is_told_of_the_other_one(
    registry: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIP_MODEL", raising=False)
    common = ["predict", "--registry", str(registry)]
    folder = tmp_path / "surveys"
    for name, points in (("a.npy", 300), ("b.npy", 20_001), ("c.npy", 20_001)):
        folder.mkdir(exist_ok=True)
        np.save(folder / name, np.random.default_rng(1).uniform(-3, 3, (points, 3)))
    files = [str(path) for path in sorted(folder.iterdir())]
    for arguments in ([str(folder)], files):
        assert run([*common, *arguments]) == 0
        assert capsys.readouterr().err == f"{ADVICE}\n"  # once
        for chosen in (["--task", "classify"], ["--model", "tiny"]):
            assert run([*common, *chosen, *arguments]) == 0
            assert capsys.readouterr().err == ""
    assert run([*common, files[0]]) == 0
    assert capsys.readouterr().err == ""


def test_what_takes_long_is_told_at_once(use: list[str], registry: Path, tmp_path: Path, capsys: Capture) -> None:
    """Of a large file that it is read and that it is written, however short that is; and no tile twice."""
    path = tmp_path / "large.npy"
    np.save(path, np.random.default_rng(1).uniform(-3, 3, (LARGE_BYTES // 24, 3)))
    assert run([*use, "-o", str(tmp_path / "x.label"), str(path)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert (told[0], told[-1]) == (f"{path}, reading", f"{path}, writing")
    assert [tile_of(done, 3) for done in range(4)] == [", tile 1 of 3", ", tile 2 of 3", ", tile 3 of 3", ""]


@pytest.mark.data
def test_a_scan_of_kitti(use: list[str], registry: Path, data_dir: Path, tmp_path: Path, capsys: Capture) -> None:
    scan = data_dir / "semantickitti/sequences/08/velodyne/000000.bin"
    assert run([*use, "-o", str(tmp_path / "000000.label"), str(scan)]) == 0
    assert capsys.readouterr().out.startswith(f"{scan}: 123,389 points: ")
    written = np.fromfile(tmp_path / "000000.label", "<u4")
    assert written.tolist() == STREETS.ids_of(answer(registry, scan).labels).tolist()
