"""cdnv and tsne of a model on its clouds: what is measured, against what, and the page that says so."""

from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from training.analyse import cdnv, tsne
from training.analyse.asked import Asked, Shown, command, show
from training.analyse.features import Pooled, pooled
from training.analyse.pages import Analysis, short, table
from training.analyse.plots import pairs, scatter
from training.analyse.subject import Subject

FEATURES = "Features are what the last layer reads: means over the voxels of the last stage, after its ReLU, not normalised further."
PARTS = (
    "Features are what the head reads: of each of the {0}×{0}×{0} parts of a cloud the sums over the voxels of the last stage, after its "
    "ReLU, by how many voxels the cloud has; not normalised further."
)
UNVOTED = " Each cloud is looked at as it is; served, the model has variants of it vote."


def _read(subject: Subject) -> str:
    """What they are, in words."""
    spec, votes = subject.manifest.network, subject.manifest.input.votes
    return (PARTS.format(spec.layout) if spec.layout else FEATURES) + (UNVOTED if votes else "")


def cdnv_study(subject: Subject, asked: Asked) -> Analysis:
    """CDNV and nearest-class-centre accuracy, on the split, on the train split, and of an untrained net. Raises: BadDataset."""
    shown, names = show(subject, asked), subject.manifest.labels
    train = _train(subject, asked, shown)
    sets = {f"this model, {shown.split} clouds": pooled(subject.net, subject, shown.clouds)}
    if train:
        sets["this model, train clouds"] = pooled(subject.net, subject, train.clouds)
    sets[f"untrained net, {shown.split} clouds"] = pooled(subject.untrained(asked.seed), subject, shown.clouds)
    rows: list[list[object]] = []
    results: dict[str, dict[str, float]] = {}
    for name, found in sets.items():
        facts = _collapse(found, len(names))
        cells = [short(facts[key]) for key in ("plain_mean", "corrected_mean", "corrected_median")]
        shares = [f"{facts[key]:.2%}" for key in ("nearest_centre", "head")]
        rows.append(
            [name, *cells, f"{facts['unresolved']:.0f} of {facts['pairs']:.0f}", shares[0], "–" if "untrained" in name else shares[1]]
        )
        results[name] = facts
    first = next(iter(sets.values()))
    moments = cdnv.moments(first.features, first.targets, len(names))
    matrix = cdnv.cdnv(moments, corrected=True)
    closest = _closest(matrix, names)
    lines = [
        f"How tight classes are in the features of the net: CDNV of two classes is the mean of their variances over the squared distance "
        f"of their means; 0 is fully collapsed, and a small one means that a nearest class centre is enough to classify. "
        f"{_read(subject)}",
        f"Shown: {shown}{f'; {train}' if train else ''}. *Plain* divides by n and takes the distance of estimated means as it is, which "
        "is biased upward by var/n for each mean, so that few clouds look more collapsed than they are; *corrected* takes that off. "
        "Pairs that the correction leaves no distance are not in the mean. The nearest centre leaves each cloud out of its own class's "
        "centre; the untrained net is the same network with fresh weights, one draw.",
        table(["", "CDNV, plain", "corrected", "corrected, median", "pairs not told apart", "nearest centre", "the model's head"], rows),
        *([_transfer(sets, names, results)] if train else []),
        f"Hardest pairs (corrected): {closest}.",
    ]
    alt = "Heat map of CDNV of all pairs of classes, and the mean of each class as bars"
    per_class = {name: _finite_mean(row) for name, row in zip(names, matrix, strict=True)}
    record = {**results, "per_class_corrected": per_class, "pairs_corrected": matrix}
    inputs = {"seed": asked.seed, "data": [each.facts for each in (shown, train) if each]}
    said = command("cdnv", subject, asked)
    title = f"cdnv: how tight are the classes of {subject.manifest.name}?"
    return Analysis(f"cdnv-{subject.manifest.name}", title, said, inputs, record, lines, pairs(matrix, names), alt)


