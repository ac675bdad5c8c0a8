"""What a classifier learnt, without its head, for another to begin with: a .safetensors file that says where it comes from."""

import json
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from models.artefact import read_manifest, sha256_of
from models.checkpoint import load_checkpoint
from models.durable import write_whole
from models.errors import BadWeights
from models.frozen import Frozen
from models.manifest import Provenance

HEAD = ("layout_bn.", "fc.", "fc_bn.")
KEY = "fip_body"  # in the metadata of the file
FOLDER = Path(__file__).parent / "own_weights"


class Body(Frozen):
    """model: name of what the weights were taken from, and sha256 of its manifest; network and features: what it is and its stem reads."""

    model: str
    manifest_sha256: str
    network: str
    features: tuple[str, ...]
    provenance: Provenance

    def fits(self, network: str, features: tuple[str, ...], *, stem: bool) -> None:
        """Raises: BadWeights (another net; a copied stem would read other features)."""
        if network != self.network:
            raise BadWeights(f"these are weights of a {self.network}, and no start for a {network}", where=self.model)
        if stem and features != self.features:
            raise BadWeights(
                f"its stem reads {', '.join(self.features)}, the recipe's reads {', '.join(features)}: leave out inflate.stem=copy, and "
                "the stem starts fresh",
                where=self.model,
            )


def write_body(checkpoint: Path, target: Path) -> int:
    """Write the weights of a classifier without its head. Returns how many tensors those are.

    Raises: BadCheckpoint, BadWeights (no .safetensors file, or it cannot be written; a model whose body is no start of another).
    """
    if target.suffix != ".safetensors":
        raise BadWeights("the file is to be called .safetensors", where=str(target))
    manifest, digest = read_manifest(checkpoint)
    if manifest.task != "classify":
        raise BadWeights("only classifiers have a body that others begin with; this model answers for every point", where=manifest.name)
    if manifest.network.tied:
        raise BadWeights("its filters stay 2D (tied), and do not fit nets whose filters do not", where=manifest.name)
    body = Body(
        model=manifest.name,
        manifest_sha256=digest,
        network=manifest.network.name,
        features=tuple(feature.name for feature in manifest.input.features),
        provenance=manifest.provenance,
    )
    kept = {name: tensor for name, tensor in load_checkpoint(checkpoint).tensors.items() if not name.startswith(HEAD)}
    try:
        write_whole(target, save(kept, {KEY: body.model_dump_json()}))
    except OSError as error:
        raise BadWeights(f"cannot be written: {error.strerror}", where=str(target)) from error
    return len(kept)


def body_of(path: Path) -> Body | None:
    """What a file says of the model that it was taken from; None where it is no body. Raises: BadWeights (damaged)."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get(KEY)
        return Body.model_validate_json(said) if said else _OWN.get(sha256_of(path))
    except (SafetensorError, ValidationError) as error:
        raise BadWeights(f"not a safetensors file that was written whole: {str(error).splitlines()[0]}", where=str(path)) from error


def _own() -> dict[str, Body]:
    """Of the weights of the package, which are older than the metadata, by their sha256."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json")))
    return {each["sha256"]: Body.model_validate(each["body"]) for each in found}


_OWN = _own()
