"""torchsparse 2.1 as an engine: its hash table for kernel maps and its products, where it is installed on a CUDA machine.

It is used below its own layers, so that its global modes, tensors and caches are not in the way:

- sites of a strided convolution are floor(c / stride) for every kernel size, which torchsparse calls `downsample_mode="minkowski"`;
- its hash table takes the batch index last, and numbers taps x fastest where they are odd in number, z fastest where even: which
  column of a table is which tap is found by an impulse;
- what it needs of a map in its own layout is kept with that map (KernelMap.prepared).

float32 features, products in float32 or, forward, float16. All else, and what is too large for its 32-bit places, the triton engine gets.
Source: torchsparse 2.1.0, https://github.com/mit-han-lab/torchsparse (MIT). S input sites, T output sites, K taps, C channels.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import torch

from models.sparse.backends.norms import TORCH_NORMS
from models.sparse.backends.protocol import Epilogue, Packed, SiteIndexLike
from models.sparse.backends.reference import finish
from models.sparse.backends.torch_engine import TorchEngine, with_lines
from models.sparse.backends.torchsparse_dataflows import LARGEST_PLACE, MOST_TAPS, Dataflow, GatherScatter, ImplicitGemm, addressable
from models.sparse.backends.triton_engine import TritonEngine
from models.sparse.kernel_map import KernelMap, kernel_offsets

SERIES = "2.1."
SPARE_ROWS = 256  # threads of a block of its hash table, one for each row and tap
REST = TritonEngine()  # for products that are not for torchsparse; where it cannot be had, it hands them on to the torch engine


class HashTable(Protocol):
    """torchsparse.backend.GPUHashTable. Coordinates (S, 4) int32 [x, y, z, b], contiguous."""

    def insert_coords(self, coords: torch.Tensor) -> None: ...

    def lookup_coords(self, coords: torch.Tensor, kernel_size: torch.Tensor, stride: torch.Tensor, taps: int) -> torch.Tensor:
        """1 + the row of each tap's site, 0 for none: (T rounded up, K) int32."""


MakeTable = Callable[[torch.Tensor, torch.Tensor], HashTable]  # of keys (places,) int64 and values (places,) int32, all 0


@dataclass(frozen=True)
class Parts:
    """What an installed torchsparse has for each kind of device: products, and perhaps a hash table."""

    dataflows: Mapping[str, Dataflow]
    tables: Mapping[str, MakeTable]


class HashedSites:
    """Sites of one level in torchsparse's hash table, which knows coordinates by 64 bits of hash.

    Raises: ValueError (duplicate sites, or two that share a hash).
    """

    def __init__(self, coords: torch.Tensor, table: MakeTable) -> None:
        self.coords, self._make = coords, table
        places = 2 * len(coords)
        self._keys = torch.zeros(places, dtype=torch.int64, device=coords.device)
        self._values = torch.zeros(places, dtype=torch.int32, device=coords.device)
        self._table = table(self._keys, self._values)
        self._table.insert_coords(_batch_last(coords))
        alone = self.look_up(coords, 1, 1)[:, 0]
        if not torch.equal(alone, torch.arange(len(coords), dtype=torch.int32, device=coords.device)):
            raise ValueError("duplicate coordinates in a sparse tensor")

    def look_up(self, out_coords: torch.Tensor, kernel_size: int, stride: int) -> torch.Tensor:
        """Rows that each output site reads, -1 for none, taps in the order of torchsparse: (T, K) int32."""
        sizes, strides = (torch.full((3,), value, dtype=torch.int32, device=out_coords.device) for value in (kernel_size, stride))
        found = self._table.lookup_coords(_batch_last(out_coords), sizes, strides, kernel_size**3)
        return found[: len(out_coords)] - 1

    def columns(self, kernel_size: int) -> torch.Tensor:
        """The column of `look_up` that is each of our taps: (K,) int64.

        From impulses: around the one output site in the middle of a full cube, each column finds the site at its tap's offset.
        """
        side = torch.arange(-kernel_size, kernel_size + 1, dtype=torch.int32, device=self.coords.device)
        cube = torch.cartesian_prod(side.new_zeros(1), side, side, side)
        rows = HashedSites(cube, self._make).look_up(side.new_zeros(1, 4), kernel_size, 1)[0]
        met = [tuple(offset) for offset in cube[rows.long(), 1:].tolist()]
        wanted = kernel_offsets(kernel_size)
        if sorted(met) != sorted(wanted) or bool((rows < 0).any()):
            raise RuntimeError(f"torchsparse reads {met} for a kernel of {kernel_size}, not each of its taps once")
        return torch.tensor([met.index(offset) for offset in wanted], device=self.coords.device)


