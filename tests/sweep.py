"""A made-up scan in the order in which a scanner writes."""

import numpy as np


def sweep(columns: int, count: int = 2000) -> np.ndarray:
    """Records as a scanner writes them: round and round itself, ring after ring."""
    rng, angle = np.random.default_rng(0), np.linspace(0, 12 * np.pi, count)
    distance = 10 + 3 * np.sin(5 * angle) + rng.normal(0, 0.02, count)
    xyz = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), 0.1 * angle + rng.normal(0, 0.02, count)])
    further = {3: [], 4: [rng.random(count)], 5: [rng.random(count), angle // (2 * np.pi)], 8: [rng.random((count, 5))]}
    colours = [rng.integers(0, 256, (count, 3))]
    return np.column_stack([xyz, *further.get(columns, colours)]).astype("<f4")
