"""The training loop: going on after a stop, batches split over micro-batches and workers, balance, early stop, caching."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from multiprocessing import active_children, current_process
from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import BadDataset, BadRunDir, NonFinite
from models.pointcloud import PointCloud
from models.sparse.tensor import collate
from training.batches import plan_epoch, train_batches
from training.datasets import LabelledClouds, read_split
from training.datasets.folder import folder_splits
from training.datasets.listing import list_folder
from training.distributed import ALONE
from training.engine import engine_of_run
from training.loop import Compute, fit
from training.pack import Pack, write_pack
from training.recipe import Recipe, load_recipe
from training.run import Start, start, training_splits
from training.runlog import read_scalars
from training.runstate import BEST, STATE, held, read_state, read_weights, write
from training.samples import CloudSamples, inverse_frequency

SMALL: dict[str, object] = {"input.voxel_size": 0.2, "batch_size": 8, "data.validation": 0.2, "epochs": 3}


def begin(image_file: Path, overrides: dict[str, object] | None = None) -> tuple[Recipe, Start]:
    recipe = load_recipe("bundled-modelnet40", SMALL | (overrides or {}))
    return recipe, start(recipe, 3, str(image_file))


def fitted(data: Path, image_file: Path, run_dir: Path, overrides: dict[str, object] | None = None, compute: Compute | None = None) -> Path:
    recipe, beginning = begin(image_file, overrides)
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    fit(beginning.net, beginning.policy, recipe, splits.train, splits.validation, run_dir, compute or Compute())
    return run_dir


def flat(state: object, prefix: str = "") -> dict[str, object]:
    """Every tensor and number of a state, however deep, by its path."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {path: leaf for key, value in items for path, leaf in flat(value, f"{prefix}/{key}").items()}
    return {prefix: state}


def assert_same(run_dir: Path, other: Path) -> None:
    """Weights, buffers, momenta, schedule and best weights, bit for bit."""
    for read, name in ((read_state, STATE), (read_weights, BEST)):
        first, second = flat(read(run_dir / name)), flat(read(other / name))
        assert first.keys() == second.keys()
        for path, leaf in first.items():
            same = torch.equal(leaf, second[path]) if isinstance(leaf, torch.Tensor) else leaf == second[path]
            assert same, path
    assert any("momentum_buffer" in path for path in flat(read_state(run_dir / STATE)))


