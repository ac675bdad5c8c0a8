"""What `fip models list`, `show` and `verify` say, as data and as text."""

from collections.abc import Sequence

from models.artefact import CARD, read_manifest
from models.errors import BadCheckpoint
from models.registry import Catalogue, Entry
from models.registry.verify import SCORES, verify

Row = dict[str, object]


def list_rows(catalogue: Catalogue) -> list[Row]:
    """A row a version; `reason` says why a damaged one is damaged, and is None for the others. Weights are not read."""
    return [row for name in catalogue.names() for row in _named(catalogue, name)]


def _named(catalogue: Catalogue, name: str) -> list[Row]:
    try:
        return [_row(entry) for entry in catalogue.versions(name)]
    except BadCheckpoint as error:
        return [{"model": name, "aliases": [], "task": None, "network": None, "metrics": {}, "registry": None, "reason": str(error)}]


def _row(entry: Entry) -> Row:
    row: Row = {"model": str(entry), "aliases": list(entry.model.aliases), "registry": entry.registry.address}
    try:
        manifest, digest = entry.manifest()
    except BadCheckpoint as error:
        return {**row, "task": None, "network": None, "metrics": {}, "digest": None, "created": None, "reason": str(error)}
    network = manifest.network
    facts = {"task": manifest.task, "network": network.name, "tied": network.tied, "metrics": manifest.metrics, "digest": digest}
    return {**row, **facts, "created": manifest.provenance.created, "reason": None}


def list_text(rows: Sequence[Row]) -> str:
    """A line a version."""
    return "\n".join(_line(row) for row in rows) or "no models"


def _line(row: Row) -> str:
    aliases, metrics = row["aliases"], row["metrics"]
    assert isinstance(aliases, list)
    assert isinstance(metrics, dict)
    if row["reason"] is not None:
        return f"{row['model']:<24} {','.join(aliases) or '-':<20} BAD  {row['reason']}"
    tied = f" tied along {row['tied']}" if row.get("tied") else ""
    scores = "  ".join(f"{name} {metrics[name]:.2%}" for name in SCORES if name in metrics)
    return f"{row['model']:<24} {','.join(aliases) or '-':<20} {row['task']}  {row['network']}{tied}  {scores}".rstrip()


def show_facts(entry: Entry) -> Row:
    """Everything the manifest says, and the card. Raises: BadCheckpoint."""
    folder = entry.folder()
    manifest, digest = read_manifest(folder)
    try:
        card = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadCheckpoint("the model card cannot be read", where=str(folder / CARD)) from error
    named = {"model": str(entry), "aliases": list(entry.model.aliases), "registry": entry.registry.address, "digest": digest}
    return {**named, "manifest": manifest.model_dump(mode="json"), "card": card}


def show_text(facts: Row) -> str:
    """The names of a model, then its card."""
    aliases = facts["aliases"]
    assert isinstance(aliases, list)
    head = [f"model    {facts['model']}", f"aliases  {', '.join(aliases) or 'none'}", f"digest   {facts['digest']}"]
    return "\n".join([*head, f"from     {facts['registry']}", "", str(facts["card"]).rstrip()])


def verify_rows(catalogue: Catalogue, references: Sequence[str]) -> list[Row]:
    """A row a model: `reason` is None if all is well. Without references: all models. Raises: BadModelName, UnknownModel."""
    if references:
        return [_verified(catalogue.resolve(reference)) for reference in references]
    rows: list[Row] = []
    for name in catalogue.names():
        try:
            rows += [_verified(entry) for entry in catalogue.versions(name)]
        except BadCheckpoint as error:
            rows.append({"model": name, "reason": str(error)})
    return rows


def _verified(entry: Entry) -> Row:
    try:
        verify(entry.folder())
    except BadCheckpoint as error:
        return {"model": str(entry), "reason": str(error)}
    return {"model": str(entry), "reason": None}
