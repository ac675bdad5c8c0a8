"""Photographs from folders, as image nets want them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from models.artefact import sha256_of
from models.errors import BadDataset

ENDINGS = (".jpg", ".jpeg", ".png")
MODES = ("RGB", "RGBA", "P", "L")  # eight bits a channel; depth maps of sixteen are no photographs
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet; akamaster's CIFAR nets were trained with them too


@dataclass(frozen=True)
class View:
    """The shorter side is scaled to `resize` pixels, the middle `crop` × `crop` are taken."""

    resize: int
    crop: int


IMAGENET, CIFAR = View(256, 224), View(32, 32)


@dataclass(frozen=True)
class Photographs:
    """Images by path. sha256: of each file; left_out: how many files were no photographs."""

    paths: tuple[Path, ...]
    sha256: tuple[str, ...]
    left_out: int

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def digest(self) -> str:
        return hashlib.sha256("".join(sorted(self.sha256)).encode()).hexdigest()


def find_photographs(folders: Sequence[Path]) -> Photographs:
    """Every image in the folders and below, by name. Raises: BadDataset (none)."""
    files = sorted({path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in ENDINGS})
    kept = [path for path in files if _mode(path) in MODES]
    if not kept:
        raise BadDataset(f"no photographs ({', '.join(ENDINGS)}) in it", where=", ".join(str(folder) for folder in folders))
    return Photographs(tuple(kept), tuple(sha256_of(path) for path in kept), len(files) - len(kept))


def read_image(path: Path, view: View) -> torch.Tensor:
    """One image (3, crop, crop) float32, normalised. Raises: BadDataset (damaged)."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise BadDataset(f"cannot be read: {error}", where=str(path)) from error
    scale = view.resize / min(image.size)
    width, height = (max(view.resize, int(side * scale)) for side in image.size)
    left, top = round((width - view.crop) / 2), round((height - view.crop) / 2)
    small = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + view.crop, top + view.crop))
    pixels = np.asarray(small, np.float32) / 255  # (H, W, 3)
    return torch.from_numpy((pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).permute(2, 0, 1).contiguous()


def _mode(path: Path) -> str:
    try:
        with Image.open(path) as file:
            return file.mode
    except (UnidentifiedImageError, OSError) as error:
        raise BadDataset(f"cannot be read: {error}", where=str(path)) from error
