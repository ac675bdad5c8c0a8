"""Whether a checkpoint folder is fit to be published, promoted or served: whole, loadable, and with a card that tells the truth.

Loading checks the digests by itself (models.checkpoint); what is added here is what only whoever answers for a model needs:
the weights fill the network they are for, with finite numbers, and the card carries the facts of the manifest.
"""

import re
from pathlib import Path

from models.artefact import CARD, WEIGHTS
from models.errors import BadCheckpoint
from models.manifest import Manifest

SCORES = ("test_accuracy", "test_miou", "validation_accuracy", "validation_miou")  # percentages that the card shows
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


def verify(folder: Path) -> Manifest:
    """Check everything about a checkpoint folder that can be checked without data, and return its manifest.

    Raises: BadCheckpoint (names the file: missing, extra, damaged, of a kind that does not belong there; weights that do not
    fit or are not finite; a card without the facts).
    """
    from models.checkpoint import load_checkpoint
    from models.zoo import build

    checkpoint = load_checkpoint(folder)
    weights = folder / WEIGHTS
    net = build(checkpoint.manifest.network)
    try:
        checkpoint.load_into(net)
    except BadCheckpoint as error:
        raise BadCheckpoint(error.detail, where=str(weights)) from error
    for name, tensor in net.state_dict().items():
        if not tensor.isfinite().all():
            raise BadCheckpoint(f"{name} holds NaN or infinity", where=str(weights))
        if name.endswith("running_var") and (tensor < 0).any():
            raise BadCheckpoint(f"{name} holds a negative variance", where=str(weights))
    check_card(folder / CARD, checkpoint.manifest)
    return checkpoint.manifest


def check_card(path: Path, manifest: Manifest) -> None:
    """The model card carries the facts of the manifest: scores, provenance, licences, and a picture of the curve.

    Raises: BadCheckpoint (says what is missing).
    """
    try:
        text, made = _COMMENT.sub("", path.read_text(encoding="utf-8")), manifest.provenance
    except OSError as error:
        raise BadCheckpoint(f"cannot be read: {error.strerror}", where=str(path)) from error
    digests = {"recipe digest": made.recipe_sha256, "data digest": made.dataset_sha256}
    if made.init == "image" or made.weights_2d_sha256 is not None or made.weights_2d is not None:
        digests["sha256 of the 2D weights"] = made.weights_2d_sha256 or ""
    missing = [what for what, digest in digests.items() if not _SHA256.fullmatch(digest) or digest not in text]
    if not made.code_version or made.code_version not in text:
        missing.append("code version")
    if not made.licences or not all(licence.strip() for licence in made.licences):
        missing.append("licences")
    missing += [f"licence {licence!r}" for licence in made.licences if licence not in text]
    scores = {name: f"{manifest.metrics[name]:.2%}" for name in SCORES if name in manifest.metrics}
    missing += [f"{name} {score}" for name, score in scores.items() if not re.search(rf"(?<![\d.]){re.escape(score)}", text)]
    pictures = _PICTURE.findall(text)
    missing += [f"picture {name}" for name in pictures if name not in manifest.files]
    if not any(name.endswith(".png") for name in pictures):
        missing.append("picture of the curve")
    if missing:
        raise BadCheckpoint(f"the model card lacks {', '.join(missing)}", where=str(path))
