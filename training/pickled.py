"""Checkpoints that are pickles, opened with `weights_only`: tensors and plain containers are built, and nothing else runs.

Published ones hold more than weights: settings of their run, scores, paths. The classes of these are neither needed nor imported:
a stand-in takes their place that keeps nothing and does nothing.
"""

import re
import sys
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
    "datetime.datetime",
    "datetime.timedelta",
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
HOW_TO_CONVERT = (
    "If it comes from a package that you know and trust, keep the tensors alone: "
    'python -c "import torch; from PACKAGE import CLASS; torch.serialization.add_safe_globals([CLASS]); '
    "torch.save(torch.load('FILE', map_location='cpu')['state_dict'], 'weights.pth')\""
)
_FOREIGN = re.compile(r"GLOBAL ([\w.]+) (?:was not an allowed global|whose module)")
_REASON = re.compile(r"(?:WeightsUnpickler error:|\n\n\n)\s*([^\n]+)")
_TORCH = "Weights only load failed"  # and goes on to advise full unpickling, which must not be repeated


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
    """What the file holds that is not opened. Whatever it calls itself, nothing of it becomes part of a command."""
    text = str(error) or type(error).__name__
    if found := _FOREIGN.search(text):
        return _refusal(_foreign(path, found[1] if "." in found[1] else f"builtins.{found[1]}"))
    reason = text.splitlines()[0]
    if text.startswith(_TORCH):
        reason = found[1] if (found := _REASON.search(text)) else "a pickle that is damaged, or more than tensors"
    return "".join(letter if letter.isprintable() else "?" for letter in reason).strip()


def _refusal(names: list[str]) -> str:
    """Who asks for functions of Python itself is not told how to get them."""
    own = [name for name in names if name.partition(".")[0] in sys.stdlib_module_names]
    if own:
        return f"holds {', '.join(own)}, of Python itself, which no weights need; it is better not opened at all"
    return f"holds {', '.join(names)}, which is more than tensors. {HOW_TO_CONVERT}"


def _foreign(path: Path, first: str) -> list[str]:
    """What else of its kind is in the file, where its format lets one look."""
    if not zipfile.is_zipfile(path):
        return [first]
    try:
        found = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # it follows fewer pickles than `load` does, and says so in many ways
        return [first]
    known = {*BESIDE_THE_WEIGHTS, "collections.defaultdict", first}
    return [first, *sorted(name for name in found - known if re.fullmatch(r"[\w.]+", name))]
