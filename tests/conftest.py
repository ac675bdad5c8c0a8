"""What every test shares: the real data where there is some, few threads, and a GPU marker that skips with a reason."""

import hashlib
import importlib
import os
import struct
import zlib
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported anywhere; more only wait for each other on a busy machine
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("FIP_DEVICE", "cpu")  # also where there is a GPU: tests/gpu say so themselves where they want it

import pytest
import torch
from hypothesis import settings

settings.register_profile("fip", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("fip")


def import_what_asks_for_a_device() -> None:
    """Where there is none, before anybody else does.

    torchsparse that was built for a CPU asks for a device while it is imported, and can then do without. What Triton makes when it is
    imported is for its interpreter or for a device.
    """
    if torch.cuda.is_available():
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: (0, 0))
        patch.setenv("TRITON_INTERPRET", "1")
        for name in ("torchsparse", "triton.language"):
            with suppress(ImportError):
                importlib.import_module(name)


import_what_asks_for_a_device()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real data, from FIP_DATA. Tests that use it carry the marker `data`."""
    if not os.environ.get("FIP_DATA"):
        pytest.skip("FIP_DATA is not set: no real data on this machine")
    folder = Path(os.environ["FIP_DATA"]).resolve()
    if not folder.is_dir():
        pytest.fail(f"FIP_DATA={folder} is not a folder")
    return folder


@pytest.fixture(scope="session")
def tiny_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one untrained classifier `tiny`, version 1, that verifies: three classes, 1,024 points, unit sphere, z up."""
    from models.checkpoint import save_checkpoint
    from models.manifest import FeatureSpec, InputSpec, Manifest, NetworkSpec, Provenance
    from models.zoo import build

    network = NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=3)
    features = (FeatureSpec(name="x"), FeatureSpec(name="y"), FeatureSpec(name="z"))
    sources = {
        "init": "scratch",
        "mode": "all",
        "recipe": "none",
        "dataset": "none",
        "code_version": "test",
        "licences": ["none: untrained"],
    }
    digests = {key: hashlib.sha256(key.encode()).hexdigest() for key in ("recipe_sha256", "dataset_sha256")}
    manifest = Manifest(
        name="tiny",
        task="classify",
        network=network,
        input=InputSpec(features=features, voxel_size=0.1, normalise="unit_sphere", point_budget=1024),
        labels=("chair", "stool", "table"),
        metrics={},
        provenance=Provenance.model_validate({**sources, **digests, "seed": 0, "created": "2026-01-01T00:00:00Z"}),
    )
    registry = tmp_path_factory.mktemp("registry")
    (registry / "tiny" / "1").mkdir(parents=True)
    (registry / "tiny" / "1" / "curve.png").write_bytes(white_pixel())
    facts = "\n".join(f"- {fact}" for fact in ("test", *digests.values(), "none: untrained"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(registry / "tiny" / "1", build(network), manifest, f"# tiny\n\nUntrained.\n\n![nothing](curve.png)\n\n{facts}\n")
    return registry


def white_pixel() -> bytes:
    """A PNG of one white pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)  # width, height, bits, grey, and three zeros
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\xff")) + chunk(b"IEND", b"")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With FIP_REQUIRE_DATA=1 (CI, where the data is present) a skipped data test is a failure."""
    report = yield
    required = os.environ.get("FIP_REQUIRE_DATA") == "1"
    gpu = item.get_closest_marker("gpu") is not None
    if required and not gpu and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("data"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: a data test was skipped although FIP_REQUIRE_DATA=1: {report.longrepr}"
    return report
