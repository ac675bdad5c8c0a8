"""Every error the project raises on purpose, each with a stable `code`. No HTTP here: the service maps codes once.

FipError
├── InputError            what the caller sent cannot be used
│   ├── FileError         the bytes are not a cloud we can read
│   └── CloudError        the bytes are fine, the cloud is not
├── ModelError            a model or checkpoint is missing, damaged or of the wrong kind
└── TrainingError         a recipe, data set or 2D weight file cannot be used
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class FipError(Exception):
    """Base of all errors raised on purpose.

    `where` names the offending place (a file, a line of a header, a key); `known` lists what would have been accepted.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, where: str | None = None, known: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.where = where
        self.known = tuple(known)

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.where}: {text}" if self.where else text

    @property
    def detail(self) -> str:
        """The message without its place."""
        return super().__str__()


class InputError(FipError):
    code = "bad_input"


class BadOption(InputError):
    """An option of the request has a value that is not on its list."""

    code = "bad_option"


class FileError(InputError):
    code = "bad_file"


class UnsupportedFormat(FileError):
    """No reader for this kind of file."""

    code = "unsupported_format"


class EmptyFile(FileError):
    code = "empty_file"


class BadHeader(FileError):
    """The header breaks the rules of its format."""

    code = "bad_header"


class HeaderTooLarge(FileError):
    """The header goes on past the limit (64 kB, 256 properties)."""

    code = "header_too_large"


class TruncatedFile(FileError):
    """The header announces more data than the file holds."""

    code = "truncated_file"


class BadBody(FileError):
    """The data after the header cannot be read as the header announces it."""

    code = "bad_body"


class MissingCoordinates(FileError):
    """No x, y, z."""

    code = "missing_coordinates"


class CloudError(InputError):
    code = "bad_cloud"


class NoPoints(CloudError):
    code = "no_points"


class NonFinite(CloudError):
    """A coordinate or feature is NaN, infinite or too large for float32 arithmetic."""

    code = "non_finite"


class DegenerateCloud(CloudError):
    """All points coincide, so the cloud has no size to normalise by."""

    code = "degenerate_cloud"


class ExtentTooLarge(CloudError):
    """The bounding box is too large for the voxel size."""

    code = "extent"


class MissingFeature(CloudError):
    """The model needs a feature that the file lacks and has no fill value for."""

    code = "missing_feature"


class TooManyPoints(CloudError):
    code = "too_many_points"


class TooManyVoxels(CloudError):
    code = "too_many_voxels"


class ModelError(FipError):
    code = "bad_model"


class UnknownModel(ModelError):
    code = "unknown_model"


class BadModelName(ModelError):
    """The name breaks the pattern of model names."""

    code = "bad_model_name"


class WrongTask(ModelError):
    code = "wrong_task"


class BadCheckpoint(ModelError):
    """A file of the checkpoint is missing, damaged or does not match its manifest."""

    code = "bad_checkpoint"


class AliasConflict(ModelError):
    """An alias points elsewhere than was expected, or at what would be removed; nothing was changed."""

    code = "alias_conflict"


class RegistryUnavailable(ModelError):
    """The registry cannot be reached, read or written."""

    code = "registry_unavailable"


class TrainingError(FipError):
    code = "bad_training"


class BadWeights(TrainingError):
    """A 2D weight file cannot be read or does not fit."""

    code = "bad_weights"


class InflationError(TrainingError):
    """Too few tensors of the 2D net found a place in the 3D net."""

    code = "bad_inflation"


class BadRecipe(TrainingError):
    code = "bad_recipe"


class BadDataset(TrainingError):
    code = "bad_dataset"


class BadLabels(TrainingError):
    """A list of classes, or a label file, cannot be used."""

    code = "bad_labels"


class BadRunDir(TrainingError):
    """A run directory cannot be used: it belongs to another run, a file in it is damaged, or it cannot be written."""

    code = "bad_run_dir"


class Diverged(TrainingError):
    """The loss is no longer a finite number."""

    code = "diverged"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped name: `"; did you mean 'epochs'?"`, or nothing when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