@pytest.fixture(scope="module")
def whole(data: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(data, image_file, tmp_path_factory.mktemp("runs") / "whole")


class Interrupting(LabelledClouds):
    """Clouds that press Ctrl-C when cloud number `count` is read."""

    count = 0
    left: list[int]

    def cloud(self, index: int) -> PointCloud:
        self.left[0] -= 1
        if self.left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().cloud(index)


@pytest.mark.parametrize("reads", [5, 38, 45, 95])  # in the first epoch of 38 or so clouds, in its last step, in the second and third
def test_ctrl_c_saves_and_going_on_gives_the_same_bits(whole: Path, data: Path, image_file: Path, tmp_path: Path, reads: int) -> None:
    recipe, beginning = begin(image_file)
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    clouds = Interrupting(splits.train.xyz, splits.train.targets, splits.train.names)  # type: ignore[attr-defined]
    object.__setattr__(clouds, "left", [reads])
    with pytest.raises(KeyboardInterrupt):
        fit(beginning.net, beginning.policy, recipe, clouds, splits.validation, tmp_path, Compute(cache=False))
    stopped = read_state(tmp_path / STATE)
    assert stopped["epoch"] == reads // 39
    assert stopped["step"] > 0
    assert len(stopped["losses"]) == stopped["step"]
    fitted(data, image_file, tmp_path, compute=Compute(cache=False))
    assert_same(whole, tmp_path)
    assert [(row["loss"], row["lr"]) for row in read_scalars(tmp_path)] == [(row["loss"], row["lr"]) for row in read_scalars(whole)]


class Breaking(LabelledClouds):
    """Clouds of which a few can be read."""

    left: list[int]

    def cloud(self, index: int) -> PointCloud:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise Broken
        return super().cloud(index)


class Broken(Exception):
    pass


def test_what_is_saved_within_an_epoch_goes_on_to_the_same_bits(whole: Path, data: Path, image_file: Path, tmp_path: Path) -> None:
    recipe, beginning = begin(image_file)
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    clouds = Breaking(splits.train.xyz, splits.train.targets, splits.train.names)  # type: ignore[attr-defined]
    object.__setattr__(clouds, "left", [39 + 20])
    with pytest.raises(Broken):
        fit(beginning.net, beginning.policy, recipe, clouds, splits.validation, tmp_path, Compute(cache=False, save_every_s=0.0))
    stopped = read_state(tmp_path / STATE)
    assert (stopped["epoch"], stopped["step"]) == (1, 2)
    fitted(data, image_file, tmp_path, compute=Compute(cache=False))
    assert_same(whole, tmp_path)


@pytest.mark.parametrize("said", [None, "auto", "reference"])
def test_a_run_goes_on_on_the_engine_it_began_on(data: Path, image_file: Path, tmp_path: Path, said: str | None) -> None:
    """On `reference`, which `auto` never chooses: to the bits of a run that was not stopped."""
    reference = Compute(cache=False, engine="reference")
    fitted(data, image_file, tmp_path / "whole", {"epochs": 2}, reference)
    recipe, beginning = begin(image_file, {"epochs": 2})
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    clouds = Interrupting(splits.train.xyz, splits.train.targets, splits.train.names)  # type: ignore[attr-defined]
    object.__setattr__(clouds, "left", [39 + 10])
    with pytest.raises(KeyboardInterrupt):
        fit(beginning.net, beginning.policy, recipe, clouds, splits.validation, tmp_path / "stopped", reference)
    fitted(data, image_file, tmp_path / "stopped", {"epochs": 2}, Compute(cache=False, engine=said))
    assert read_state(tmp_path / "stopped" / STATE)["engine"] == "reference"
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_on_an_engine_goes_on_on_no_other(data: Path, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(data, image_file, tmp_path, {"epochs": 1}, Compute(engine="reference"))
    before = (tmp_path / STATE).read_bytes()
    how = "began on engine 'reference', not 'torch': go on with --engine reference, or start anew in another --run-dir"
    with pytest.raises(BadRunDir, match=how):
        fitted(data, image_file, tmp_path, {"epochs": 2}, Compute(engine="torch"))
    monkeypatch.setenv("FIP_ENGINE", "torch")
    with pytest.raises(BadRunDir, match=how):
        fitted(data, image_file, tmp_path, {"epochs": 2})
    assert (tmp_path / STATE).read_bytes() == before
    fitted(data, image_file, tmp_path, {"epochs": 2}, Compute(engine="reference"))  # what is named wins over the environment
    assert read_state(tmp_path / STATE)["epoch"] == 2


def test_an_engine_that_is_not_to_be_had_is_not_replaced(data: Path, image_file: Path, tmp_path: Path) -> None:
    fitted(data, image_file, tmp_path, {"epochs": 1}, Compute(engine="reference"))
    write(tmp_path / STATE, {**read_state(tmp_path / STATE), "engine": "abacus"})
    with pytest.raises(BadRunDir, match=r"began on engine 'abacus', which cannot go on here: .*no such engine .*start anew"):
        fitted(data, image_file, tmp_path, {"epochs": 2})
    with pytest.raises(BadRunDir, match="began on engine 'native', which cannot go on here: "):  # known, but not on this device
        engine_of_run(tmp_path, "native", None, torch.device("meta"), ALONE)


def test_a_state_from_before_engines_were_recorded_goes_on(data: Path, image_file: Path, tmp_path: Path) -> None:
    fitted(data, image_file, tmp_path, {"epochs": 1}, Compute(engine="torch"))
    state = read_state(tmp_path / STATE)
    write(tmp_path / STATE, {key: value for key, value in state.items() if key != "engine"})
    fitted(data, image_file, tmp_path, {"epochs": 2}, Compute(engine="reference"))
    assert read_state(tmp_path / STATE)["engine"] == "reference"


RANKS = """
import os, sys
from pathlib import Path
os.environ["FIP_ENGINE"] = ("reference", "torch")[int(os.environ["RANK"])]
import torch
from training.distributed import world
from training.engine import engine_of_run

with world("cpu") as (here, device):
    engine = engine_of_run(Path("run"), None, None, torch.device(device), here)
    Path(sys.argv[1], str(here.rank)).write_text(engine.name)
"""


def test_all_processes_compute_on_the_engine_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "ranks.py")]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["reference", "reference"]


