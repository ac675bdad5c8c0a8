"""What an epoch is made of: which samples in which order, on which process, and what is kept on disk or in memory of them."""

import os
from contextlib import closing
from multiprocessing import active_children, current_process
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training_runs import SMALL
from training.batches import plan_epoch, train_batches
from training.datasets import read_split
from training.datasets.folder import folder_splits
from training.datasets.listing import list_folder
from training.pack import Pack, write_pack
from training.recipe import load_recipe
from training.samples import CloudSamples, inverse_frequency


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
