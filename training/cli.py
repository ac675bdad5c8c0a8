"""`fip train | evaluate | weights | reproduce`. Only click is imported here; the work is imported when a command runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from models.commands.options import device_option, engine_option, precision_option, registry_option

if TYPE_CHECKING:
    from models.manifest import Precision

FOLDER = click.Path(file_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("recipe")
@click.option(
    "--data",
    type=EXISTING_FOLDER,
    help="Folder with one subfolder of clouds a class, of labelled clouds, or what the recipe names (all but generated shapes need it).",
)
@click.option("--weights", help="2D weights: a .pth, .pth.tar, .safetensors or .npz file, or a name that `fip weights list` shows.")
@click.option(
    "--init",
    type=click.Choice(["image", "scratch", "random-frozen", "random-inflated"]),
    help="Where the net starts; the random ones stay so, as controls [recipe: image].",
)
@click.option("--mode", type=click.Choice(["io", "ioms", "iobn", "all"]), help="What is trained.")
@click.option("--shots", type=int, help="Training clouds a class.")
@click.option("--seed", type=int, help="Seed of weights, subsets and augmentation.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any other key of the recipe, for example optim.lr=0.01.")
@click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be read, instead of refusing the folder.")
@click.option("--teacher", help="Learn also what MODEL (a name, or a checkpoint folder) says of clouds without labels.", metavar="MODEL")
@click.option("--unlabelled", type=EXISTING_FOLDER, help="Folder of clouds without labels [training clouds that --shots leaves out].")
@click.option("--publish", "target", metavar="NAME[@ALIAS]", help="Publish the model under this name, and point the alias at it.")
@click.option(
    "--registry", envvar="FIP_REGISTRY", default="registry", show_default=True, help="Where to publish: a folder or an MLflow URL."
)
@click.option("--run-dir", type=FOLDER, help="Where state, logs and the checkpoint go [runs/NAME]. Run again to go on.")
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that read clouds ahead of need.")
@click.option("--cache/--no-cache", default=True, show_default=True, help="Keep prepared clouds in RUN_DIR while training.")
@device_option("Where to train: cpu, cuda, cuda:1. Under torchrun: cpu or cuda.")
@engine_option
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [PyTorch's choice].")
def train(
    recipe: str,
    data: Path | None,
    weights: str | None,
    init: str | None,
    mode: str | None,
    shots: int | None,
    seed: int | None,
    overrides: tuple[str, ...],
    skip_bad: bool,
    teacher: str | None,
    unlabelled: Path | None,
    target: str | None,
    registry: str,
    run_dir: Path | None,
    workers: int,
    cache: bool,
    device: str,
    engine: str | None,
    threads: int | None,
) -> None:
    """Inflate 2D weights and finetune them on point clouds as RECIPE says (a bundled name or a YAML file).

    Ends with a checkpoint in RUN_DIR/checkpoint, scored once on the test clouds, and published if asked for. The same
    command goes on after a stop. On several processes: torchrun --nproc-per-node N --no-python fip train ...
    """
    from training.datasets.kinds import GENERATED
    from training.distributed import world
    from training.image_weights import OWN
    from training.loop import Compute
    from training.publishing import Target
    from training.recipe import parse_override, read_draft
    from training.train import Job
    from training.train import train as run

    _limit_threads(threads)
    own = weights if weights in OWN else None  # what comes with the package is part of the recipe, which the checkpoint keeps
    flags: dict[str, object] = {"init": init, "mode": mode, "data.shots": shots, "seed": seed, "weights": own}
    said = {key: value for key, value in flags.items() if value is not None} | dict(parse_override(text) for text in overrides)
    draft = read_draft(recipe, said)
    if teacher and draft.preview.distill is None:
        draft = read_draft(recipe, {**said, "distill": {}})
    if (data is None) != (draft.preview.data.kind == GENERATED):
        raise click.UsageError(
            "Missing option '--data'." if data is None else "--data: generated shapes come from no folder; leave it out."
        )
    goal = Target.parse(target, registry) if target else None
    name = goal.name if goal else draft.preview.name
    with world(device) as (here, place):
        compute = Compute(workers, cache, world=here, engine=engine)
        tutor = _checkpoint(teacher, registry) if teacher else None
        job = Job(draft, data or Path(), weights, run_dir or Path("runs") / name, name, skip_bad, place, compute, tutor, unlabelled)
        try:
            checkpoint = run(job)
        except KeyboardInterrupt:
            here.say("stopped; the same command goes on from what is saved")
            raise
        if goal and checkpoint:
            click.echo(goal.publish(checkpoint))


def _checkpoint(model: str, registry: str) -> Path:
    """The folder of a model of the registry, where there is one, or of a bundled one. Raises: UnknownModel, RegistryUnavailable."""
    from models.registry import open_catalogue

    there = "://" in registry or Path(registry).is_dir()
    return open_catalogue(registry if there else None).locate(model)[0]


@click.command()
@click.argument("model")
@click.option("--data", type=EXISTING_FOLDER, help="Folder of the data set (none for models of generated shapes).")
@click.option("--kind", help="Kind of data set: modelnet40, folder, semantickitti, s3dis, nuscenes, scannet, labelled [the model's own].")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "test"]))
@click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be read.")
@registry_option
@click.option("--json", "as_json", is_flag=True, help="Print scores and every prediction as JSON.")
@device_option("Where the net runs: cpu, cuda, cuda:1.")
@engine_option
@precision_option
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [PyTorch's choice].")
def evaluate(
    model: str,
    data: Path | None,
    kind: str | None,
    split: str,
    skip_bad: bool,
    registry: str | None,
    as_json: bool,
    device: str,
    engine: str | None,
    precision: "Precision | None",
    threads: int | None,
) -> None:
    """Score MODEL (a name, or a checkpoint folder) on a labelled split, exactly as the service would answer.

    Prints the accuracy of every class of clouds, or the IoU of every class of points.
    """
    import json

    from models.device import parse_device
    from models.predictor import Predictor
    from models.registry import open_catalogue
    from training.data import report_on
    from training.recipe import load_recipe
    from training.sources import data_to_score

    _limit_threads(threads)
    folder = open_catalogue(registry).locate(model)[0]
    predictor = Predictor.load(folder, parse_device(device), engine, precision or "fp32")
    recipe = load_recipe(str(folder / "recipe.yaml")) if (folder / "recipe.yaml").is_file() else None
    data_set, note = data_to_score(data, split, kind, predictor.manifest, recipe, skip_bad=skip_bad)
    if note:
        click.echo(note, err=True)
    report = report_on(predictor, data_set, predictor.manifest.task, miou_empty=recipe.miou_empty if recipe else "corrected")
    if as_json:
        click.echo(json.dumps(report.details))
        return
    for name, score in report.class_scores.items():
        click.echo(f"{name:>16}  {score:7.2%}")
    click.echo(report.summary)


@click.group()
def weights() -> None:
    """Weights to begin with: download, list, look into, take from a model."""


@weights.command()
@click.argument("name")
@click.option("--dir", "folder", type=FOLDER, help="Where to put it [$FIP_CACHE or ~/.cache/fip].")
def fetch(name: str, folder: Path | None) -> None:
    """Download the 2D weights NAME from their publisher and check the checksum."""
    from tqdm import tqdm

    from training.image_weights import fetch as download

    with tqdm(desc=name, unit="B", unit_scale=True, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        path = download(name, folder, progress=progress)
    click.echo(path)


@weights.command("list")
def list_weights() -> None:
    """Names of weights: those of the package, those that `fetch` knows, and whether they are here."""
    from models.cache import cache_dir
    from training.image_weights import DOWNLOADS, OWN, load_image_weights

    for name in OWN:
        body = load_image_weights(name).body
        assert body
        click.echo(f"{name:18} {'here':11} 3D {body.network}, of this package; {'; '.join(body.provenance.licences)}")
    for name, download in DOWNLOADS.items():
        here = (cache_dir() / Path(download.url).name).is_file()
        click.echo(f"{name:18} {'downloaded' if here else '-':11} {download.licence}")


@weights.command()
@click.argument("source")
@click.option("--network", help="Also inflate into this 3D network and report what fits.")
def show(source: str, network: str | None) -> None:
    """Say what a weight file SOURCE holds, and what of it would be inflated or, being 3D, copied."""
    from models.manifest import NetworkSpec
    from models.zoo import build
    from training.image_weights import load_image_weights
    from training.inflate import InflateSpec, inflate_state_dict
    from training.minkowski import heaviest_at_centre

    image = load_image_weights(source)
    values = sum(tensor.numel() for tensor in image.tensors.values())
    click.echo(f"{image.name}: {len(image.tensors)} tensors, {values:,} values, sha256 {image.sha256}")
    if image.body:
        reads = ", ".join(image.body.features)
        click.echo(f"the body of {image.body.model}, a {image.body.network} whose stem reads {reads}: --set inflate.stem=copy keeps that")
        click.echo("\n".join(image.body.provenance.licences))
    if network:
        channels = len(image.body.features) if image.body else 3
        target = build(NetworkSpec(name=network, in_channels=channels, num_classes=40)).state_dict()
        if image.body:
            image.body.fits(network, image.body.features, stem=False)
        report = inflate_state_dict(image.tensors, target, InflateSpec(stem="copy" if image.body else "fresh"))[1]
        click.echo(report)
        if report.copied and not image.body:
            centred, kernels = heaviest_at_centre([image.tensors[name] for name in report.copied])
            click.echo(
                f"{centred} of {kernels} kernels of 3×3×3 are heaviest at their centre; if few of a trained net are, try inflate.taps=cube"
            )


@weights.command()
@click.argument("model")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@registry_option
def body(model: str, target: Path, registry: str | None) -> None:
    """Write what MODEL (a name, or a checkpoint folder) learnt, without its head, to the .safetensors file TARGET.

    For `fip train RECIPE --weights TARGET --set inflate.stem=copy`: another net of the same kind begins with it.
    """
    from models.registry import open_catalogue
    from training.bodies import write_body

    count = write_body(open_catalogue(registry).locate(model)[0], target)
    click.echo(f"{count} tensors in {target}; what they are: fip weights show {target}")


def _hours(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Seconds."""
    if value is None:
        return None
    number, unit = value[:-1], value[-1:]
    if unit not in ("h", "m") or not number.replace(".", "", 1).isdecimal():
        raise click.BadParameter(f"{value!r} is not a time such as 2h or 30m", ctx, param)
    return float(number) * {"h": 3600, "m": 60}[unit]


