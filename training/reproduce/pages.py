from pathlib import Path

from training.reproduce.runner import Records


def write_pages(names: list[str], records: Records, out: Path) -> list[Path]:
    return []
