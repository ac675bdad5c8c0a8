"""What `fip reproduce` does: train what is missing, and write the pages of what is there."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import click

from models.errors import BadOption
from training.reproduce.neighbours import measure, read_found, write_neighbours
from training.reproduce.pages import write_pages
from training.reproduce.records import Records
from training.reproduce.runner import Outcome, Places, run
from training.reproduce.stats import Mean, mean_of
from training.reproduce.summary import write_summary
from training.reproduce.tables import TABLES, every_trial, missing_of_tables
from training.reproduce.texts import PAGES
from training.reproduce.trial import PAPER, Record, Trial, kind_of
from training.reproduce.view import every_exploration, every_record

MOST_SIGMA = 3.0


def tables(names: list[str], places: Places | None, out: Path, jobs: int = 1, budget: float | None = None, only: str = "") -> None:
    """Go on with these tables for `budget` seconds (None: until they are done), and write their pages and the summary.

    places: None where nothing is to be trained. only: what is trained has this in its name. Raises: click.ClickException (trials
    failed; the pages are written).
    """
    outcome = Outcome()
    if places is not None:
        until = None if budget is None else time.monotonic() + budget
        outcome = run(lambda known: [trial for trial in missing_of_tables(names, known) if only in trial.name], places, jobs, until)
    known = Records(out / "trials").known
    told = names if len(names) == 1 else [name for name in names if every_record(TABLES[name], known) or every_exploration(name, known)]
    for page in (*write_pages(told, known, out), write_summary(known, out)):
        click.echo(page)
    if outcome.untrained:
        click.echo(f"{outcome.untrained} trials were left out: the 2D weights of their networks are not in the folder of --weights")
    if outcome.failed:
        raise click.ClickException("\n".join(f"{name}: {said}" for name, said in outcome.failed.items()))


def without_nets(data: Path | None, out: Path) -> None:
    """The control of `fewshot`: measured, unless it was, and its page and the summary. Raises: BadOption (no record, and no data)."""
    known = Records(out / "trials").known
    if data is not None:
        measure(data, out)
    if (found := read_found(out)) is None:
        raise BadOption("nothing is recorded yet; --data says where ModelNet40 is", where="neighbours")
    for page in (write_neighbours(found, known, out), write_summary(known, out)):
        click.echo(page)


def again(name: str, places: Places) -> None:
    """Train one trial anew, from nothing, and say how far it comes from its record.

    Raises: BadOption (no table has it), click.ClickException (it failed, or is too far off).
    """
    trials = {trial.name: trial for trial in every_trial()}
    if name not in trials:
        raise BadOption("no table has such a trial", where=name, known=sorted(trials)[:10])
    trial, fresh = trials[name], places.runs / "again" / name.replace("/", "-")
    shutil.rmtree(fresh, ignore_errors=True)
    outcome = run(lambda known: [] if known(trial) else [trial], replace(places, records=fresh / "trials", runs=fresh), jobs=1)
    now = Records(fresh / "trials").known(trial)
    if now is None:
        raise click.ClickException("; ".join(outcome.failed.values()) or f"the 2D weights of {trial.network} are not in {places.weights}")
    recorded = Records(places.records)
    then = recorded.known(trial)
    click.echo(f"now: {_scores(now)}")
    if then is None:
        click.echo(f"there is no record of it in {places.records} to compare with")
        return
    click.echo(f"recorded: {_scores(then)}")
    if differ := [what for what in ("train", "test", "weights") if then.inputs[what] != now.inputs[what]]:
        click.echo(f"the record is of another {' and '.join(differ)}: they are not compared")
        return
    spread = _spread(trial, list(trials.values()), recorded)
    if spread is None or not spread.std:
        click.echo("there are no other seeds on record to tell how far apart two may be")
        return
    sigma = (_score(now) - _score(then)) / spread.std
    click.echo(f"{sigma:+.2f} of the standard deviation over the {spread.count} seeds on record ({spread.std:.2%})")
    if abs(sigma) > MOST_SIGMA:
        raise click.ClickException(f"that is more than {MOST_SIGMA:g}")


def kind_of_trial(name: str) -> str:
    """The kind of data of a trial; of an unknown one that of most."""
    return next((kind_of(trial.base) for trial in every_trial() if trial.name == name), kind_of(PAPER))


def _spread(trial: Trial, trials: list[Trial], recorded: Records) -> Mean | None:
    """Of the seeds of the same arm."""
    found = [recorded.known(each) for each in trials if replace(each, seed=trial.seed) == trial]
    return mean_of([_score(record) for record in found if record is not None])


def _score(record: Record) -> float:
    return record.held_out if record.test is None else record.test


def _scores(record: Record) -> str:
    return f"held-out {record.held_out:.2%}" + ("" if record.test is None else f", test {record.test:.2%}")


def listing() -> list[str]:
    """A line for every table that can be asked for."""
    others = ["neighbours   how far does one come without a net?", "robustness   what does a classifier still know of damaged clouds?"]
    return [f"{name:12} {PAGES[name].title}" for name in TABLES] + others
