"""What every piece of frozen data is built on: unknown keys are an error, so that a typing mistake or a newer schema is noticed."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def is_none(value: object) -> bool:
    """For fields that came later: they stay out of files while they are None, so that earlier files keep their digests."""
    return value is None
