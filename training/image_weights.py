"""2D weights: torchvision and timm state dicts (.pth, .pth.tar, .pt, .th), .safetensors, .npz; and downloads from their publishers.

What else the paper started from is named as torchvision does: ImageNet-21K (Alibaba-MIIL/ImageNet21K, src_files/models/utils/factory.py),
FractalDB (hirokatsukataoka16/FractalDB-Pretrained-ResNet-PyTorch, pretraining/main.py and resnet.py) and Stylized-ImageNet
(rgeirhos/texture-vs-shape, models/load_pretrained_models.py). PointContrast's are 3D and have a module of their own (`minkowski`).
"""

import hashlib
import http.client
import os
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.artefact import sha256_of
from models.cache import cache_dir
from models.errors import BadWeights, nearest
from training.bodies import FOLDER, Body, body_of
from training.minkowski import Taps, from_minkowski, is_minkowski
from training.pickled import read_pickled

TIMEOUT_S = 60
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Download:
    """A file on the publisher's server. `sha256_prefix` is the publisher's own checksum: the hex digits in the file name."""

    url: str
    sha256_prefix: str
    licence: str


def _torchvision(stem: str) -> Download:
    return Download(f"https://download.pytorch.org/models/{stem}.pth", stem.rsplit("-", 1)[1], "BSD-3-Clause (torchvision); ImageNet terms")


def _cifar10(stem: str) -> Download:
    folder = "akamaster/pytorch_resnet_cifar10/d5489e8995e81e91ce6b1d69dcc98ad579b0b153/pretrained_models"
    return Download(f"https://raw.githubusercontent.com/{folder}/{stem}.th", stem.rsplit("-", 1)[1], "BSD-2-Clause (akamaster); CIFAR-10")


DOWNLOADS: dict[str, Download] = {
    "cifar10_resnet20": _cifar10("resnet20-12fca82f"),
    "cifar10_resnet32": _cifar10("resnet32-d509ac18"),
    "cifar10_resnet44": _cifar10("resnet44-014dd654"),
    "cifar10_resnet56": _cifar10("resnet56-4bfd9763"),
    # IMAGENET1K_V1 weights: the recipe that the paper started from
    "resnet18": _torchvision("resnet18-f37072fd"),
    "resnet34": _torchvision("resnet34-b627a593"),
    "resnet50": _torchvision("resnet50-0676ba61"),
    "resnet101": _torchvision("resnet101-63fe2227"),
    "resnet152": _torchvision("resnet152-394f9c45"),
    "wide_resnet101_2": _torchvision("wide_resnet101_2-32ee1156"),
}


OWN = {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}  # by name: those of the package


@dataclass(frozen=True)
class ImageWeights:
    """A state dict with plain names, and where it came from: 2D kernels (Cout, Cin, k, k) or 3D ones in our order (K, Cin, Cout).

    body: what is known of the model that they were taken from, where that is one of ours.
    """

    tensors: Mapping[str, torch.Tensor]
    name: str
    sha256: str
    body: Body | None = None


def load_image_weights(source: str, cache: Path | None = None, taps: Taps = "hybrid") -> ImageWeights:
    """Read a file, weights of the package, or the cached download of a name (`fip weights fetch NAME`). Raises: BadWeights.

    taps: the order of the taps in a file of MinkowskiEngine.
    """
    path = OWN.get(source.removesuffix(".safetensors"), Path(source)) if not Path(source).is_file() else Path(source)
    if not path.is_file() and source in DOWNLOADS:
        path = (cache or cache_dir()) / Path(DOWNLOADS[source].url).name
        if not path.is_file():
            raise BadWeights(f"not downloaded yet: run `fip weights fetch {source}`", where=source)
    known = [*OWN, *DOWNLOADS]
    if not path.is_file():
        raise BadWeights(f"no such file, and no weights of that name{nearest(source, known)}", where=source, known=known)
    if path.suffix not in _READERS:
        raise BadWeights(f"cannot read {path.suffix or 'files without an extension'}", where=str(path), known=_READERS)
    tensors = {_plain(name): tensor for name, tensor in _READERS[path.suffix](path).items()}
    if is_minkowski(tensors):
        tensors = from_minkowski(tensors, taps)
    return ImageWeights(tensors, path.name, sha256_of(path), body_of(path))


def fetch(
    name: str, folder: Path | None = None, downloads: Mapping[str, Download] = DOWNLOADS, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Download the weights of a 2D net once and check the publisher's checksum.

    `progress(done, total)` counts bytes; total is 0 where the server does not say. The file appears under its name only
    when it is whole. Raises: BadWeights (unknown name, no connection, wrong checksum).
    """
    if name in OWN:
        raise BadWeights("these come with the package: there is nothing to fetch", where=name)
    if name not in downloads:
        raise BadWeights(f"no download is called {name!r}{nearest(name, downloads)}", known=downloads)
    download = downloads[name]
    folder = folder or cache_dir()
    path = folder / download.url.rsplit("/", 1)[1]
    if path.is_file() and sha256_of(path).startswith(download.sha256_prefix):
        return path
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        digest = _download(download.url, part, progress)
        if not digest.startswith(download.sha256_prefix):
            raise BadWeights(
                f"checksum {digest[:16]}… does not begin with {download.sha256_prefix}; the file was dropped", where=download.url
            )
        part.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise BadWeights(f"download failed: {type(error).__name__}: {error}", where=download.url) from error
    finally:
        if part.is_file():
            part.unlink()
    return path


def _download(url: str, part: Path, progress: Callable[[int, int], None] | None) -> str:
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, part.open("wb") as file:
        total, done = int(response.headers.get("Content-Length") or 0), 0
        while block := response.read(BLOCK_BYTES):
            digest.update(block)
            file.write(block)
            done += len(block)
            if progress:
                progress(done, total)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadWeights(f"not a safetensors file: {error}", where=str(path)) from error


def _read_npz(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
    except (ValueError, OSError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise BadWeights(f"not an npz of plain arrays: {error}", where=str(path)) from error


def _plain(name: str) -> str:
    """The name without what wrappers put in front."""
    for prefix in ("module.", "backbone.", "encoder."):
        name = name.removeprefix(prefix)
    return name


_READERS: dict[str, Callable[[Path], Mapping[str, torch.Tensor]]] = {
    ".pth": read_pickled,
    ".pt": read_pickled,
    ".th": read_pickled,
    ".tar": read_pickled,  # `.pth.tar`, by which torch's examples call a checkpoint
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
}
