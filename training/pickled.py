"""Checkpoints that are pickles, opened with `weights_only`: tensors and plain containers are built, and nothing else runs.

Published ones hold more than weights: settings of their run, scores, paths. The classes of these are neither needed nor imported:
a stand-in takes their place that keeps nothing and does nothing.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from models.errors import BadWeights

WRAPPERS = ("state_dict", "model", "state_dict_ema")
BESIDE_THE_WEIGHTS = (  # names in pickles for which a stand-in will do
    "argparse.Namespace",
    "builtins.bool",
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
    "builtins.str",
    "builtins.tuple",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "omegaconf.base.ContainerMetadata",  # the settings that Hydra hands to a run, of OmegaConf 1.4 to 2.3
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "omegaconf.nodes.UntypedNode",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "typing.Any",
)
_GLOBAL = re.compile(r"GLOBAL (\S+) was not an allowed global")
_REASON = re.compile(r"WeightsUnpickler error: *(.+)")


class StandIn:
    """In place of an object that is no weight: it takes what the pickle gives it, and forgets it."""

    def __new__(cls, *_: object) -> "StandIn":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def _plain_dict(*_: object) -> dict[object, object]:
    """In place of a dict with a default, into which the unpickler puts items."""
    return {}


def read_pickled(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a state dict, in a wrapper or not, by the names they have there. Raises: BadWeights."""
    stand_ins = [(StandIn, name) for name in BESIDE_THE_WEIGHTS]
    try:
        with torch.serialization.safe_globals([*stand_ins, (_plain_dict, "collections.defaultdict")]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files of the old format fail in many ways, and every one of them means this
        raise BadWeights(f"not a plain state dict: {_reason(error, path)}", where=str(path)) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict):
        kind = "thing of another package" if isinstance(content, StandIn) else type(content).__name__
        raise BadWeights(f"holds a {kind}, not a state dict", where=str(path))
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise BadWeights("holds no tensors", where=str(path))
    return tensors


def _reason(error: Exception, path: Path) -> str:
    """What the file holds that is not opened and, where that may be harmless, how to do without."""
    text = str(error) or type(error).__name__
    if found := _GLOBAL.search(text):
        name = found[1] if "." in found[1] else f"builtins.{found[1]}"
        return f"holds {', '.join(_foreign(path, name))}, which is more than tensors. {_convert(name, path)}"
    return (found[1] if (found := _REASON.search(text)) else text.splitlines()[0]).strip()


def _foreign(path: Path, first: str) -> list[str]:
    """What else of its kind is in the file, where its format lets one look."""
    if not zipfile.is_zipfile(path):
        return [first]
    try:
        found = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # it follows fewer pickles than `load` does, and says so in many ways
        return [first]
    return [first, *sorted(found - {*BESIDE_THE_WEIGHTS, "collections.defaultdict", first})]


def _convert(name: str, path: Path) -> str:
    module, _, kind = name.rpartition(".")
    line = (
        f"import torch; from {module} import {kind}; torch.serialization.add_safe_globals([{kind}]); "
        f"torch.save(torch.load('{path.name}', map_location='cpu')['state_dict'], 'weights.pth')"
    )
    return f'If you trust it, keep its tensors alone: python -c "{line}"'
