"""t-SNE of features, for the eye, and how pure neighbourhoods are, for everything else: distances in the picture mean nothing.

D clouds, C features.
"""

import numpy as np
import numpy.typing as npt

from models.errors import BadOption

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
COMPONENTS = 50  # of PCA, before
ITERATIONS = 1000


def principal(features: Floats, components: int = COMPONENTS) -> Floats:
    """The features in the basis of their largest principal components, (D, ≤ components)."""
    centred = features - features.mean(0)
    _, _, basis = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(basis).argmax(1)
    signs = np.sign(basis[np.arange(len(basis)), largest])
    return np.asarray(centred @ (basis * signs[:, None])[:components].T)


def embed(features: Floats, perplexity: float, seed: int) -> Floats:
    """A place in the plane for every cloud, (D, 2). Raises: BadOption (scikit-learn is missing; perplexity too large for D)."""
    try:
        from sklearn.manifold import TSNE
    except ModuleNotFoundError as error:
        raise BadOption(f"t-SNE is scikit-learn's, and {error.name} is not installed: pip install 'fip-server[analyse]'") from error
    if not perplexity < len(features):
        raise BadOption(f"a perplexity of {perplexity:g} needs more than that many clouds, there are {len(features)}")
    reduced = principal(features)
    model = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", max_iter=ITERATIONS, random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(reduced), np.float64)


def neighbour_purity(places: Floats, targets: Ints, k: int) -> Floats:
    """Share of the k nearest others that are of a cloud's class, (D,)."""
    lengths = (places**2).sum(1)
    squared = lengths[:, None] - 2 * places @ places.T + lengths[None]
    np.fill_diagonal(squared, np.inf)
    nearest = np.argpartition(squared, k, axis=1)[:, :k]
    return np.asarray((targets[nearest] == targets[:, None]).mean(1))


def chance_purity(targets: Ints) -> float:
    """What neighbours drawn at random would give."""
    counts = np.bincount(targets).astype(np.float64)
    return float((counts * (counts - 1)).sum() / (len(targets) * (len(targets) - 1)))
