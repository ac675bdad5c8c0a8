"""What analyses count, against values that are known beforehand."""

import sys

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from models.errors import BadOption
from training.analyse import cdnv, dissect, tsne
from training.analyse.fwd import LayerSample, wasserstein
from training.analyse.reservoir import Reservoir


def sample_of(reservoir: Reservoir, values: np.ndarray, blocks: int) -> np.ndarray:
    for block in np.array_split(values, blocks):
        reservoir.offer(block)
    return reservoir.sample


def test_a_reservoir_keeps_every_value_as_often_as_any_other_and_in_random_order() -> None:
    kept, first = np.zeros(100), np.zeros(100)
    draws = 4000
    for seed in range(draws):
        sample = sample_of(Reservoir(10, np.random.default_rng(seed)), np.arange(100), 1 + seed % 13).astype(int)
        assert len(np.unique(sample)) == 10  # without replacement
        kept[sample] += 1
        first[sample[0]] += 1
    for counts, share in ((kept, 0.1), (first, 0.01)):
        assert np.abs(counts / draws - share).max() < 5 * np.sqrt(share * (1 - share) / draws)


def test_a_reservoir_keeps_all_of_a_short_stream() -> None:
    reservoir = Reservoir(10, np.random.default_rng(0))
    assert sorted(sample_of(reservoir, np.arange(7), 3)) == list(range(7))
    assert reservoir.seen == 7


@pytest.mark.parametrize(("n", "m"), [(400, 400), (400, 173), (1, 50)])
def test_distances_are_those_of_scipy(n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=n), rng.gamma(2, size=m)
    assert wasserstein(a, b) == pytest.approx(wasserstein_distance(a, b), rel=1e-9)


def test_of_nothing_there_is_no_distance() -> None:
    assert np.isnan(wasserstein(np.empty(0), np.ones(3)))
    assert wasserstein(np.ones(3), np.ones(3)) == 0


def test_a_shift_is_the_distance_and_equal_distributions_are_at_their_floor() -> None:
    rng = np.random.default_rng(0)

    def drawn() -> np.ndarray:
        return sample_of(Reservoir(30_000, rng), rng.normal(size=200_000).astype("f4"), 7)

    both, image = drawn(), drawn()
    own = LayerSample(both[:15_000], both[15_000:], both[::2], both[1::2], 200_000)
    assert wasserstein(own.first + 0.5, own.first) == pytest.approx(0.5, abs=1e-6)
    assert wasserstein(own.first + 0.5, image[:15_000]) == pytest.approx(0.5, abs=0.03)
    assert wasserstein(2 * own.first, image[:15_000]) == pytest.approx(np.sqrt(2 / np.pi), abs=0.03)  # N(0, 4) against N(0, 1)
    for found in (own.floor, own.halves, wasserstein(own.first, image[:15_000])):
        assert 0.003 < found < 0.025  # 0.014 on average at 15,000 of unit variance


def gaussians(n: int, dims: int, std: float, distance: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(scale=std, size=(2 * n, dims))
    features[n:, 0] += distance
    return features, np.repeat([0, 1], n)


def test_cdnv_of_two_gaussians_is_their_dimensions_times_variance_over_squared_distance() -> None:
    features, targets = gaussians(4000, 64, 0.5, 10.0, 0)
    of = cdnv.moments(features, targets, 2)
    for corrected in (False, True):
        pairs = cdnv.cdnv(of, corrected=corrected)
        assert pairs[0, 1] == pairs[1, 0] == pytest.approx(64 * 0.5**2 / 10**2, rel=0.01)
        assert np.isnan(np.diag(pairs)).all()
    larger = cdnv.cdnv(cdnv.moments(7 * features + 3, targets, 2), corrected=True)
    assert larger[0, 1] == pytest.approx(cdnv.cdnv(of, corrected=True)[0, 1])


def test_with_few_clouds_the_correction_takes_most_of_the_error() -> None:
    true = 64 * 0.5**2 / 3**2
    found: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(300):
        of = cdnv.moments(*gaussians(10, 64, 0.5, 3.0, seed), 2)
        for corrected, values in found.items():
            values.append(cdnv.cdnv(of, corrected=corrected)[0, 1])
    too_low, left = (float(np.mean(found[each])) - true for each in (False, True))
    assert too_low < -0.2 * true  # looks more collapsed than it is
    assert abs(left) < 0.25 * abs(too_low)


def test_equal_distributions_give_half_of_n_less_one_and_corrected_are_not_told_apart() -> None:
    plain, unresolved = [], 0
    for seed in range(200):
        of = cdnv.moments(*gaussians(10, 64, 1.0, 0.0, seed), 2)
        plain.append(cdnv.cdnv(of, corrected=False)[0, 1])
        unresolved += cdnv.summary(cdnv.cdnv(of, corrected=True)).unresolved
    assert np.mean(plain) == pytest.approx(4.5, rel=0.05)
    assert 0.3 * 400 < unresolved < 0.75 * 400  # a distance of zero, estimated without bias, is negative about every other time


def test_collapsed_and_absent_classes() -> None:
    features = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    for corrected in (False, True):
        pairs = cdnv.cdnv(cdnv.moments(features, np.array([0, 0, 1, 1, 3]), 4), corrected=corrected)
        assert pairs[0, 1] == 0
        assert np.isnan(pairs[2]).all()
        assert np.isnan(pairs[3]).all()  # one cloud has no variance
        assert cdnv.summary(pairs) == cdnv.Summary(0.0, 0.0, 2, 0)


def test_the_nearest_centre_leaves_each_cloud_out_of_its_own() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(60, 5)), rng.permutation(np.repeat(np.arange(4), 15))
    features[:, 0] += targets
    right = 0
    for row in range(60):
        others = np.arange(60) != row
        centres = np.stack([features[others & (targets == c)].mean(0) for c in range(4)])
        right += int(((features[row] - centres) ** 2).sum(1).argmin() == targets[row])
    assert cdnv.nearest_centre_left_out(features, targets, cdnv.moments(features, targets, 4)) == pytest.approx(right / 60)
    alone = cdnv.moments(features[:2], np.array([0, 1]), 2)
    assert cdnv.nearest_centre_left_out(features[:2], np.array([0, 1]), alone) == 0.0
    assert cdnv.nearest_centre(features[:2], np.array([0, 1]), alone.means) == 1.0