def test_ctrl_c_while_the_last_epoch_is_validated_ends_the_run(data: Path, image_file: Path, tmp_path: Path) -> None:
    recipe, beginning = begin(image_file, {"epochs": 1})
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    held = Interrupting(splits.validation.xyz, splits.validation.targets, splits.validation.names)  # type: ignore[attr-defined]
    object.__setattr__(held, "left", [3])
    with pytest.raises(KeyboardInterrupt):
        fit(beginning.net, beginning.policy, recipe, splits.train, held, tmp_path, Compute(cache=False))
    assert read_state(tmp_path / STATE)["epoch"] == 1


def test_the_best_weights_are_not_simply_the_last(data: Path, image_file: Path, tmp_path: Path) -> None:
    fitted(data, image_file, tmp_path, {"schedule.kind": "constant", "schedule.warmup_epochs": 0, "epochs": 1})
    state = read_state(tmp_path / STATE)
    write(tmp_path / STATE, {**state, "best": 2.0})  # better than anything can be
    before = (tmp_path / BEST).read_bytes()
    recipe, beginning = begin(image_file, {"schedule.kind": "constant", "schedule.warmup_epochs": 0, "epochs": 2})
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    assert fit(beginning.net, beginning.policy, recipe, splits.train, splits.validation, tmp_path).best_epoch == 1
    assert (tmp_path / BEST).read_bytes() == before


def test_batches_that_leave_nothing_to_train_on_are_refused(data: Path, image_file: Path, tmp_path: Path) -> None:
    recipe, beginning = begin(image_file)
    clouds = read_split("modelnet40", data, "train")
    with pytest.raises(BadDataset, match="1 samples in batches of 8"):
        fit(beginning.net, beginning.policy, recipe, clouds.take(np.arange(1)), clouds.take(np.arange(0)), tmp_path)


def test_one_process_a_run_directory(tmp_path: Path) -> None:
    with held(tmp_path / "run"), pytest.raises(BadRunDir, match="another process trains here"), held(tmp_path / "run"):
        pass
    with held(tmp_path / "run"):
        pass


def test_the_reader_of_a_worker_says_what_is_wrong(data: Path, image_file: Path, tmp_path: Path) -> None:
    recipe, beginning = begin(image_file)
    clouds = read_split("modelnet40", data, "train")
    xyz = clouds.xyz.copy()  # type: ignore[attr-defined]
    xyz[5] = np.nan
    broken = replace(clouds, xyz=xyz)  # type: ignore[type-var]
    with pytest.raises(NonFinite, match="coordinates must be finite") as caught:
        fit(beginning.net, beginning.policy, recipe, broken, clouds.take(np.arange(0)), tmp_path, Compute(workers=1, cache=False))
    assert "Traceback" not in str(caught.value)