class TorchsparseEngine(TorchEngine):
    """Maps by its hash table where there is one for the device, else as the torch engine makes them."""

    name = "torchsparse"
    norms = TORCH_NORMS

    def __init__(self, load: Callable[[], Parts] | None = None) -> None:
        """load: how torchsparse is imported, once somebody asks for it. Raises there: ImportError (says why)."""
        self._load = load or installed_parts
        self._columns: dict[tuple[int, torch.device], torch.Tensor] = {}

    @functools.cached_property
    def _parts(self) -> Parts | str:
        """Or why they are not to be had."""
        try:
            return self._load()
        except ImportError as error:
            return str(error)

    def unavailable(self) -> str | None:
        return self._parts if isinstance(self._parts, str) else None

    def detail(self) -> str:
        return f"torchsparse {_installed_version() or 'of unknown version'}"

    def runs(self, device: torch.device, dtype: torch.dtype) -> bool:
        return dtype == torch.float32 and not isinstance(self._parts, str) and device.type in self._parts.dataflows

    def __reduce__(self) -> tuple[type["TorchsparseEngine"], tuple[()]]:
        """In another process it imports the library itself."""
        return TorchsparseEngine, ()

    def index(self, coords: torch.Tensor) -> SiteIndexLike:
        make = None if isinstance(self._parts, str) else self._parts.tables.get(coords.device.type)
        if make is None or coords.dtype != torch.int32 or not 0 < len(coords) < LARGEST_PLACE // MOST_TAPS or not _on_its_stream(coords):
            return super().index(coords)
        with torch.cuda.device_of(coords):
            return HashedSites(coords, make)

    def kernel_map(self, index: SiteIndexLike, out_coords: torch.Tensor, kernel_size: int, stride: int) -> KernelMap:
        if not isinstance(index, HashedSites):
            return super().kernel_map(index, out_coords, kernel_size, stride)
        place = kernel_size, out_coords.device
        with torch.cuda.device_of(out_coords):
            if place not in self._columns:
                self._columns[place] = index.columns(kernel_size)
            found = index.look_up(out_coords, kernel_size, stride)
        sources = found.index_select(1, self._columns[place]).t().contiguous()  # (T, K) -> (K, T)
        centre = kernel_size**3 // 2 if stride == 1 and kernel_size % 2 else None
        return KernelMap.of_sources(sources, len(index.coords), centre)

    def pack(self, weight: torch.Tensor, products: torch.dtype) -> Packed:
        if len(weight) == 1 or not self._takes(weight, products):
            return REST.pack(weight, products)
        taps, cin, cout = weight.shape
        data = weight.detach().to(products, copy=True, memory_format=torch.contiguous_format)
        return Packed(self.name, (taps, cin, cout), data, products)

    @torch.no_grad()
    def conv(
        self,
        feats: torch.Tensor,
        weight: torch.Tensor | Packed,
        kernel_map: KernelMap,
        *,
        products: torch.dtype,
        transpose: bool = False,
        epilogue: Epilogue | None = None,
    ) -> torch.Tensor:
        if isinstance(weight, Packed) and weight.engine != self.name:
            return REST.conv(feats, weight, kernel_map, products=products, transpose=transpose, epilogue=epilogue)
        filters = weight.data if isinstance(weight, Packed) else weight
        if transpose:
            filters = filters.transpose(1, 2)
        if not self._suits(feats, kernel_map, products, filters.shape[2]):
            return REST.conv(feats, filters.to(feats.dtype), kernel_map, products=products, epilogue=epilogue)  # (K, Cin, Cout)
        rows = with_lines(feats, kernel_map, products).contiguous()
        with torch.cuda.device_of(feats):
            out = self._dataflow(feats).conv(rows, filters.to(products).contiguous(), kernel_map)
        return finish(out.to(feats.dtype), epilogue)

    @torch.no_grad()
    def weight_grad(self, feats: torch.Tensor, grad: torch.Tensor, kernel_map: KernelMap, *, products: torch.dtype) -> torch.Tensor:
        if not (self._suits(feats, kernel_map, products, grad.shape[1]) and self._dataflow(feats).takes_gradients(products)):
            return REST.weight_grad(feats, grad, kernel_map, products=products)
        rows = with_lines(feats, kernel_map, products).contiguous()
        with torch.cuda.device_of(feats):
            out = self._dataflow(feats).weight_grad(rows, grad.to(products).contiguous(), kernel_map)
        return out.to(grad.dtype)

    def _takes(self, tensor: torch.Tensor, products: torch.dtype) -> bool:
        return self.runs(tensor.device, tensor.dtype) and self._dataflow(tensor).takes(products)

    def _dataflow(self, tensor: torch.Tensor) -> Dataflow:
        assert isinstance(self._parts, Parts)
        return self._parts.dataflows[tensor.device.type]

    def _suits(self, feats: torch.Tensor, kernel_map: KernelMap, products: torch.dtype, cout: int) -> bool:
        """Whether the call is one for torchsparse: not where there is nothing to do, nor a plain product of one tap."""
        num_in = kernel_map.num_in + (0 if kernel_map.lines is None else len(kernel_map.lines))
        return (
            self._takes(feats, products)
            and 1 < len(kernel_map.sizes) <= MOST_TAPS
            and len(kernel_map.in_rows) > 0
            and addressable(kernel_map, num_in, feats.shape[1], cout)
            and _on_its_stream(feats)
        )