@click.command()
@click.argument("name", required=False)
@click.option("--list", "list_names", is_flag=True, help="List what can be reproduced.")
@click.option("--all", "every", is_flag=True, help="Every table of ModelNet40, as far as --budget goes.")
@click.option("--data", type=EXISTING_FOLDER, help="Folder of the data set: ModelNet40's HDF5 files; for segmentation SemanticKITTI.")
@click.option("--weights", "source", help="Folder of the 2D weights.")
@click.option("--out", type=FOLDER, default=Path("docs/results"), show_default=True, help="Where pages and records go.")
@click.option("--run-dir", type=FOLDER, default=Path("runs/reproduce"), show_default=True, help="Where training state goes.")
@click.option("--budget", callback=_hours, help="Time to spend, 2h or 30m [until nothing is missing]; 0m only writes the pages.")
@click.option(
    "--up", type=click.Choice(["y", "z"]), default="z", show_default=True, help="Up in ModelNet40's files; the publishers' have y."
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Trials at once, one thread each.")
@click.option("--only", default="", help="Train only what has this in its name: resnet18-10shot, cifar_resnet20, fip-iobn.")
@click.option("--trial", help="Train this trial again (a record's name, resnet18-10shot/scratch-30e-lr0.03-seed0) and compare.")
@click.option(
    "--model", default="modelnet40", show_default=True, help="The classifier of robustness: a bundled one, or a checkpoint folder."
)
@device_option("Where to train: cpu, cuda, cuda:1.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of robustness [PyTorch's choice].")
def reproduce(
    name: str | None,
    list_names: bool,
    every: bool,
    data: Path | None,
    source: str | None,
    out: Path,
    run_dir: Path,
    budget: float | None,
    up: str,
    jobs: int,
    only: str,
    trial: str | None,
    model: str,
    device: str,
    threads: int | None,
) -> None:
    """Rerun a table or figure of the paper on real data and write OUT/NAME.md. Stop it at any time; finished trials are kept."""
    from models.device import parse_device
    from models.errors import nearest
    from models.registry import open_catalogue
    from training.reproduce.command import again, kind_of_trial, listing, tables, without_nets
    from training.reproduce.robustness import robustness
    from training.reproduce.runner import MODELNET, Places
    from training.reproduce.tables import TABLES, kind_of_table

    known = (*TABLES, "neighbours", "robustness")
    if list_names or (name is None and not every and trial is None):
        click.echo("\n".join(listing()))
        return
    if name is not None and name not in known:
        raise click.BadParameter(f"unknown table{nearest(name, known)} (known: {', '.join(known)})", param_hint="NAME")
    if name == "neighbours":
        without_nets(data, out)
        return
    wanted = [each for each in TABLES if kind_of_table(each) == MODELNET] if name is None else [name]
    if budget == 0 and name != "robustness" and trial is None:
        tables(wanted, None, out)
        return
    if name == "robustness" and data is not None:
        _limit_threads(threads)
        folder, entry = open_catalogue(None).locate(model)
        click.echo(robustness(folder, str(entry) if entry else folder.name, data, out, str(parse_device(device))))
        return
    if data is None or source is None:
        raise click.UsageError("--data and --weights are needed")
    kind = kind_of_table(wanted[0]) if trial is None else kind_of_trial(trial)
    places = Places(data, Path(source), out / "trials", run_dir, "y" if up == "y" else "z", str(parse_device(device)), kind)
    if trial is not None:
        again(trial, places)
    else:
        tables(wanted, places, out, jobs, budget, only)


def _limit_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
