"""`fip analyse fwd | cdnv | tsne | dissect`. Only click is imported here; the work is imported when a command runs."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from models.commands.options import device_option, engine_option, registry_option

if TYPE_CHECKING:
    from models.manifest import Axis
    from training.analyse.asked import Asked
    from training.analyse.pages import Analysis
    from training.analyse.subject import Subject

FOLDER = click.Path(file_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OPTIONS = (
    click.argument("model"),
    click.option("--data", type=EXISTING_FOLDER, required=True, help="Folder of the data set."),
    click.option("--kind", help="Kind of data set: modelnet40, folder [what the folder is]."),
    click.option("--split", default="test", show_default=True, type=click.Choice(["train", "test"])),
    click.option("--up", type=click.Choice(["x", "y", "z"]), help="Axis that is up in the clouds' files [the model's]."),
    click.option("--limit", type=click.IntRange(min=2), metavar="N", help="Look at N clouds, evenly over the classes [all]."),
    click.option("--out", type=FOLDER, default=Path("docs/results/analyse"), show_default=True, help="Where page and picture go."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of everything that is drawn."),
    registry_option,
    device_option("Where the net runs: cpu, cuda, cuda:1."),
    engine_option,
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all]."),
)


@dataclass(frozen=True)
class Chosen:
    """What every analysis is told: OPTIONS, by name."""

    model: str
    data: Path
    kind: str | None
    split: str
    up: "Axis | None"
    limit: int | None
    out: Path
    seed: int
    registry: str | None
    device: str
    engine: str | None
    threads: int | None

    def subject(self) -> "Subject":
        _limit_threads(self.threads)
        from models.device import parse_device
        from training.analyse.subject import Subject

        return Subject.open(self.model, self.registry, parse_device(self.device), self.engine, self.up)

    def asked(self) -> "Asked":
        from training.analyse.asked import Asked

        return Asked(self.data, self.kind, self.split, self.limit, self.seed)

    def write(self, subject: "Subject", analysis: "Analysis") -> None:
        from training.analyse.pages import write

        click.echo("\n\n".join(part for part in analysis.lines if part.startswith("|")))
        click.echo(write(analysis, subject, self.out))


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command OPTIONS, which it gets as one Chosen."""

    @functools.wraps(command)
    def run(**given: object) -> None:
        chosen = Chosen(**{field.name: given.pop(field.name) for field in fields(Chosen)})  # type: ignore[arg-type]  # click checked them
        command(chosen, **given)

    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(OPTIONS), run)


@click.group(short_help="Look inside a classifier: fwd, cdnv, tsne, dissect.")
def analyse() -> None:
    """Look inside a classifier: how far it went from its image net, how tight its classes are, what its units answer.

    Each command writes a page, a picture and a record of all inputs, prints the tables and where the page is.
    """


@analyse.command()
@click.option("--weights", required=True, help="2D weights that the model came from: a file, or a name that `fip weights fetch` knows.")
@click.option("--images", type=EXISTING_FOLDER, required=True, multiple=True, help="Folder of photographs; more than once for more.")
@click.option("--scalars", type=click.IntRange(min=100), default=15_000, show_default=True, help="Values drawn of a layer and side.")
@click.option("--about", help="What the photographs show, for the page.")
@common
def fwd(chosen: Chosen, weights: str, images: tuple[Path, ...], scalars: int, about: str | None) -> None:
    """Distance of each layer's values on clouds from the image net's on photographs.

    First-Wasserstein distance at every main-path 3x3 convolution, with the noise beside it.
    """
    subject = chosen.subject()
    from training.analyse.study_fwd import fwd_study

    chosen.write(subject, fwd_study(subject, chosen.asked(), weights, images, scalars, about))


@analyse.command()
@common
def cdnv(chosen: Chosen) -> None:
    """Variance of classes against their distances (neural collapse).

    Class-distance normalised variance, plain and corrected for few clouds, with nearest-class-centre accuracy.
    """
    subject = chosen.subject()
    from training.analyse.studies import cdnv_study

    chosen.write(subject, cdnv_study(subject, chosen.asked()))


@analyse.command()
@click.option("--perplexity", type=click.FloatRange(min=1), default=30, show_default=True)
@click.option("--neighbours", type=click.IntRange(min=1), default=10, show_default=True, help="Neighbours that purity is counted over.")
@common
def tsne(chosen: Chosen, perplexity: float, neighbours: int) -> None:
    """The features of clouds in the plane (needs scikit-learn: the extra `analyse`)."""
    subject = chosen.subject()
    from training.analyse.studies import tsne_study

    chosen.write(subject, tsne_study(subject, chosen.asked(), perplexity, neighbours))


@analyse.command()
@click.option("--top", type=click.IntRange(min=2), default=20, show_default=True, help="Clouds of a unit that are looked at.")
@common
def dissect(chosen: Chosen, top: int) -> None:
    """Clouds that units of the last stage answer most, and how pure they are."""
    subject = chosen.subject()
    from training.analyse.study_units import dissect_study

    chosen.write(subject, dissect_study(subject, chosen.asked(), top))


def _limit_threads(threads: int | None) -> None:
    """Before anything heavy is imported: scikit-learn reads it once."""
    if threads is None:
        return
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
