"""Tied maps: what they stand for, and that no sum is done twice or for nothing."""

import itertools
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.sparse import tying
from models.sparse.dense_table import ALWAYS_PER_SITE, LARGEST, DenseTable, affordable, places
from models.sparse.kernel_map import KernelMap
from models.sparse.search import SiteIndex, SortedKeys, all_at_once, build_kernel_map, column_by_column, downsample_sites
from models.sparse.tying import _all_at_once, _group_by_group, _taps_of_groups, repeat_filter, tap_groups, tie, tied_axes, tied_filter

AXES = ["x", "y", "z", "xy", "xz", "yz", "xyz"]


def sites(kind: str) -> torch.Tensor:
    """(S, 4) int32: rows in no order, or in order, or hardly any."""
    generator = torch.Generator().manual_seed(3)
    coords = (torch.rand(2, 8, 9, 7, generator=generator) < 0.4).nonzero().int() - torch.tensor([0, 3, 4, 5], dtype=torch.int32)
    if kind == "shuffled":
        return coords[torch.randperm(len(coords), generator=generator)]
    return coords[: {"ordered": len(coords), "one": 1, "none": 0}[kind]]


def map_of(coords: torch.Tensor, kernel_size: int, stride: int, transposed: bool) -> KernelMap:
    out_coords = coords if stride == 1 else downsample_sites(coords, stride)[0]
    found = build_kernel_map(SiteIndex(coords), out_coords, kernel_size, stride)
    return found.transposed() if transposed else found


def lines_of(kernel_map: KernelMap) -> list[tuple[int, ...]]:
    assert kernel_map.lines is not None
    starts, rows = kernel_map.lines.starts.tolist(), kernel_map.lines.rows.tolist()
    assert starts[-1] == len(rows)
    return [tuple(rows[start:stop]) for start, stop in itertools.pairwise(starts)]


def pairs_of(kernel_map: KernelMap) -> list[list[tuple[int, int]]]:
    """(in, out) of every tap."""
    in_rows, out_rows = kernel_map.in_rows.split(kernel_map.sizes), kernel_map.out_rows.split(kernel_map.sizes)
    return [list(zip(i.tolist(), o.tolist(), strict=True)) for i, o in zip(in_rows, out_rows, strict=True)]