def _batch_last(coords: torch.Tensor) -> torch.Tensor:
    """(S, 4) [b, x, y, z] -> [x, y, z, b]. Behind it are rows that its lookup may read, and makes nothing of: its last block is not cut."""
    rows = coords.new_zeros(len(coords) + SPARE_ROWS, 4)
    rows[: len(coords)] = coords[:, [1, 2, 3, 0]]
    return rows[: len(coords)]


def _on_its_stream(tensor: torch.Tensor) -> bool:
    """It starts kernels on the default stream only: on another one they would not wait for what comes before."""
    if tensor.device.type != "cuda":
        return True
    return torch.cuda.current_stream(tensor.device) == torch.cuda.default_stream(tensor.device)


def installed_parts() -> Parts:
    """Raises: ImportError (says why)."""
    found = _installed_version()
    if found is None:
        raise ImportError("torchsparse is not installed; it is built from its repository, as docker/gpu.Dockerfile does")
    if not found.startswith(SERIES):
        raise ImportError(f"torchsparse {found} is installed, {SERIES}x is needed")
    try:
        import torchsparse.backend as library  # asks for a CUDA device
        import torchsparse.backends as settings
    except (AssertionError, RuntimeError, OSError) as error:
        raise ImportError(f"torchsparse {found} cannot be imported: {error}") from error
    dataflows: dict[str, Dataflow] = {"cpu": GatherScatter(library)}
    if not hasattr(library, "GPUHashTable"):
        return Parts(dataflows, {})
    dataflows["cuda"] = ImplicitGemm(library, tf32=settings.allow_tf32, fp16=settings.allow_fp16)
    return Parts(dataflows, {"cuda": library.GPUHashTable})


def _installed_version() -> str | None:
    try:
        return version("torchsparse")
    except PackageNotFoundError:
        return None
