"""Options that several commands share. Only click is imported here."""

from collections.abc import Callable
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., object])


def registry_option(command: Command) -> Command:
    """`--registry DIR|URL`, or FIP_REGISTRY from the environment."""
    text = "Folder of models, or URL of an MLflow server; its models come before the bundled ones."
    return click.option("--registry", envvar="FIP_REGISTRY", callback=_checked, metavar="DIR|URL", help=text)(command)


def _checked(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from models.registry.address import is_address

    if value is not None and not is_address(value):
        raise click.BadParameter(f"{value!r} is neither a folder that exists nor an http:// or https:// address", ctx, param)
    return value
