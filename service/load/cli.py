"""`fip bench`. Nothing heavier than click is imported until it is called."""

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import click

from models.errors import BadOption

if TYPE_CHECKING:
    from service.load.plan import Arrivals
    from service.load.records import LoadResult
    from service.load.summary import Summary

MIX = "1000:0.7,20000:0.25,200000:0.05"
RATE = 20.0
INSTALL = "fip bench needs {name!r}, which is not installed: pip install 'fip-server[load]'"
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")
NOTHING_ACCEPTED = 1
EXAMPLES = """\b
Examples:
  fip bench http://127.0.0.1:8000                              20 clouds a second for 30 seconds
  fip bench http://127.0.0.1:8000 --ramp 5:50 --duration 2m    where does it become slow?
  fip bench http://127.0.0.1:8000 --task segment --file street.las --rate 2 --plot street.svg
  fip bench http://127.0.0.1:8000 --malformed 0.2 --disconnect 0.1 --json soak.json
  fip bench http://127.0.0.1:8000 --closed 8 --points 4000     8 clients that wait for their answers
"""


def _seconds(_ctx: click.Context, _param: click.Parameter, text: str) -> float:
    """`30s`, `500ms`, `2m`, `1h`, `30`."""
    found = DURATION.fullmatch(text.strip())
    if not found or not float(found[1]):
        raise click.BadParameter(f"{text!r} is not a time above 0, as 30s, 500ms, 2m and 1h are")
    return float(found[1]) * SECONDS[found[2]]


