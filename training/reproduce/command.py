"""What `fip reproduce` does: train what is missing, and write the pages of what is there."""

import time
from dataclasses import replace
from pathlib import Path

import click

from models.errors import BadOption
from training.reproduce.pages import write_pages
from training.reproduce.runner import Places, Records, run
from training.reproduce.stats import mean_of
from training.reproduce.summary import write_summary
from training.reproduce.tables import every_trial, missing_of_tables


def tables(names: list[str], places: Places, out: Path, jobs: int, budget: float | None) -> None:
    """Go on with these tables for `budget` seconds (None: until they are done), and write their pages and the summary."""
    if budget != 0:
        until = None if budget is None else time.monotonic() + budget
        run(lambda known: missing_of_tables(names, known), places, jobs, until)
    known = Records(places.records, places.inputs()).known
    for page in (*write_pages(names, known, out), write_summary(known, out)):
        click.echo(page)


def again(name: str, places: Places) -> None:
    """Train one recorded trial anew, elsewhere, and say how far it comes from its record. Raises: BadOption (unknown)."""
    trials = {trial.name: trial for trial in every_trial()}
    if name not in trials:
        raise BadOption("no table has such a trial", where=name, known=sorted(trials)[:10])
    elsewhere = replace(places, records=places.runs / "again")
    trial = trials[name]
    run(lambda known: [] if known(trial) else [trial], elsewhere, jobs=1)
    inputs = places.inputs()
    recorded, anew = Records(places.records, inputs), Records(elsewhere.records, inputs)
    then, now = recorded.known(trial), anew.known(trial)
    for each, when in ((then, "recorded"), (now, "now")):
        if each is not None:
            click.echo(f"{when}: held-out {each.held_out:.2%}" + ("" if each.test is None else f", test {each.test:.2%}"))
    siblings = [recorded.known(each) for each in trials.values() if replace(each, seed=trial.seed) == trial]
    spread = mean_of([each.held_out if each.test is None else each.test for each in siblings if each is not None])
    if then and now and spread and spread.std:
        off = (now.held_out - then.held_out if now.test is None or then.test is None else now.test - then.test) / spread.std
        click.echo(f"{off:+.2f} of the standard deviation over the {spread.count} seeds on record ({spread.std:.2%})")
