"""A checkpoint is a folder: model.safetensors, manifest.json, README.md (model card), and whatever else the card shows.

The manifest holds the sha256 of every other file; the digest of the checkpoint is the sha256 of the manifest. Nothing
here can unpickle.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from models.errors import BadCheckpoint
from models.manifest import Manifest

WEIGHTS, MANIFEST, CARD = "model.safetensors", "manifest.json", "README.md"


@dataclass(frozen=True)
class Checkpoint:
    """Verified contents of a checkpoint folder. tensors: name -> tensor as stored; digest: sha256 of manifest.json."""

    manifest: Manifest
    tensors: dict[str, torch.Tensor]
    digest: str

    def load_into(self, net: nn.Module) -> None:
        """Copy the weights into `net`, cast to its dtypes. Every key and shape must match. Raises: BadCheckpoint."""
        wanted = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
        missing, surplus = sorted(wanted.keys() - self.tensors.keys()), sorted(self.tensors.keys() - wanted.keys())
        if missing or surplus:
            raise BadCheckpoint(f"{len(missing)} tensors missing {missing[:3]}, {len(surplus)} not expected {surplus[:3]}", where=WEIGHTS)
        for name, tensor in wanted.items():
            stored = self.tensors[name]
            if stored.shape != tensor.shape:
                raise BadCheckpoint(f"{name} has shape {tuple(stored.shape)}, the network wants {tuple(tensor.shape)}", where=WEIGHTS)
            tensor.copy_(stored)


def save_checkpoint(folder: Path, net: nn.Module, manifest: Manifest, card: str, *, half: bool = False) -> Manifest:
    """Write `net` and its card into `folder` and return the manifest with the digests of all files found there.

    `half` stores convolution and linear weights as float16 (batch norm stays float32). Files already in the folder (a
    curve, a log) become part of the checkpoint. Raises: BadCheckpoint (a weight is not finite).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(tensor, half) for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise BadCheckpoint(f"{len(broken)} tensors hold NaN or infinity, first {broken[0]}; nothing is saved", where=str(folder))
    (folder / WEIGHTS).write_bytes(save(tensors))  # save_file would make it readable by its owner only
    (folder / CARD).write_text(card, encoding="utf-8")
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST}
    manifest = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint folder.

    Raises: BadCheckpoint (no manifest, unknown schema, a file missing, surplus or with another digest, damaged weights).
    """
    manifest, digest = read_manifest(folder)
    found = {path.name for path in folder.iterdir()} - {MANIFEST}
    if found != manifest.files.keys():
        raise BadCheckpoint(f"files do not match the manifest: {sorted(found ^ manifest.files.keys())}", where=str(folder))
    if WEIGHTS not in found or CARD not in found:
        raise BadCheckpoint(f"a checkpoint needs {WEIGHTS} and {CARD}", where=str(folder))
    for name, expected in manifest.files.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != expected:
            raise BadCheckpoint("the file differs from the digest in the manifest", where=str(folder / name))
    try:
        tensors = load((folder / WEIGHTS).read_bytes())
    except SafetensorError as error:
        raise BadCheckpoint(f"not a safetensors file: {error}", where=str(folder / WEIGHTS)) from error
    return Checkpoint(manifest, tensors, digest)


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of a checkpoint folder and its digest, without touching the weights. Raises: BadCheckpoint."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        return Manifest.model_validate_json(text), hashlib.sha256(text).hexdigest()
    except OSError as error:
        raise BadCheckpoint(f"cannot read the manifest: {error.strerror}", where=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadCheckpoint(f"{place}: {first['msg']}", where=str(path)) from error


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    """Contiguous on the CPU; matrices and kernels as float16 if asked."""
    tensor = tensor.detach().cpu()
    return (tensor.half() if half and tensor.dim() > 1 else tensor).contiguous()