def _ramp(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[float, float] | None:
    """`5:50`: from 5 to 50 a second."""
    if text is None:
        return None
    start, _, end = text.partition(":")
    try:
        return float(start), float(end)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not FROM:TO, two rates in requests a second") from None


ABOVE_0 = click.FloatRange(min=0, min_open=True)
SHARE = click.FloatRange(0, 1)
TO_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command(short_help="Load a running service: rates, latencies, goodput.", epilog=EXAMPLES)
@click.argument("url")
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="PATH",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Send this file; repeatable.",
)
@click.option(
    "--points", metavar="N[:WEIGHT],...", help=f"Send made-up clouds of so many points, so often.  [default: {MIX}, without --file]"
)
@click.option("--task", type=click.Choice(["classify", "segment"]), default="classify", show_default=True, help="What to ask for.")
@click.option("--model", metavar="NAME", help="Which model to ask: NAME, NAME:VERSION or NAME@ALIAS.")
@click.option("--format", "fmt", metavar="FORMAT", help="What answers of segment are: json, ply, label, ...")
@click.option("--rate", type=ABOVE_0, help=f"Requests a second, however fast answers come.  [default: {RATE:g}]")
@click.option("--ramp", callback=_ramp, metavar="FROM:TO", help="A rate that grows linearly over the duration, instead.")
@click.option(
    "--closed", "clients", type=click.IntRange(1), metavar="CLIENTS", help="Clients that wait for each answer, instead of a rate."
)
@click.option("--duration", callback=_seconds, default="30s", show_default=True, metavar="TIME", help="How long to send: 30s, 5m, 1h.")
@click.option("--arrivals", type=click.Choice(["poisson", "even"]), default="poisson", show_default=True, help="Random or even spacing.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of arrivals, choice of bodies, damage and departures.")
@click.option("--goodput-ms", type=ABOVE_0, default=500, show_default=True, help="Right answers count as good within this time.")
@click.option("--disconnect", type=SHARE, default=0, metavar="SHARE", help="Clients that leave before the answer.")
@click.option("--malformed", type=SHARE, default=0, metavar="SHARE", help="Bodies that are damaged; 4xx is then the right answer.")
@click.option("--timeout", "timeout_s", type=ABOVE_0, metavar="SECONDS", help="Sent as X-Request-Timeout.")
@click.option(
    "--key",
    envvar="FIP_BENCH_KEY",
    help="API key; other users of the machine see options, so better: FIP_BENCH_KEY.  [FIP_BENCH_KEY]",
)
@click.option("--patience", "patience_s", type=ABOVE_0, default=60, show_default=True, help="Seconds after which a client gives up.")
@click.option("--connections", type=click.IntRange(1), default=512, show_default=True, help="Open at once, at most.")
@click.option("--json", "json_file", type=TO_FILE, metavar="FILE", help="Write all numbers here.")
@click.option("--records", is_flag=True, help="Into --json, too: what happened to each request.")
@click.option(
    "--plot", "plot_file", type=TO_FILE, metavar="FILE.svg|png", help="Draw latencies over time, their distribution, and statuses."
)
def bench(
    url: str,
    files: tuple[Path, ...],
    points: str | None,
    task: str,
    model: str | None,
    fmt: str | None,
    rate: float | None,
    ramp: tuple[float, float] | None,
    clients: int | None,
    duration: float,
    arrivals: "Arrivals",
    seed: int,
    goodput_ms: float,
    disconnect: float,
    malformed: float,
    timeout_s: float | None,
    key: str | None,
    patience_s: float,
    connections: int,
    json_file: Path | None,
    records: bool,
    plot_file: Path | None,
) -> int:
    """Send point clouds to the service at URL, at a rate that does not wait for answers, and report what came back.

    When requests are due is drawn beforehand, and latencies are counted from then: a service that falls behind cannot hide it by
    slowing its clients down. URL may have a path; without one it is asked at /v1/TASK.

    Ctrl-C ends the run early and reports. Exits with 1 if no request was answered as it should be: a whole file with 2xx.
    """
    if sum(pace is not None for pace in (rate, ramp, clients)) > 1:
        raise click.UsageError("of --rate, --ramp and --closed only one can set the pace")
    _check(task, fmt, json_file, plot_file, records=records)
    try:
        from service.load.bodies import gather, parse_points
        from service.load.plan import LoadPlan
        from service.load.terminal import report, run_with_progress
    except ModuleNotFoundError as error:
        raise missing(error) from error

    address = urlsplit(url)
    try:
        mix = parse_points(points or MIX) if points or not files else {}
    except BadOption as error:
        raise click.BadParameter(error.detail, param_hint="'--points'") from error
    query = dict(parse_qsl(address.query)) | {name: value for name, value in (("model", model), ("format", fmt)) if value}
    plan = LoadPlan(
        url=f"{address.scheme}://{address.netloc}" if address.netloc else url,
        bodies=gather(files, mix, task, seed),
        path=address.path if address.path.strip("/") else f"/v1/{task}",
        query=query,
        arrivals=arrivals,
        rate=RATE if rate is None and ramp is None and clients is None else rate,
        ramp=ramp,
        duration_s=duration,
        seed=seed,
        disconnect=disconnect,
        malformed=malformed,
        timeout_s=timeout_s,
        key=key,
        connections=connections,
        clients=clients,
        patience_s=patience_s,
    )
    result = run_with_progress(plan)
    summary = result.summary(goodput_ms)
    report(summary)
    if json_file:
        _write_json(json_file, summary, result if records else None)
    if plot_file:
        from service.load.plot import draw

        draw(result, plot_file)
    return 0 if result.any_right else NOTHING_ACCEPTED


def missing(error: ModuleNotFoundError) -> Exception:
    """What to say of a package that is not there; an error of our own package stays what it is."""
    name = (error.name or "").partition(".")[0]
    return error if name in ("", "models", "service") else click.ClickException(INSTALL.format(name=name))


def _check(task: str, fmt: str | None, json_file: Path | None, plot_file: Path | None, *, records: bool) -> None:
    """What would otherwise be noticed after the run. Raises: UsageError, ClickException (matplotlib)."""
    if fmt and task != "segment":
        raise click.UsageError("--format goes with --task segment")
    if records and not json_file:
        raise click.UsageError("--records goes with --json FILE")
    for option, path in (("--json", json_file), ("--plot", plot_file)):
        if path and not path.absolute().parent.is_dir():
            raise click.UsageError(f"{option}: there is no folder {path.parent}")
    if plot_file:
        if plot_file.suffix.lower() not in (".svg", ".png"):
            raise click.UsageError(f"--plot: {plot_file.name!r} ends neither in .svg nor in .png")
        try:
            import matplotlib  # noqa: F401 - now, not after half an hour of load
        except ModuleNotFoundError as error:
            raise missing(error) from error


def _write_json(path: Path, summary: "Summary", result: "LoadResult | None") -> None:
    import json

    document = {**summary} if result is None else {**summary, "records": result.rows()}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
