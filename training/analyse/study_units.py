"""dissect: the units of the last stage of a model, which clouds they answer, and the page that says so."""

import numpy as np
import numpy.typing as npt
import torch

from models.errors import BadOption
from models.voxelize import prepare
from training.analyse.asked import Asked, command, show
from training.analyse.dissect import Units, chance, dissect, joined, random_basis
from training.analyse.features import catching, last_stage, strongest
from training.analyse.pages import Analysis, table
from training.analyse.plots_units import Drawn, UnitRow, gallery
from training.analyse.subject import Subject
from training.datasets import Clouds

PUREST, AT_RANDOM, COLUMNS = 6, 3, 8
LISTED = 12
BASES = 5
POINTS = 500  # drawn of a cloud


def dissect_study(subject: Subject, asked: Asked, k: int) -> Analysis:
    """Purity of the top k clouds of every unit, against permuted labels, a rotated basis and an untrained net. Raises: BadOption."""
    shown, names = show(subject, asked), subject.manifest.labels
    clouds = shown.clouds
    if not 2 <= k <= len(clouds) // 2:
        raise BadOption(f"the top {k} of {len(clouds)} clouds tell nothing: from 2 to half of the clouds", where="--top")
    bases = np.stack([random_basis(subject.net.channels, asked.seed + i) for i in range(BASES)])
    values, *turned = strongest(subject.net, subject, clouds, bases)  # (D, U) each
    units = dissect(values, clouds.targets, len(names), k)
    if len(units.order) == 0:
        raise BadOption(f"no unit answers {k} clouds", where="--top")
    directions = [dissect(each, clouds.targets, len(names), k) for each in turned]
    nets = {
        "units of this model": units,
        "directions drawn at random": joined(directions),
        "units of the untrained net": dissect(strongest(subject.untrained(asked.seed), subject, clouds), clouds.targets, len(names), k),
    }
    luck = chance(units, clouds.targets, len(names), asked.seed)
    rows = [
        [name, int(each.alive.sum()), *_cells(each.purity[each.alive], each.entropy[each.alive], luck.sure)] for name, each in nets.items()
    ]
    rows.append(["units of this model, labels permuted", "–", *_cells(luck.purity, luck.entropy, luck.sure)])
    sure = units.order[units.purity[units.order] > luck.sure]
    means = [each.mean_purity for each in directions]
    classes = sorted({names[c] for c in units.majority[sure]})
    lines = [
        f"For each unit (channel of the last stage, after its ReLU) clouds are ranked by the largest value that it takes anywhere in them, "
        f"and the {k} highest are looked at. Pure: they are of one class. The same was done along directions drawn at random ({BASES} "
        f"rotated bases, whose means lie between {min(means):.3f} and {max(means):.3f}), with an untrained net (fresh weights, one draw), "
        f"and with the labels of the clouds permuted, {len(luck.purity):,} draws in all, one in a hundred of which has a purity above "
        f"{luck.sure:.2f}. Shown: {shown}.",
        table(["", "units", f"mean purity of the top {k}", "mean entropy, bits", f"purity above {luck.sure:.2f}"], rows),
        f"The units above that bound are for {len(classes)} of {len(names)} classes: {', '.join(classes)}.",
        table(["unit", "commonest class", "purity", "entropy, bits"], [_listed(units, unit, names) for unit in units.order[:LISTED]]),
        "The picture: above, how pure units are; below, the purest units and some drawn at random from the others, with their top clouds "
        "and where in them they answer.",
    ]
    chosen = _chosen(units, asked.seed)
    drawn = [_row(subject, clouds, values, units, unit, "pure" if i < PUREST else "drawn") for i, unit in enumerate(chosen)]
    histogram = {name: each.purity[each.alive] for name, each in nets.items()} | {"permuted labels": luck.purity}
    inputs = {"seed": asked.seed, "settings": {"top": k, "draws": len(luck.purity)}, "data": [shown.facts]}
    said = command("dissect", subject, asked, f"--top {k}")
    results = {
        "summary": {str(row[0]): row[1:] for row in rows},
        "sure": luck.sure,
        "mean_purity_of_bases": means,
        "units": [_listed(units, u, names) for u in units.order],
    }
    title = f"dissect: what single units of {subject.manifest.name} answer"
    alt = "Histogram of the purity of units, and the clouds that some of them answer most strongly"
    return Analysis(f"dissect-{subject.manifest.name}", title, said, inputs, results, lines, gallery(drawn, histogram, k), alt)


def _cells(purity: npt.NDArray[np.floating], entropy: npt.NDArray[np.floating], sure: float) -> list[str]:
    return [f"{purity.mean():.3f}", f"{entropy.mean():.2f}", f"{(purity > sure).mean():.1%}"] if len(purity) else ["–"] * 3


def _listed(units: Units, unit: int, names: tuple[str, ...]) -> list[object]:
    return [int(unit), names[units.majority[unit]], f"{units.purity[unit]:.2f}", f"{units.entropy[unit]:.2f}"]


def _chosen(units: Units, seed: int) -> list[int]:
    """The purest living units, then some of the others."""
    purest, others = units.order[:PUREST], units.order[PUREST:]
    drawn = np.random.default_rng(seed).choice(others, min(AT_RANDOM, len(others)), replace=False)
    return [int(unit) for unit in (*purest, *np.sort(drawn))]


def _row(subject: Subject, clouds: Clouds, values: npt.NDArray[np.floating], units: Units, unit: int, how: str) -> UnitRow:
    label = f"unit {unit}\n{how}\npurity {units.purity[unit]:.2f}"
    rows = units.rows[unit][:COLUMNS]
    return UnitRow(label, [_drawn(subject, clouds, int(row), unit, float(values[:, unit].max())) for row in rows])


@torch.inference_mode()
def _drawn(subject: Subject, clouds: Clouds, row: int, unit: int, largest: float) -> Drawn:
    """One cloud as the net gets it, with the unit's value where each point lies."""
    spec = subject.manifest.input
    xyz = np.asarray(prepare(clouds.cloud(row), spec, up=subject.up).xyz, np.float64)
    voxels = subject.voxels(clouds, row)
    with catching(last_stage(subject.net)) as caught:
        subject.net.features(subject.collate([voxels]))
    found = caught.pop()
    at = {tuple(site): i for i, site in enumerate(found.coords[:, 1:].tolist())}
    site_of = np.array([at[tuple(cell)] for cell in (voxels.coords // found.level).tolist()])  # of a voxel
    values = found.feats[:, unit].cpu().numpy()[site_of][voxels.inverse] / largest
    keep = np.random.default_rng(row).permutation(len(xyz))[:POINTS]
    return Drawn(_upright(xyz, spec.up)[keep], values[keep], clouds.names[clouds.targets[row]])


def _upright(xyz: npt.NDArray[np.float64], up: str) -> npt.NDArray[np.float64]:
    """Within the unit sphere, z up."""
    centred = xyz - (xyz.min(0) + xyz.max(0)) / 2
    turned = np.roll(centred, 2 - "xyz".index(up), axis=1)
    return np.asarray(turned / np.linalg.norm(turned, axis=1).max())