def train_process(data: Path, image_file: Path, run_dir: Path, *more: str) -> subprocess.Popen[bytes]:
    """`fip train` as a user starts it."""
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    command = [str(Path(sys.executable).with_name("fip")), "train", "bundled-modelnet40", "--data", str(data), "--weights", str(image_file)]
    command += ["--run-dir", str(run_dir), "--threads", "1", *settings, *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("epochs_done", [0, 1, 2])
def test_kill_9_and_going_on_gives_the_same_bits(
    data: Path, image_file: Path, tmp_path: Path, epochs_done: int, whole_process: Path
) -> None:
    run_dir = tmp_path / "run"
    process = train_process(data, image_file, run_dir)
    deadline = time.monotonic() + 120
    while len(read_scalars(run_dir)) < epochs_done or not (run_dir / "run.json").is_file():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (run_dir / "checkpoint").exists()
    assert train_process(data, image_file, run_dir).wait() == 0
    assert_same(whole_process, run_dir)
    weights = [folder / "checkpoint" / "model.safetensors" for folder in (whole_process, run_dir)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.fixture(scope="module")
def whole_process(data: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "process"
    assert train_process(data, image_file, run_dir).wait() == 0
    return run_dir


def test_sigterm_saves_too(data: Path, image_file: Path, tmp_path: Path) -> None:
    process = train_process(data, image_file, tmp_path, "--set", "epochs=500")
    deadline = time.monotonic() + 120
    while not read_scalars(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130
    state = read_state(tmp_path / STATE)
    assert state["epoch"] >= 1


def test_workers_and_caches_change_nothing(whole: Path, data: Path, image_file: Path, tmp_path: Path) -> None:
    fitted(data, image_file, tmp_path / "workers", compute=Compute(workers=2))
    fitted(data, image_file, tmp_path / "no-cache", compute=Compute(workers=1, cache=False))
    assert_same(whole, tmp_path / "workers")
    assert_same(whole, tmp_path / "no-cache")
    assert (whole / "cache").is_dir()
    assert not (tmp_path / "no-cache" / "cache").exists()


def test_micro_batches_are_one_batch_where_norms_are_frozen(data: Path, image_file: Path, tmp_path: Path) -> None:
    """Gradients add up: with every batch norm in evaluation mode, two batches of 4 are one of 8."""
    nets = []
    for number, sizes in enumerate(({"batch_size": 8}, {"batch_size": 4, "accumulate": 2})):
        recipe, beginning = begin(image_file, {"init": "random-frozen", "mode": "io", "epochs": 1, **sizes})
        norms = {name for name, module in beginning.net.named_modules() if isinstance(module, torch.nn.BatchNorm1d)}
        splits = training_splits(recipe, read_split("modelnet40", data, "train"))
        train = splits.train.take(np.arange(32))  # whole batches of either size
        fit(
            beginning.net,
            replace(beginning.policy, frozen_norms=frozenset(norms)),
            recipe,
            train,
            splits.validation,
            tmp_path / str(number),
        )
        nets.append(beginning.net.state_dict())
    assert not torch.equal(nets[0]["fc.weight"], begin(image_file)[1].net.state_dict()["fc.weight"])
    for name, tensor in nets[0].items():
        torch.testing.assert_close(tensor, nets[1][name], atol=1e-6, rtol=1e-5)


def test_a_plan_shares_out_every_cloud_once() -> None:
    targets = np.zeros(45, np.int64)
    plans = [plan_epoch(targets, batch_size=8, accumulate=2, balance="none", seed=3, epoch=1, rank=rank, ranks=3) for rank in range(3)]
    alone = plan_epoch(targets, batch_size=8, accumulate=2, balance="none", seed=3, epoch=1)
    assert {len(plan) for plan in plans} == {3}
    for steps in zip(*plans, strict=True):
        for step in steps:
            assert all(len(micro.rows) >= 2 for micro in step)
        assert np.mean([sum(len(micro.rows) * micro.share for micro in step) for step in steps]) == pytest.approx(1)
    seen = np.concatenate([micro.rows for plan in plans for step in plan for micro in step])
    assert len(seen) == len(set(seen)) == 40  # the last batch of 5 would leave a process one cloud
    assert len({row for step in alone for micro in step for row in micro.rows}) == 45
    first = [np.sort(np.concatenate([plan[0][k].rows for plan in plans])) for k in range(2)]
    assert all(np.array_equal(rows, np.sort(alone[0][k].rows)) for k, rows in enumerate(first))


def test_balance() -> None:
    targets = np.repeat([0, 1, 2], [80, 15, 5])
    weights = inverse_frequency(np.bincount(targets, minlength=4))
    assert weights[3] == 0
    assert float(weights[targets].mean()) == pytest.approx(1)
    assert weights[2] / weights[0] == pytest.approx(16)
    plans = [plan_epoch(targets, batch_size=10, accumulate=1, balance="sampler", seed=0, epoch=epoch) for epoch in range(40)]
    drawn = np.concatenate([targets[micro.rows] for plan in plans for step in plan for micro in step])
    assert np.bincount(drawn) / len(drawn) == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_weighted_loss_trains(data: Path, image_file: Path, tmp_path: Path) -> None:
    """The rare class counts for more: its clouds are put more often into the rare class than without weights."""
    clouds = read_split("modelnet40", data, "train")
    rows = np.concatenate([np.flatnonzero(clouds.targets == target)[:count] for target, count in enumerate((16, 16, 2))])
    logits = []
    for balance in ("none", "loss"):
        recipe, beginning = begin(image_file, {"epochs": 2, "balance": balance})
        fit(beginning.net, beginning.policy, recipe, clouds.take(rows), clouds.take(rows[:0]), tmp_path / balance)
        beginning.net.eval()
        voxels = [CloudSamples(clouds, recipe.input).voxels(int(row)) for row in np.flatnonzero(clouds.targets == 2)]
        with torch.inference_mode():
            logits.append(beginning.net(collate(voxels)).softmax(1)[:, 2].mean())
    assert logits[1] > logits[0] + 0.05


def test_early_stop_ends_the_run_and_stays_ended(data: Path, image_file: Path, tmp_path: Path) -> None:
    changes: dict[str, object] = {"epochs": 50, "early_stop": {"patience": 2, "min_delta": 1.0}}  # nothing improves by 100 %
    fitted(data, image_file, tmp_path, changes)
    assert len(read_scalars(tmp_path)) == 3
    before = read_state(tmp_path / STATE)
    fitted(data, image_file, tmp_path, changes)
    assert read_state(tmp_path / STATE)["epoch"] == before["epoch"] == 3


def test_voxels_are_kept_where_nothing_is_augmented(data: Path, tmp_path: Path) -> None:
    clouds = read_split("modelnet40", data, "train")
    spec = load_recipe("bundled-modelnet40", SMALL).input
    fresh = CloudSamples(clouds, spec)
    kept = fresh.cached(tmp_path)
    for row in (0, 20, 47):
        for one, other in zip((v := fresh.voxels(row), kept.voxels(row)), (kept.voxels(row), v), strict=True):
            assert one.coords.tobytes() == other.coords.tobytes()
            assert one.feats.tobytes() == other.feats.tobytes()
            assert one.inverse.tobytes() == other.inverse.tobytes()
    stamp = (file := next(tmp_path.glob("*.bin"))).stat().st_mtime_ns
    fresh.cached(tmp_path).close()
    assert file.stat().st_mtime_ns == stamp
    micros = plan_epoch(clouds.targets, batch_size=8, accumulate=1, balance="none", seed=0, epoch=0)[0]
    (batch,) = train_batches(kept, micros, seed=0, epoch=0, device=torch.device("cpu"))
    assert batch.targets.tolist() == clouds.targets[micros[0].rows].tolist()
    kept.close()


def private_kb(pid: int) -> int:
    """Memory of a process that it shares with no other, in kB."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith(("Private_Dirty", "Private_Clean")))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc to see what memory is shared")
def test_memory_stays_flat_over_an_epoch_in_workers_too(tmp_path: Path) -> None:
    """Files in a folder, FIP_FILES of them (hard links to a few): read by two workers, nothing piles up in any process."""
    count, rng = int(os.environ.get("FIP_FILES", "6000")), np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(64, 3)).astype("f4"))
        for number in range(count // 2):
            os.link(tmp_path / f"{name}.npy", tmp_path / name / f"{number}.npy")
        (tmp_path / f"{name}.npy").unlink()
    listing = list_folder(tmp_path)
    clouds = folder_splits(listing, None, test_share=0.0, seed=0, skip_bad=False).train
    micros = [step[0] for step in plan_epoch(clouds.targets, batch_size=32, accumulate=1, balance="none", seed=0, epoch=0)]
    samples = CloudSamples(clouds, load_recipe("bundled-modelnet40", SMALL).input)
    seen = []
    for number, _ in enumerate(train_batches(samples, micros, seed=0, epoch=0, device=torch.device("cpu"), workers=2)):
        if number in (len(micros) // 5, len(micros) - 12):  # workers end when they have made their last batch
            processes = [*active_children(), current_process()]
            assert len(processes) == 3
            seen.append([private_kb(process.pid) for process in processes if process.pid])
    growth = [after - before for before, after in zip(*seen, strict=True)]
    assert max(growth) < 8_000, f"kB by process: {seen}"


def test_packs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(rng.normal(size=(n, 3)), None, rng.integers(0, 9, n, "u1")) for n in (4, 0, 7)]
    write_pack(tmp_path / "p.bin", rows)
    with closing(Pack(tmp_path / "p.bin")) as pack:
        assert len(pack) == 3
        for written, read in zip(rows, (pack[i] for i in range(3)), strict=True):
            assert read[1] is None
            for k in (0, 2):
                one, other = written[k], read[k]
                assert one is not None
                assert other is not None
                assert np.array_equal(one, other)
                assert one.dtype == other.dtype
