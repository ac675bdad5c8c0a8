"""`fip doctor`: what this installation runs on, which sparse engine it chose and why, and whether its models are whole."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from typing import TYPE_CHECKING, get_args

import click

from models.commands.options import registry_option

if TYPE_CHECKING:
    from models.manifest import Precision
    from models.registry import Catalogue, Entry

Facts = dict[str, str | int | float | bool]

PACKAGES = ("fip-server", "torch", "torchsparse", "triton", "numpy", "pydantic", "safetensors", "fastapi", "uvicorn", "h5py")
DAMAGED = 4


@click.command(short_help="Check this installation: engine, device, versions, models.")
@registry_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def doctor(registry: str | None, as_json: bool) -> int:
    """Report Python, device, the sparse engine and why it was chosen, package versions and the models.

    The exit code is 4 when a model is damaged, no engine works that would be used, or the device of FIP_DEVICE is not there.
    """
    from models.registry import open_catalogue

    catalogue = open_catalogue(registry)
    engines, usable = engine_facts()
    models = [facts for name in catalogue.names() for facts in name_facts(catalogue, name, usable)]
    report: dict[str, Facts | list[Facts]] = {
        "system": system_facts(),
        "device": device_facts(),
        "engines": engines,
        "packages": {name: _version(name) for name in PACKAGES},
        "models": models,
    }
    click.echo(json.dumps(report, indent=2) if as_json else as_text(report))
    healthy = any(facts["chosen"] and facts["works"] for facts in engines) and all(facts["ok"] for facts in models) and not _device()[1]
    return 0 if healthy else DAMAGED


def system_facts() -> Facts:
    return {"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count() or 0}


def device_facts() -> Facts:
    """The device nets run on unless a command is told otherwise, what may be asked for, and how many threads torch uses."""
    import torch

    from models.device import available_devices

    known = available_devices()
    name, refused = _device()
    facts: Facts = {"default": refused or name, "available": ", ".join(known), "threads": torch.get_num_threads()}
    facts["cpu"] = platform.processor() or platform.machine()
    return facts | {name: torch.cuda.get_device_name(name) for name in known if name.startswith("cuda:")}


def _device() -> tuple[str, str]:
    """By FIP_DEVICE, as for the other commands; where that is refused, the CPU, and why."""
    from models.device import AUTO, CPU, parse_device
    from models.errors import BadOption

    try:
        return parse_device(os.environ.get("FIP_DEVICE") or AUTO), ""
    except BadOption as error:
        return CPU, f"FIP_DEVICE is refused: {error.detail}"


def engine_facts() -> tuple[list[Facts], str]:
    """One entry an engine: whether it was chosen, why, and what its probe found (see models.sparse.backends.probe), in the precision of
    FIP_PRECISION.

    And the name of an engine to check models on: the chosen one; where FIP_ENGINE names one that is not to be had, so that none
    is chosen, the one that would be without it.
    """
    import torch

    from models.errors import BadOption
    from models.sparse.backends import ENGINES, choose, engine_for
    from models.sparse.backends.probe import probe_engine

    device, precisions = torch.device(_device()[0]), (_precision(),)
    choice = choose(device, precisions)
    in_use, refused = "", ""
    try:
        in_use = engine_for(device, None, precisions).name
    except BadOption as error:
        refused = f"FIP_ENGINE asks for it: {error.detail}"
    facts: list[Facts] = []
    for name, engine in ENGINES.items():
        report = choice.reports.get(name) or probe_engine(engine, device, precisions)
        entry: Facts = {"name": name, "chosen": name == in_use, "works": report.works, "reason": report.reason}
        if name == in_use:
            asked = "FIP_ENGINE says so" if report.works else f"FIP_ENGINE says so, but: {report.reason}"
            entry["reason"] = choice.reason if name == choice.name else asked
        entry |= {key: value for key, value in dataclasses.asdict(report).items() if value not in (None, "") and key not in entry}
        facts.append(entry | (product_facts() if name == "torch" and device.type == "cpu" else {}))
    return _with_refusal(facts, os.environ.get("FIP_ENGINE", ""), refused), in_use or choice.name


def _precision() -> "Precision":
    """What nets multiply in unless a command is told otherwise."""
    from models.manifest import Precision

    said = os.environ.get("FIP_PRECISION")
    return next((known for known in get_args(Precision) if known == said), "fp32")


def product_facts() -> Facts:
    """Which of its products the torch engine takes, and why (see models.sparse.backends.gemm)."""
    from models.sparse.backends.gemm import probe_gemm

    found = {key: value for key, value in dataclasses.asdict(probe_gemm()).items() if value is not None}
    return {"gemm" if key == "chosen" else f"gemm_{key}": value for key, value in found.items()}


def _with_refusal(facts: list[Facts], name: str, refused: str) -> list[Facts]:
    """The entry of the engine that was asked for says why it is refused; a name that no engine has gets an entry."""
    if not refused:
        return facts
    if all(entry["name"] != name for entry in facts):
        return [*facts, {"name": name, "chosen": False, "works": False, "reason": refused}]
    return [entry | {"reason": refused} if entry["name"] == name else entry for entry in facts]


def name_facts(catalogue: "Catalogue", name: str, engine: str) -> list[Facts]:
    """One entry a version; a single one if not even the versions can be told apart, because the aliases cannot be read."""
    from models.errors import BadCheckpoint

    try:
        return [model_facts(entry, engine) for entry in catalogue.versions(name)]
    except BadCheckpoint as error:
        return [{"name": name, "ok": False, "reason": str(error)}]


def model_facts(entry: "Entry", engine: str) -> Facts:
    """What a model is, and whether it could be served: every digest of its checkpoint holds, its weights fit."""
    from models.errors import ModelError
    from models.predictor import Predictor

    facts: Facts = {"name": entry.model.name, "version": entry.model.version}
    try:
        folder = entry.folder()
        manifest = Predictor.load(folder, engine=engine).manifest
    except (ModelError, OSError) as error:
        return {**facts, "ok": False, "reason": str(error)}
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {**facts, "ok": True, "task": manifest.task, "network": manifest.network.name, "bytes": size}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def as_text(report: dict[str, Facts | list[Facts]]) -> str:
    """A heading a section; a list prints one line an entry."""
    lines: list[str] = []
    for heading, section in report.items():
        lines.append(heading)
        if isinstance(section, list):
            lines += ["  " + ", ".join(f"{key}={_short(value)}" for key, value in entry.items()) for entry in section] or ["  none"]
        else:
            lines += [f"  {key:<14}{_short(value)}" for key, value in section.items()]
    return "\n".join(lines)


def _short(value: str | int | float | bool) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
