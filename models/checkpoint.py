"""Weights in and out of a checkpoint folder (see models.artefact for its files). Nothing here can unpickle."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import nn

from models.artefact import CARD, MANIFEST, WEIGHTS, check_files, check_kind, read_manifest, sha256_of
from models.errors import BadCheckpoint
from models.manifest import Manifest
from models.sparse.nn import ties_of

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FLOAT_BYTES = 4
PACKED_WIDTH = 32  # the most columns that an engine rounds a filter up to


@dataclass(frozen=True)
class Checkpoint:
    """Verified contents of a checkpoint folder. tensors: name -> tensor as stored; digest: sha256 of manifest.json."""

    manifest: Manifest
    tensors: dict[str, torch.Tensor]
    digest: str

    def load_into(self, net: nn.Module) -> None:
        """Copy the weights into `net`, cast to its dtypes. Every key and shape must match, and every filter that the manifest
        records as tied must repeat itself. Raises: BadCheckpoint.
        """
        wanted = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
        missing, surplus = sorted(wanted.keys() - self.tensors.keys()), sorted(self.tensors.keys() - wanted.keys())
        if missing or surplus:
            raise BadCheckpoint(f"{len(missing)} tensors missing {missing[:3]}, {len(surplus)} not expected {surplus[:3]}", where=WEIGHTS)
        for name, tensor in wanted.items():
            stored = self.tensors[name]
            if stored.shape != tensor.shape:
                raise BadCheckpoint(f"{name} has shape {tuple(stored.shape)}, the network wants {tuple(tensor.shape)}", where=WEIGHTS)
            tensor.copy_(stored)
        self._check_ties(net)

    def _check_ties(self, net: nn.Module) -> None:
        """A record that promises too much is an error; one that is absent promises nothing: engines look for themselves."""
        claimed = self.manifest.tied_filters or {}
        found = ties_of(net, {name: self.tensors[name] for name in claimed if name in self.tensors})
        for name, axes in claimed.items():
            repeats = found[name].axes if name in found else ""
            if not set(axes) <= set(repeats):
                raise BadCheckpoint(
                    f"{name} is recorded as tied along {axes}, its filters repeat along {repeats or 'no axis'}", where=WEIGHTS
                )


def save_checkpoint(folder: Path, net: nn.Module, manifest: Manifest, card: str, *, half: bool = False) -> Manifest:
    """Write `net` and its card into `folder` and return the manifest with the digests of all files found there.

    `half` stores convolution and linear weights as float16 (batch norm stays float32). Files already in the folder (a
    curve, a recipe) become part of the checkpoint. Which filters repeat themselves is found out from
    what is stored. Raises: BadCheckpoint (a weight is not finite; a file does not belong there).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(tensor, half) for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise BadCheckpoint(f"{len(broken)} tensors hold NaN or infinity, first {broken[0]}; nothing is saved", where=str(folder))
    (folder / WEIGHTS).write_bytes(save(tensors))  # save_file would make it readable by its owner only
    (folder / CARD).write_text(card, encoding="utf-8")
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST]
    for path in paths:
        check_kind(path)
    files = {path.name: sha256_of(path) for path in paths}
    ties = {name: tie.axes for name, tie in ties_of(net, tensors).items()}
    manifest = manifest.model_copy(update={"files": files, "tied_filters": ties})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint folder.

    Raises: BadCheckpoint (no manifest, unknown schema, a file missing, surplus, of another kind or with another digest, damaged
    weights).
    """
    manifest, digest = read_manifest(folder)
    check_files(folder, manifest)
    data = (folder / WEIGHTS).read_bytes()  # once: what is loaded is what was looked at
    if hashlib.sha256(data).hexdigest() != manifest.files[WEIGHTS]:
        raise BadCheckpoint("the file differs from the digest in the manifest", where=str(folder / WEIGHTS))
    try:
        tensors = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a type of numbers that PyTorch's reader does not know
        raise BadCheckpoint(f"not a safetensors file: {error}", where=str(folder / WEIGHTS)) from error
    odd = [f"{name} {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in DTYPES]
    if odd:
        raise BadCheckpoint(f"weights are float32, float16 or bfloat16, found {odd[0]}", where=str(folder / WEIGHTS))
    return Checkpoint(manifest, tensors, digest)


def loading_bytes(folder: Path) -> int:
    """Memory that the net of a checkpoint takes at most while it is loaded: its weights, and a snapshot of them in an engine's layout.

    Raises: BadCheckpoint (no safetensors file).
    """
    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            shapes: list[list[int]] = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"not a safetensors file: {error}", where=str(folder / WEIGHTS)) from error
    rows = sum(math.prod(shape[:-1]) * (-(-shape[-1] // PACKED_WIDTH) * PACKED_WIDTH) for shape in shapes if shape)
    return FLOAT_BYTES * (rows + sum(math.prod(shape) for shape in shapes))


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    """Contiguous on the CPU; matrices and kernels as float16 if asked."""
    tensor = tensor.detach().cpu()
    return (tensor.half() if half and tensor.dim() > 1 else tensor).contiguous()