def tsne_study(subject: Subject, asked: Asked, perplexity: float, neighbours: int) -> Analysis:
    """t-SNE of the features, and how pure the neighbourhoods are there and before. Raises: BadDataset, BadOption."""
    shown = show(subject, asked)
    if not 0 < neighbours < len(shown.clouds):
        raise BadDataset(f"{neighbours} neighbours need more clouds than that, there are {len(shown.clouds)}")
    found = pooled(subject.net, subject, shown.clouds)
    places = tsne.embed(found.features, perplexity, asked.seed)
    fresh = pooled(subject.untrained(asked.seed), subject, shown.clouds)
    spaces = {f"features ({found.features.shape[1]})": found.features, "the picture (2)": places, "features, untrained net": fresh.features}
    purity = {name: float(tsne.neighbour_purity(each, found.targets, neighbours).mean()) for name, each in spaces.items()}
    purity["neighbours drawn at random"] = tsne.chance_purity(found.targets)
    apart = tsne.neighbour_purity(found.features, found.targets, neighbours)
    by_class = {name: _share(apart[found.targets == i]) for i, name in enumerate(shown.clouds.names)}
    mixed = sorted((value, name) for name, value in by_class.items() if value is not None)[:5]
    lines = [
        f"{_read(subject)} Shown: {shown}; PCA to {min(tsne.COMPONENTS, found.features.shape[1])}, then scikit-learn's t-SNE, perplexity "
        f"{perplexity:g}, {tsne.ITERATIONS:,} iterations, seed {asked.seed}. Distances and densities in such a picture mean nothing; what "
        f"can be relied on is how many of a cloud's {neighbours} nearest others are of its class, in the features themselves.",
        table(
            [f"share of the {neighbours} nearest that are of the same class", ""],
            [[name, f"{value:.1%}"] for name, value in purity.items()],
        ),
        f"Most mixed in the features: {', '.join(f'{name} {value:.0%}' for value, name in mixed)}.",
    ]
    options = {"perplexity": perplexity, "iterations": tsne.ITERATIONS, "neighbours": neighbours}
    inputs = {"seed": asked.seed, "settings": options, "data": [shown.facts]}
    figure = scatter(places, found.targets, shown.clouds.names, f"t-SNE of {len(places):,} {shown.split} clouds, {subject.manifest.name}")
    said = command("tsne", subject, asked, f"--perplexity {perplexity:g} --neighbours {neighbours}")
    title = f"tsne: what {subject.manifest.name} puts beside what"
    results = {"purity": purity, "purity_by_class": by_class}
    return Analysis(f"tsne-{subject.manifest.name}", title, said, inputs, results, lines, figure, "Clouds in the plane, coloured by class")


def _train(subject: Subject, asked: Asked, shown: Shown) -> Shown | None:
    """The train clouds beside others; None where there are none of their own."""
    if shown.split == "train":
        return None
    try:
        train = show(subject, asked, "train")
    except BadDataset:
        return None
    return None if train.clouds.digest == shown.clouds.digest else train


def _collapse(found: Pooled, num_classes: int) -> dict[str, float]:
    of = cdnv.moments(found.features, found.targets, num_classes)
    plain, corrected = (cdnv.summary(cdnv.cdnv(of, corrected=corrected)) for corrected in (False, True))
    facts = {f"plain_{key}": value for key, value in asdict(plain).items() if key in ("mean", "median")}
    facts |= {f"corrected_{key}": value for key, value in asdict(corrected).items() if key in ("mean", "median")}
    left_out = cdnv.nearest_centre_left_out(found.features, found.targets, of)
    return {**facts, "pairs": corrected.pairs, "unresolved": corrected.unresolved, "nearest_centre": left_out, "head": found.accuracy}


def _transfer(sets: dict[str, Pooled], names: tuple[str, ...], results: dict[str, dict[str, float]]) -> str:
    """Centres of the train clouds, met by the others: a line, and a result."""
    (first, tested), (_, train), *_ = sets.items()
    centres = cdnv.moments(train.features, train.targets, len(names)).means
    share = cdnv.nearest_centre(tested.features, tested.targets, centres)
    results[first]["nearest_train_centre"] = share
    head = f"the model's head has {tested.accuracy:.2%}"
    return f"With the class centres of the train clouds, {share:.2%} of the others are nearest to their own; {head}."


def _closest(matrix: npt.NDArray[np.float64], names: tuple[str, ...], count: int = 5) -> str:
    known = np.where(np.isnan(matrix), -np.inf, matrix)
    rows, columns = np.triu_indices(len(names), 1)
    worst = np.argsort(-known[rows, columns], kind="stable")[:count]
    found = [(names[rows[i]], names[columns[i]], float(matrix[rows[i], columns[i]])) for i in worst]
    return ", ".join(f"{a} and {b} {'∞' if np.isinf(value) else short(value)}" for a, b, value in found)


def _finite_mean(row: npt.NDArray[np.float64]) -> float | None:
    return _share(row[np.isfinite(row)])


def _share(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
