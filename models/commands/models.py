"""`fip models`: list, show, compare, publish, promote, roll back, verify and remove published models.

Only click is imported at the top, and nothing here needs torch but what verifies weights or compares them.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from models.commands.options import registry_option

if TYPE_CHECKING:
    from models.registry import Registry

BAD_ARTEFACT = 4
as_json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
alias_option = click.option("--alias", default="champion", show_default=True, help="Which alias moves.")


@click.group(short_help="Published models: list, show, diff, publish, promote, roll back, verify, rm.")
def models() -> None:
    """Published models, in a registry and bundled.

    \b
    A REF is NAME, NAME@ALIAS or NAME:VERSION, or MLflow's models:/NAME@ALIAS and models:/NAME/VERSION.
    A bare NAME means its champion, else its newest version.
    """


@models.command("list")
@registry_option
@as_json_option
def list_models(registry: str | None, as_json: bool) -> int:
    """Every version, with the aliases that point at it and its scores."""
    from models.commands.models_report import list_rows, list_text
    from models.registry import open_catalogue

    rows = list_rows(open_catalogue(registry))
    click.echo(json.dumps(rows, indent=1) if as_json else list_text(rows))
    return BAD_ARTEFACT if any(row["reason"] for row in rows) else 0


@models.command()
@click.argument("ref")
@registry_option
@as_json_option
def show(ref: str, registry: str | None, as_json: bool) -> None:
    """What a model is, where it comes from, and its card."""
    from models.commands.models_report import show_facts, show_text
    from models.registry import open_catalogue

    facts = show_facts(open_catalogue(registry).resolve(ref))
    click.echo(json.dumps(facts, indent=1) if as_json else show_text(facts))


@models.command()
@click.argument("a")
@click.argument("b")
@registry_option
@as_json_option
def diff(a: str, b: str, registry: str | None, as_json: bool) -> None:
    """What differs between the models A and B: description, scores, origin, weights."""
    from models.commands.models_diff import diff_facts, diff_text
    from models.registry import open_catalogue

    catalogue = open_catalogue(registry)
    left, right = catalogue.resolve(a), catalogue.resolve(b)
    facts = diff_facts(left.folder(), right.folder())
    click.echo(json.dumps(facts, indent=1) if as_json else diff_text(str(left), str(right), facts))


@models.command()
@click.argument("ref", metavar="NAME:VERSION")
@alias_option
@click.option("--expect", metavar="N|none", help="Only if the alias points at version N now, or at nothing.  [default: wherever it points]")
@registry_option
def promote(ref: str, alias: str, expect: str | None, registry: str | None) -> None:
    """Point an alias at a version, once every file of it has been verified."""
    from models.registry.publish import pointed_at
    from models.registry.publish import promote as move

    opened = _required(registry)
    name, version = _version(ref)
    expected = pointed_at(opened, name, alias) if expect is None else _expectation(expect)
    move(opened, name, alias, version, expected=expected)
    click.echo(f"{name}@{alias} is {name}:{version}{_before(expected, version)}")


@models.command()
@click.argument("name")
@alias_option
@registry_option
def rollback(name: str, alias: str, registry: str | None) -> None:
    """Point an alias at the version it pointed at before; again, and it goes one further back.

    Versions that were removed are passed over. What is rolled back to is verified first.
    """
    from models.registry.publish import pointed_at
    from models.registry.publish import rollback as move

    opened = _required(registry)
    current = pointed_at(opened, name, alias)
    version = move(opened, name, alias)
    click.echo(f"{name}@{alias} is {name}:{version}{_before(current, version)}")


@models.command()
@click.argument("refs", nargs=-1, metavar="[REF]...")
@registry_option
@as_json_option
def verify(refs: tuple[str, ...], registry: str | None, as_json: bool) -> int:
    """Check models through and through: digests, kinds of files, weights, card. Without REF: all there are.

    The exit code is 4 when one is bad; each bad one is named.
    """
    from models.commands.models_report import verify_rows
    from models.registry import open_catalogue

    rows = verify_rows(open_catalogue(registry), refs)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    for row in [] if as_json else rows:
        click.echo(f"{row['model']:<24} {'ok' if row['reason'] is None else 'BAD  ' + str(row['reason'])}")
    return BAD_ARTEFACT if any(row["reason"] for row in rows) else 0


@models.command()
@click.argument("ref", metavar="NAME:VERSION")
@registry_option
def rm(ref: str, registry: str | None) -> None:
    """Delete a version for good. Refused while an alias points at it; its number is not given out again."""
    from models.registry import ModelVersion

    opened = _required(registry)
    model = ModelVersion(*_version(ref))
    opened.remove(model)
    click.echo(f"{model} is deleted")


@models.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", metavar="NAME[@ALIAS]")
@registry_option
def publish(folder: Path, target: str, registry: str | None) -> None:
    """Publish a checkpoint FOLDER as the next version of NAME, and point ALIAS at it.

    The folder is verified first. Other publishers at the same time do no harm.
    """
    from models.registry import parse_target, publish_as

    name, alias = parse_target(target)
    published = publish_as(_required(registry), folder, name, alias)
    click.echo(f"{published}{f' is {name}@{alias}' if alias else ''}")


def _required(address: str | None) -> "Registry":
    from models.registry import open_registry

    if address is None:
        raise click.UsageError("needs a registry: --registry DIR|URL, or FIP_REGISTRY (the bundled models cannot be changed)")
    return open_registry(address)


def _version(ref: str) -> tuple[str, int]:
    """Raises: BadModelName, click.UsageError (names no version)."""
    from models.registry import parse_reference

    reference = parse_reference(ref)
    if reference.version is None:
        raise click.UsageError(f"{ref!r} names no version: NAME:VERSION")
    return reference.name, reference.version


def _expectation(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is neither a version number nor 'none'", param_hint="--expect")
    return int(text)


def _before(before: int | None, now: int) -> str:
    if before == now:
        return ", as before"
    return f", before it was version {before}" if before is not None else ", before it was nothing"
