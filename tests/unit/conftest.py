"""What the reader tests share."""

from pathlib import Path

import pytest


@pytest.fixture
def save(tmp_path: Path):
    def save_bytes(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return save_bytes