def test_purity_of_neighbours() -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(4), 50)
    apart = rng.normal(size=(200, 3)) + 100 * targets[:, None]
    assert tsne.neighbour_purity(apart, targets, 10).min() == 1.0
    mixed = tsne.neighbour_purity(rng.normal(size=(200, 3)), targets, 10)
    assert mixed.mean() == pytest.approx(tsne.chance_purity(targets), abs=0.05)
    assert tsne.chance_purity(targets) == pytest.approx(49 / 199)


def test_principal_components_keep_distances_and_come_by_size() -> None:
    features = np.random.default_rng(0).normal(size=(40, 6)) * [1, 5, 2, 0.1, 3, 1]
    reduced = tsne.principal(features)
    assert np.linalg.norm(reduced[3] - reduced[7]) == pytest.approx(np.linalg.norm(features[3] - features[7]))
    assert (np.diff(reduced.var(0)) <= 0).all()
    np.testing.assert_allclose(tsne.principal(features + 5), reduced, atol=1e-9)


def test_the_embedding_keeps_classes_together_and_is_the_same_for_a_seed() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'fip-server[analyse]'")
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(3), 30)
    features = rng.normal(size=(90, 8)) + 8 * np.eye(8)[targets]
    places = tsne.embed(features, 10, 0)
    assert places.shape == (90, 2)
    assert tsne.neighbour_purity(places, targets, 5).mean() > 0.95
    np.testing.assert_array_equal(places, tsne.embed(features, 10, 0))


def test_without_scikit_learn_it_is_said_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)  # as if it were not installed
    with pytest.raises(BadOption, match=r"fip-server\[analyse\]"):
        tsne.embed(np.zeros((40, 3)), 10, 0)


def test_dissection_finds_a_planted_unit_and_no_other() -> None:
    rng = np.random.default_rng(0)
    targets = rng.permutation(np.repeat(np.arange(10), 40))
    values = rng.random((400, 30)).astype("f4")
    values[:, 17] += targets == 6
    values[:, 4] = 0  # never answers
    values[:12, 5], values[12:, 5] = 1, 0  # too few clouds for a top 20
    units = dissect.dissect(values, targets, 10, 20)
    assert units.order[0] == 17
    assert (units.majority[17], units.purity[17], units.entropy[17]) == (6, 1.0, 0.0)
    assert (targets[units.rows[17]] == 6).all()
    assert (np.diff(values[units.rows[17], 17]) <= 0).all()
    assert not units.alive[[4, 5]].any()
    assert units.alive.sum() == 28 == len(units.order)
    luck = dissect.chance(units, targets, 10, seed=0)
    assert (units.purity[units.order] > luck.sure).sum() <= 3  # the planted one, and one in a hundred by luck
    assert units.purity[units.order[1:]].mean() == pytest.approx(luck.purity.mean(), abs=0.03)


def test_entropy_of_an_even_mixture() -> None:
    majority, purity, entropy = dissect.mixture(np.array([[0, 1, 2, 3], [2, 2, 2, 2], [1, 1, 0, 0]]), 4)
    assert entropy.tolist() == [2.0, 0.0, 1.0]
    assert purity.tolist() == [0.25, 1.0, 0.5]
    assert majority[1] == 2


def test_a_random_basis_is_a_rotation_of_its_own_seed() -> None:
    basis = dissect.random_basis(32, 0)
    np.testing.assert_allclose(basis @ basis.T, np.eye(32), atol=1e-5)
    assert not np.allclose(basis, dissect.random_basis(32, 1))
