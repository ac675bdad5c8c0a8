"""What `fip models diff` says: how two checkpoints differ, field by field and tensor by tensor."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from models.artefact import read_manifest
from models.checkpoint import load_checkpoint
from models.manifest import Manifest

Pair = tuple[object, object]
Facts = dict[str, dict[str, object]]
TOP = 10  # tensors that the text lists


def diff_facts(a: Path, b: Path) -> Facts:
    """What differs between two checkpoint folders; metrics are given where they are equal too. Raises: BadCheckpoint."""
    left, right = read_manifest(a)[0], read_manifest(b)[0]
    parts: Facts = {part: dict(_changed(_flat(left, part), _flat(right, part))) for part in ("task", "network", "input", "provenance")}
    names = sorted(left.metrics.keys() | right.metrics.keys())
    return {
        **parts,
        "tied_filters": dict(_changed(_tied(left), _tied(right))),
        "labels": _labels(left.labels, right.labels),
        "metrics": {name: (left.metrics.get(name), right.metrics.get(name)) for name in names},
        "weights": _weights(a, b),
    }


def _flat(manifest: Manifest, part: str) -> dict[str, object]:
    """Fields of one part of a manifest; the single value of a part that has no fields is called as the part."""
    value = manifest.model_dump(mode="json")[part]
    return value if isinstance(value, dict) else {part: value}


def _tied(manifest: Manifest) -> dict[str, object]:
    """How many convolutions repeat their filters along which axes; nothing where it was not recorded."""
    return dict(sorted(Counter(f"along {axes}" for axes in (manifest.tied_filters or {}).values()).items()))


def _changed(left: Mapping[str, object], right: Mapping[str, object]) -> list[tuple[str, Pair]]:
    keys = [*left, *(key for key in right if key not in left)]
    return [(key, (left.get(key), right.get(key))) for key in keys if left.get(key) != right.get(key)]


def _labels(left: tuple[str, ...], right: tuple[str, ...]) -> dict[str, object]:
    """Labels that only one of them has, and whether those of both stand in another order."""
    if left == right:
        return {}
    only_a, only_b = [name for name in left if name not in right], [name for name in right if name not in left]
    return {"only_a": only_a, "only_b": only_b, "order_differs": [n for n in left if n in right] != [n for n in right if n in left]}


def _weights(a: Path, b: Path) -> dict[str, object]:
    """Tensors that differ, with the largest absolute difference of each, largest first; and those only one of them has."""
    left, right = load_checkpoint(a).tensors, load_checkpoint(b).tensors
    shared = [name for name in left if name in right]
    reshaped = [name for name in shared if left[name].shape != right[name].shape]
    changed = {
        name: float((left[name].double() - right[name].double()).abs().max())
        for name in shared
        if name not in reshaped and not left[name].equal(right[name].to(left[name].dtype))
    }
    return {
        "tensors": (len(left), len(right)),
        "differ": len(changed),
        "max_abs": max(changed.values(), default=0.0),
        "largest": dict(sorted(changed.items(), key=lambda item: -item[1])),
        "other_shape": reshaped,
        "only_a": [name for name in left if name not in right],
        "only_b": [name for name in right if name not in left],
    }


def diff_text(a: str, b: str, facts: Facts) -> str:
    """A heading a part that differs; A before B."""
    lines = [f"A {a}", f"B {b}"]
    for part in ("task", "network", "tied_filters", "input", "labels", "provenance", "metrics"):
        if facts[part]:
            lines += [part, *(f"  {key}: {_pair(value)}" for key, value in facts[part].items())]
    weights = facts["weights"]
    lines += ["weights", f"  tensors that differ: {weights['differ']} of {_pair(weights['tensors'])}, at most by {weights['max_abs']:.3g}"]
    largest = weights["largest"]
    assert isinstance(largest, dict)
    lines += [f"  {name}: {value:.3g}" for name, value in list(largest.items())[:TOP]]
    lines += [f"  {key}: {weights[key]}" for key in ("other_shape", "only_a", "only_b") if weights[key]]
    return "\n".join(lines)


def _pair(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    left, right = value
    if isinstance(left, float) and isinstance(right, float):
        return f"{left:.6g} | {right:.6g} ({right - left:+.3g})"
    return f"{left} | {right}"
