"""The torchsparse engine on a device: against torchsparse's own layers, through its own tensors and maps."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.sparse.backends.torchsparse_backend import HashedSites
from models.sparse.backends.torchsparse_dataflows import WAYS, _tuner
from models.sparse.tensor import SiteCache
from tests.gpu.cases import CUDA, REFERENCE, engine_here, relative_error, sites, three_ways

pytestmark = pytest.mark.gpu


def test_its_own_layer_gives_the_same_sites_and_numbers() -> None:
    """Strided and not: with its minkowski downsampling, and our weight in its order of taps."""
    engine = engine_here("torchsparse")
    import torchsparse
    from torchsparse.nn import functional

    coords = sites()
    coords = coords - coords.amin(0) * torch.tensor([0, 1, 1, 1], dtype=torch.int32)  # its own maps know no negative coordinates
    shared = functional.conv_config.get_default_conv_config()  # one object for all
    config = type(shared)(dict(shared) | {"downsample_mode": "minkowski", "kmap_mode": "hashmap", "ifsort": False})
    for kernel_size, stride in ((3, 1), (3, 2), (2, 2)):
        kernel_map = SiteCache(coords.cuda(), engine).kernel_map(1, kernel_size, stride)
        taps = kernel_size**3
        feats, weight = torch.randn(len(coords), 32, device="cuda"), torch.randn(taps, 32, 64, device="cuda") / 30
        index = engine.index(coords.cuda())
        assert isinstance(index, HashedSites)
        theirs = torch.empty_like(weight)
        theirs[index.columns(kernel_size)] = weight
        allowed = torchsparse.backends.allow_tf32
        torchsparse.backends.allow_tf32 = False
        try:
            expected = functional.conv3d(torchsparse.SparseTensor(feats, coords.cuda()), theirs, kernel_size, stride=stride, config=config)
        finally:
            torchsparse.backends.allow_tf32 = allowed
        if stride > 1:
            assert torch.equal(expected.coords.cpu(), REFERENCE.downsample(coords, stride)[0])
        found = engine.conv(feats, weight, kernel_map, products=torch.float32)
        assert relative_error(found, expected.feats.double().cpu()) < 1e-5


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is measured with some of the ways alone is not what runs quickest."""
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    _tuner.cache_clear()
    yield
    _tuner.cache_clear()


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("splits", WAYS)
def test_each_way_is_right(splits: int) -> None:
    engine = engine_here("torchsparse")
    from torchsparse import backend

    from models.sparse.backends.torchsparse_backend import Parts, TorchsparseEngine
    from models.sparse.backends.torchsparse_dataflows import ImplicitGemm

    only = TorchsparseEngine(lambda: Parts({"cuda": ImplicitGemm(backend, fp16=True, ways=(splits,))}, {"cuda": backend.GPUHashTable}))
    coords = sites()
    theirs = SiteCache(coords, REFERENCE).kernel_map(1, 3, 1)
    ours = SiteCache(coords.cuda(), engine).kernel_map(1, 3, 1)
    for what, run in three_ways(theirs, 40, 64).items():
        expected = run(REFERENCE, theirs, torch.device("cpu"), torch.float64)
        assert relative_error(run(only, ours, CUDA, torch.float32), expected) < 1e-4, what
        assert relative_error(run(only, ours, CUDA, torch.float16), expected) < 5e-3, what


def test_duplicate_sites_are_refused() -> None:
    engine = engine_here("torchsparse")
    coords = sites().cuda()
    with pytest.raises(ValueError, match="duplicate"):
        engine.index(torch.cat([coords, coords[:1]]))


def test_on_another_stream_others_work() -> None:
    """torchsparse starts its kernels on the default stream, whatever the current one is."""
    engine = engine_here("torchsparse")
    coords = sites()
    theirs = SiteCache(coords, REFERENCE).kernel_map(1, 3, 1)
    feats, weight = torch.randn(len(coords), 16), torch.randn(27, 16, 16)
    with torch.cuda.stream(torch.cuda.Stream()):
        index = engine.index(coords.cuda())
        assert not isinstance(index, HashedSites)
        ours = engine.kernel_map(index, coords.cuda(), 3, 1)
        found = engine.conv(feats.cuda(), weight.cuda(), ours, products=torch.float32).cpu()
    torch.testing.assert_close(found, REFERENCE.conv(feats, weight, theirs, products=torch.float32), atol=1e-4, rtol=1e-4)
