"""`fip keys`: make, list and revoke API keys. Nothing heavier than click is imported until it is called."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar, cast

import click

T = TypeVar("T")

SCOPES_HELP = "What it opens, with commas: infer, admin (moves aliases), metrics. None of them implies another."
file_option = click.option(
    "--file", "path", envvar="FIP_KEYS", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File of keys.  [FIP_KEYS]"
)


@click.group(short_help="API keys of the service: new, list, revoke.")
def keys() -> None:
    """API keys, in a file that `fip serve` finds under FIP_KEYS. A service that runs takes changes over within two seconds.

    A key is sent as `Authorization: Bearer KEY` or as `X-API-Key: KEY`. The file holds only what keys are recognized by.
    """


@keys.command()
@file_option
@click.option("--name", required=True, help="Whose it is, for people.")
@click.option("--scopes", default="infer", show_default=True, help=SCOPES_HELP)
@click.option("--points-per-second", type=float, help="Points of clouds that it may send; 10 s of them at once.  [default: no limit]")
@click.option("--expires-days", type=click.FloatRange(0, 36_500, min_open=True), help="After how many days it ends.  [default: never]")
def new(path: Path, name: str, scopes: str, points_per_second: float | None, expires_days: float | None) -> None:
    """Make a key and print it. It is shown only this once."""
    from models.errors import BadOption
    from service.auth.keys import SCOPES, Scope, add_key, new_key

    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    for scope in wanted:
        if scope not in SCOPES:
            raise BadOption(f"no scope {scope!r}", where="--scopes", known=SCOPES)
    lasts = None if expires_days is None else timedelta(days=expires_days)
    text, key = new_key(name, cast(list[Scope], wanted), points_per_second, lasts)
    _changing(lambda: add_key(path, key), path)
    click.echo(text)


@keys.command("list")
@file_option
def list_keys(path: Path) -> None:
    """Every key: its id, whose it is, what it opens, and until when."""
    from service.auth.keys import read_keys

    now = datetime.now(UTC)
    for key in read_keys(path).keys:
        rate = "any rate" if key.points_per_second is None else f"{key.points_per_second:g} points/s"
        until = "for ever" if key.expires is None else f"until {key.expires:%Y-%m-%d %H:%M}"
        ended = "  expired" if key.expired(now) else ""
        click.echo(f"{key.id}  {','.join(key.scopes)}  {rate}  {until}{ended}  {key.name}")


@keys.command()
@file_option
@click.argument("key_id", metavar="ID")
def revoke(path: Path, key_id: str) -> None:
    """End a key, by the id that stands between the two underscores of it and in `list`."""
    from service.auth.keys import remove_key

    gone = _changing(lambda: remove_key(path, key_id), path)
    click.echo(f"{gone.id} ({gone.name}) opens nothing any more")


def _changing(change: Callable[[], T], path: Path) -> T:
    """Raises: BadOption (the file cannot be written)."""
    from models.errors import BadOption

    try:
        return change()
    except OSError as error:
        raise BadOption(f"cannot be written: {error.strerror}", where=str(path)) from error
