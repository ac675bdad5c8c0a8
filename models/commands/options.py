"""Options that several commands share. Only click is imported here."""

from collections.abc import Callable
from typing import TypeVar

import click

ENGINE_NAMES = ("auto", "native", "torchsparse", "triton", "torch", "reference")  # of models.sparse.backends, which imports torch
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")  # of models.manifest
Command = TypeVar("Command", bound=Callable[..., object])


def registry_option(command: Command) -> Command:
    """`--registry DIR|URL`, or FIP_REGISTRY from the environment."""
    text = "Folder of models, or URL of an MLflow server; its models come before the bundled ones."
    return click.option("--registry", envvar="FIP_REGISTRY", callback=_checked, metavar="DIR|URL", help=text)(command)


def device_option(text: str) -> Callable[[Command], Command]:
    """`--device NAME`, or FIP_DEVICE from the environment."""
    return click.option("--device", envvar="FIP_DEVICE", default="auto", show_default="cuda where there is one", help=text)


def engine_option(command: Command) -> Command:
    """`--engine NAME`, or FIP_ENGINE from the environment: checked before anything is loaded; None where none was named."""
    text = f"What convolutions run on: {', '.join(ENGINE_NAMES)}.  [default: auto, the fastest that is right here]"
    return click.option("--engine", envvar="FIP_ENGINE", callback=_known_engine, metavar="NAME", help=text)(command)


def precision_option(command: Command) -> Command:
    """`--precision NAME`, or FIP_PRECISION from the environment; None where none was named."""
    text = "What the factors of products are rounded to; taps are summed in float32. tf32 on CUDA only.  [default: fp32]"
    return click.option("--precision", envvar="FIP_PRECISION", type=click.Choice(PRECISIONS), help=text)(command)


def tile_options(command: Command) -> Command:
    """`--tile-voxels N` and `--tile-halo N`, or FIP_TILE_VOXELS and FIP_TILE_HALO from the environment, as the service has them."""
    voxels = "Voxels of one forward pass; larger clouds are cut into tiles, margins counted in.  [default: 1000000]"
    halo = "Margin around a tile in voxels.  [default: all that the net sees, and answers are exact]"
    for name, least, text in (("--tile-halo", 0, halo), ("--tile-voxels", 1, voxels)):
        envvar = f"FIP_{name[2:].replace('-', '_').upper()}"
        command = click.option(name, envvar=envvar, type=click.IntRange(min=least), metavar="N", help=text)(command)
    return command


def _known_engine(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is None or value == ENGINE_NAMES[0]:
        return value
    from models.errors import BadOption
    from models.sparse.backends import engine_named

    try:
        return engine_named(value).name
    except BadOption as error:
        raise click.BadParameter(f"{error.detail} (known: {', '.join(error.known)})", ctx, param) from error


def _checked(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from models.registry.address import is_address

    if value is not None and not is_address(value):
        raise click.BadParameter(f"{value!r} is neither a folder that exists nor an http:// or https:// address", ctx, param)
    return value
