"""`fip serve`. Nothing heavier than click is imported until it is called."""

from collections.abc import Mapping

import click

from models.commands.options import engine_option, precision_option

EPILOG = "Everything else is set in the environment, as FIP_MAX_WAITING=64: docs/settings.md lists all names, defaults and ranges."


@click.command(epilog=EPILOG)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1, FIP_HOST]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.  [default: 8000, FIP_PORT]")
@click.option("--registry", metavar="DIR|URL", help="Folder of models, or URL of an MLflow server, over the bundled ones.  [FIP_REGISTRY]")
@click.option(
    "--model", help="Default model of its task: NAME, NAME:VERSION or NAME@ALIAS; of the other task the bundled one is.  [FIP_MODEL]"
)
@click.option("--device", help="Where nets run: cpu, cuda, cuda:1.  [default: cuda where there is one, FIP_DEVICE]")
@engine_option
@precision_option
@click.option("--threads", type=click.IntRange(1), help="CPU threads of one forward pass.  [default: 1, FIP_THREADS]")
def serve(
    host: str | None,
    port: int | None,
    registry: str | None,
    model: str | None,
    device: str | None,
    engine: str | None,
    precision: str | None,
    threads: int | None,
) -> int:
    """Start the HTTP service.

    Prints one line with its address and its default models when it is ready. SIGTERM and Ctrl-C let requests in flight finish.
    """
    from service.worker.nursery import nursery

    nursery().start()  # first: it imports while this process does
    from pydantic import ValidationError

    from models.device import known_device
    from models.errors import BadOption
    from service.server import run
    from service.settings import Settings

    given: dict[str, object] = {"host": host, "port": port, "registry": registry, "model": model, "device": device}
    given |= {"engine": engine, "precision": precision, "threads": threads}
    try:
        settings = Settings.model_validate({name: value for name, value in given.items() if value is not None})
        known_device(settings.device)
    except ValidationError as error:
        first = error.errors()[0]
        raise _wrong(str(first["loc"][0]), first["msg"], given) from error
    except BadOption as error:
        raise _wrong("device", f"{error.detail} (known: {', '.join(error.known)})", given) from error
    return run(settings)


def _wrong(setting: str, message: str, given: Mapping[str, object]) -> click.UsageError:
    """Wrong usage, named as the setting was given: by option or in the environment."""
    return click.UsageError(f"{f'--{setting}' if given.get(setting) is not None else f'FIP_{setting.upper()}'}: {message}")
