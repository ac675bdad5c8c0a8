"""2D weight files of every kind, and downloads against a local server."""

import hashlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.errors import BadWeights
from training.image_weights import DOWNLOADS, Download, fetch, load_image_weights

STATE = {"layer1.0.conv1.weight": torch.randn(4, 4, 3, 3), "layer1.0.bn1.weight": torch.ones(4)}


def written(path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(STATE, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in STATE.items()})
    else:
        torch.save(STATE, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".safetensors", ".npz"])
def test_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"w{suffix}")
    weights = load_image_weights(str(path))
    assert weights.tensors.keys() == STATE.keys()
    assert all(torch.equal(weights.tensors[name], STATE[name]) for name in STATE)
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["module.", "", "module.backbone."])
def test_wrappers_are_taken_off(tmp_path: Path, wrapper: str, prefix: str) -> None:
    torch.save({wrapper: {prefix + name: tensor for name, tensor in STATE.items()}, "epoch": 3}, tmp_path / "w.pth")
    assert load_image_weights(str(tmp_path / "w.pth")).tensors.keys() == STATE.keys()


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    torch.save({"layer1": Payload(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(BadWeights, match="not a plain state dict"):
        load_image_weights(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.npz"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadWeights):
        load_image_weights(str(path))
    path.write_bytes(b"")
    with pytest.raises(BadWeights):
        load_image_weights(str(path))


def test_names_and_kinds_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="did you mean 'resnet18'"):
        load_image_weights("resnet81")
    with pytest.raises(BadWeights, match="fip weights fetch resnet18"):
        load_image_weights("resnet18", cache=tmp_path)
    (tmp_path / "w.bin").write_bytes(b"x")
    with pytest.raises(BadWeights, match=r"cannot read \.bin"):
        load_image_weights(str(tmp_path / "w.bin"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(BadWeights, match="holds a list"):
        load_image_weights(str(tmp_path / "list.pth"))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(URL, folder) of a file server on loopback."""
    folder = tmp_path / "site"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_fetch_checks_the_publishers_checksum(server: tuple[str, Path], tmp_path: Path) -> None:
    url, site = server
    path = written(site / "net.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    seen: list[tuple[int, int]] = []
    downloads = {"net": Download(f"{url}/net.pth", digest[:8], "")}
    got = fetch("net", tmp_path / "cache", downloads, lambda done, total: seen.append((done, total)))
    assert got.read_bytes() == path.read_bytes()
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    path.unlink()
    assert fetch("net", tmp_path / "cache", downloads) == got  # from the cache

    written(site / "other.pth")
    with pytest.raises(BadWeights, match="does not begin with 00000000"):
        fetch("other", tmp_path / "cache", {"other": Download(f"{url}/other.pth", "00000000", "")})
    with pytest.raises(BadWeights, match="download failed"):
        fetch("gone", tmp_path / "cache", {"gone": Download(f"{url}/gone.pth", "0", "")})
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["net.pth"]  # nothing half there


def test_a_damaged_cached_file_is_fetched_again(server: tuple[str, Path], tmp_path: Path) -> None:
    url, site = server
    path = written(site / "net.pth")
    downloads = {"net": Download(f"{url}/net.pth", hashlib.sha256(path.read_bytes()).hexdigest()[:8], "")}
    (tmp_path / "net.pth").write_bytes(b"half")
    assert fetch("net", tmp_path, downloads).read_bytes() == path.read_bytes()


def test_known_downloads_carry_the_checksum_of_their_name() -> None:
    for name, download in DOWNLOADS.items():
        assert Path(download.url).stem.endswith(f"-{download.sha256_prefix}")
        assert name.removeprefix("cifar10_") in download.url
        assert len(bytes.fromhex(download.sha256_prefix)) == 4
    with pytest.raises(BadWeights, match="no download is called 'resnet'"):
        fetch("resnet")
