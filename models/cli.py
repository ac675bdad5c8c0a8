"""`fip`: finds commands through entry points, loads the package that owns one only when needed, and turns errors into exit codes.

Nothing here or at the top of a command module imports more than click, so that `fip --help` answers at once.
"""

import importlib.metadata
import sys
from collections.abc import Sequence

import click

from models.errors import BadOption, FipError, InputError, ModelError, TrainingError, nearest

COMMAND_GROUP = "fip.commands"
UNEXPECTED, INTERRUPTED = 1, 130
OURS = ("models", "training", "service")
EXIT_CODES: tuple[tuple[type[FipError], int], ...] = ((BadOption, 2), (InputError, 3), (ModelError, 4), (TrainingError, 5))

EPILOG = """\b
Exit codes:
  0    done
  1    unexpected error (a bug: please report the traceback)
  2    wrong usage: unknown command, option or value
  3    a file or point cloud cannot be used
  4    a model or checkpoint is missing, damaged or of the wrong kind
  5    a recipe, data set or 2D weight file cannot be used
  130  interrupted
"""


class LazyGroup(click.Group):
    """A group whose commands are the entry points of `fip.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(importlib.metadata.entry_points(group=COMMAND_GROUP).names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = importlib.metadata.entry_points(group=COMMAND_GROUP, name=cmd_name)
        for entry in found:
            try:
                command: click.Command = entry.load()
            except (ImportError, AttributeError) as error:
                return _unavailable(cmd_name, str(error))
            return command
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            ctx.fail(f"no command {args[0]!r}{nearest(args[0], known)} (known: {', '.join(known)})")
        return super().resolve_command(ctx, args)


def _unavailable(name: str, reason: str) -> click.Command:
    """Stands in for a command whose package cannot be imported, so that the others go on working."""

    def fail() -> None:
        raise click.ClickException(f"{name!r} cannot be loaded: {reason}")

    return click.Command(name, callback=fail, help=f"Not available here: {reason}", context_settings={"ignore_unknown_options": True})


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="fip-server", prog_name="fip")
def fip() -> None:
    """Image-pretrained ConvNets as 3D point-cloud models: train, publish, predict, serve."""


def describe(error: FipError, source: str | None = None) -> str:
    """One line for a terminal: `error [code]: source: where: message`, and what would have been accepted."""
    known = f" (known: {', '.join(error.known)})" if error.known else ""
    prefix = f"{source}: " if source is not None and source != error.where else ""
    return f"error [{error.code}]: {prefix}{error}{known}"


def exit_code(error: FipError) -> int:
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), UNEXPECTED)


def run(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Unexpected exceptions pass through: their traceback is the report."""
    try:
        result: object = fip.main(args=None if args is None else list(args), prog_name="fip", standalone_mode=False)
    except click.Abort:  # click's name for Ctrl-C
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FipError as error:
        click.echo(describe(error), err=True)
        return exit_code(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        click.echo(f"error: {error.name!r} is not installed; make install, or pip install 'fip-server[serve,train]', brings it", err=True)
        return UNEXPECTED
    return result if isinstance(result, int) else 0  # what ctx.exit() was given


def main() -> None:
    sys.exit(run())