@pytest.mark.parametrize("kind", ["ordered", "shuffled", "far", "one", "none"])
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2)])
def test_what_a_device_finds_at_once_a_cpu_finds_column_by_column(kind: str, kernel_size: int, stride: int) -> None:
    """Maps and the pairs of tied ones, bit for bit; by a table, and by search where the box is large."""
    coords = sites("shuffled" if kind == "far" else kind)
    if kind == "far":
        coords = torch.cat([coords, torch.tensor([[0, 30_000, -20_000, 9], [1, 30_000, -20_001, 10]], dtype=torch.int32)])
    out_coords = coords if stride == 1 else downsample_sites(coords, stride)[0]
    index, centre = SiteIndex(coords), kernel_size**3 // 2 if stride == 1 and kernel_size % 2 else None
    assert isinstance(index._finder, SortedKeys) == (kind not in ("ordered", "shuffled"))
    keys = index.keys(out_coords, stride)
    found, expected = (build(index, keys, kernel_size, centre) for build in (all_at_once, column_by_column))
    assert (found.sizes, found.num_in, found.num_out) == (expected.sizes, expected.num_in, expected.num_out)
    assert found.identity_tap == expected.identity_tap
    for one, other in ((found.in_rows, expected.in_rows), (found.out_rows, expected.out_rows), (found.sources, expected.sources)):
        assert one.dtype == other.dtype == torch.int32
        assert torch.equal(one, other)
    for axes in AXES if kernel_size > 1 else []:
        groups = _taps_of_groups(kernel_size, axes)
        ours, theirs = _all_at_once(found, groups), _group_by_group(expected, groups)
        assert ours[2] == theirs[2]
        for one, other in zip([*ours[0], ours[1]], [*theirs[0], theirs[1]], strict=True):
            assert one.dtype == other.dtype == torch.int32
            assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["ordered", "shuffled", "one", "none"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (3, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("at_once", [False, True])
def test_a_tied_map_reads_what_the_taps_of_a_group_read(
    kind: str, transposed: bool, kernel_size: int, stride: int, axes: str, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once as on a device, or slot by slot as on a CPU."""
    monkeypatch.setattr(tying, "_cached", lambda _: not at_once)
    whole = map_of(sites(kind), kernel_size, stride, transposed)
    tied = tie(whole, axes)
    groups = tap_groups(kernel_size, axes).tolist()
    expected: list[dict[int, list[int]]] = [{} for _ in range(max(groups) + 1)]
    for group, pairs in zip(groups, pairs_of(whole), strict=True):
        for in_row, out_row in pairs:
            expected[group].setdefault(out_row, []).append(in_row)
    lines = lines_of(tied)
    rows_read = [(row,) for row in range(whole.num_in)] + lines
    for wanted, pairs in zip(expected, pairs_of(tied), strict=True):
        assert [out_row for _, out_row in pairs] == sorted(wanted)  # ascending, each once
        assert [sorted(rows_read[in_row]) for in_row, _ in pairs] == [sorted(wanted[out_row]) for _, out_row in pairs]
    assert all(len(line) > 1 for line in lines)
    assert len({tuple(sorted(line)) for line in lines}) == len(lines)
    assert {int(row) for row in tied.in_rows if row >= whole.num_in} == set(range(whole.num_in, whole.num_in + len(lines)))
    assert (tied.num_in, tied.num_out, tied.identity_tap) == (whole.num_in, whole.num_out, None)
    assert tied.lines is not None
    assert {t.dtype for t in (tied.in_rows, tied.out_rows, tied.lines.starts, tied.lines.rows)} == {torch.int32}


class Counted(TorchDispatchMode):
    """many: operations that a device would be asked for, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.many = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.many += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kernel_size", "stride", "axes", "most"), [(3, 1, "y", 75), (3, 2, "y", 75), (2, 2, "xyz", 50)])
def test_a_device_is_asked_for_few_operations(kernel_size: int, stride: int, axes: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs its host microseconds, at every map of every pass."""
    monkeypatch.setattr(tying, "_cached", lambda _: False)
    whole = map_of(sites("ordered"), kernel_size, stride, transposed=False)
    with Counted() as counted:
        tie(whole, axes)
    assert counted.many <= most


def test_filters_that_repeat_themselves_are_found_bit_for_bit() -> None:
    flat = torch.randn(9, 4, 5)
    weight = repeat_filter(flat, 3, "y").contiguous()
    assert tied_axes(weight) == "y"
    assert torch.equal(tied_filter(weight, "y"), flat)
    weight[13, 3, 4] = torch.nextafter(weight[13, 3, 4], torch.tensor(9.0))
    assert tied_axes(weight) == ""
    assert tied_axes(torch.zeros(8, 2, 2)) == "xyz"
    assert tied_axes(torch.zeros(1, 2, 2)) == ""


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_table_and_a_search_find_the_same(shuffled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randperm(4000, generator=generator)[:900].int() + 100
    keys = keys if shuffled else keys.sort().values
    queries, steps = torch.arange(90, 4200, 3, dtype=torch.int32), [-1, 0, 1]
    by_table = DenseTable(keys, 5000).column(queries, steps)
    by_search = SortedKeys(keys, in_order=not shuffled).column(queries, steps)
    for step, (rows, positions), (rows_too, positions_too) in zip(steps, by_table, by_search, strict=True):
        assert torch.equal(rows, rows_too)
        assert torch.equal(positions, positions_too)
        assert torch.equal(keys[rows], queries[positions] + step)
        assert len(rows) == int(torch.isin(queries + step, keys).sum()) > 100


@pytest.mark.parametrize("finder", [lambda keys: DenseTable(keys, 50), lambda keys: SortedKeys(keys, in_order=False)])
def test_duplicates_are_refused(finder) -> None:
    with pytest.raises(ValueError, match="duplicate"):
        finder(torch.tensor([7, 3, 7], dtype=torch.int32))


def test_a_table_is_capped() -> None:
    assert affordable(2_500_000, 22_000)  # a batch of 32 small clouds
    assert not affordable(1_800_000_000, 92_000)  # a LiDAR scan at 5 cm
    assert not affordable(30_000_000, 32_000)  # the same four times as coarse
    assert not affordable(10 * LARGEST, 1_000_000)
    assert affordable(ALWAYS_PER_SITE * 10_000_000, 10_000_000)
    assert not affordable(ALWAYS_PER_SITE * 10_000_000 + 1, 10_000_000)


def test_a_kernel_that_reaches_past_the_margin_is_refused() -> None:
    coords = sites("ordered")
    with pytest.raises(ValueError, match="reaches further than 4 cells"):
        build_kernel_map(SiteIndex(coords), downsample_sites(coords, 8)[0], 3, 8)


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("far", [False, True])
def test_sites_of_a_coarser_level(stride: int, far: bool) -> None:
    """By a table of cells, and, where one site is far away, by sorting."""
    coords = sites("shuffled")
    if far:
        coords = torch.cat([coords, torch.tensor([[1, -900_000, 800_001, 7]], dtype=torch.int32)])
    found, parents = downsample_sites(coords, stride)
    wanted = [(b, x // stride, y // stride, z // stride) for b, x, y, z in coords.tolist()]
    assert [tuple(site) for site in found.tolist()] == sorted(set(wanted))
    assert [tuple(site) for site in found[parents].tolist()] == wanted
    assert (found.dtype, parents.dtype) == (coords.dtype, torch.int64)


def test_places() -> None:
    mask = torch.tensor([False, True, True, False, True])
    assert places(mask).tolist() == [1, 2, 4]
    assert places(mask[:0]).dtype == torch.int32
