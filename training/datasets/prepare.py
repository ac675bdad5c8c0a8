"""Data sets from their publishers' layout to the form that training reads fastest."""

from pathlib import Path

from models.errors import BadDataset
from training.datasets import find_label_map, semantickitti
from training.datasets.modelnet40 import read_modelnet40
from training.datasets.s3dis import prepare_s3dis


def prepare_data(kind: str, source: Path, target: Path) -> str:
    """Prepare `modelnet40`, `s3dis` or `semantickitti` at `target`; a line that says what is there now.

    Only S3DIS has another form; of the others, whose files are read as they are, target gets links. Raises: BadDataset (not that data
    set, files missing or damaged, something else lies at target).
    """
    if kind == "s3dis":
        return f"{prepare_s3dis(source, target):,} rooms are prepared in {target}"
    if kind == "modelnet40":
        counts = [f"{len(read_modelnet40(source, split)):,} clouds to {split}" for split in ("train", "test")]
        files = [path for path in sorted(source.iterdir()) if path.suffix == ".h5" or path.name == "shape_names.txt"]
    else:
        counts = _scans(source)
        files = [source / "sequences" if (source / "sequences").is_dir() else source]
    names = ["sequences"] if kind == "semantickitti" else [path.name for path in files]
    _link(files, target, names)
    return f"{' and '.join(counts)} are read as they are; {target} holds links to them"


def _scans(source: Path) -> list[str]:
    """How many scans each split has; one of the two may be missing. Raises: BadDataset."""
    label_map = find_label_map(semantickitti.LABEL_MAP)
    counts = []
    for split, sequences in (("train", semantickitti.TRAIN), ("test", semantickitti.VALIDATION)):
        if any((source / part / name).is_dir() for part in ("sequences", ".") for name in sequences):
            counts.append(f"{len(semantickitti.read_semantickitti(source, split, label_map)):,} scans to {split}")
    if not counts:
        raise BadDataset("no sequence 00 to 10 in it (SemanticKITTI)", where=str(source))
    return counts


def _link(files: list[Path], target: Path, names: list[str]) -> None:
    """Links in target to files, which may be there already. Raises: BadDataset (something else is)."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path, name in zip(files, names, strict=True):
            link = target / name
            if link.is_symlink() and link.resolve() == path.resolve():
                continue
            link.symlink_to(path.resolve())
    except OSError as error:
        raise BadDataset(f"cannot be made: {error.strerror}", where=str(error.filename2 or error.filename or target)) from error
