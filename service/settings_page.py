"""The page of all settings: `python -m service.settings_page > docs/settings.md`."""

from collections.abc import Iterator, Mapping
from typing import cast

from service.settings import PREFIX, Settings

HEAD = f"""# Settings of `fip serve`

Each is read from the environment under the name below, in upper or lower case; an empty value counts as none. The options of `fip serve`
come before it (`fip serve --help`). Sizes are in bytes, times in seconds. A setting that is wrong ends the command in one line, exit
status 2; a name that is none of these but close to one is told of in the log at start. In code and in [docs/adr](adr),
`{PREFIX}MAX_WAITING` is called `max_waiting`, and so are the others.

This page is made by `python -m service.settings_page` from service/settings.py.

| in the environment | default | range | what it is |
|---|---|---|---|"""
BOUNDS = (("exclusiveMinimum", "above {}"), ("minimum", "from {}"), ("maximum", "to {}"))
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"))


def page() -> str:
    """The whole page, as Markdown."""
    schema = cast(Mapping[str, Mapping[str, object]], Settings.model_json_schema()["properties"])
    rows = (
        f"| `{PREFIX}{name.upper()}` | {_default(field)} | {', '.join(_range(field))} | {_text(field)} |" for name, field in schema.items()
    )
    return "\n".join((HEAD, *rows)) + "\n"


def _default(field: Mapping[str, object]) -> str:
    value = field["default"]
    return "none" if value is None else f"`{value:g}`{_size(value)}" if isinstance(value, float) else f"`{value}`{_size(value)}"


def _range(field: Mapping[str, object]) -> Iterator[str]:
    """What the schema says of allowed values; of an optional setting, what may be set."""
    choices = cast(list[Mapping[str, object]], field.get("anyOf", [field]))
    [allowed] = [choice for choice in choices if choice.get("type") != "null"]
    if "enum" in allowed:
        yield " or ".join(f"`{value}`" for value in cast(list[str], allowed["enum"]))
    if allowed["type"] == "integer":
        yield "whole"
    if allowed.get("format") == "directory-path":
        yield "a folder that exists"
    if allowed.get("format") == "file-path":
        yield "a file that exists"
    for key, words in BOUNDS:
        if (bound := allowed.get(key)) is not None:
            yield words.format(f"{bound}{_size(bound)}")


def _size(value: object) -> str:
    """Behind a number that is a multiple of 1 MiB or more."""
    if isinstance(value, int) and value:
        for unit, name in UNITS:
            if value % unit == 0:
                return f" ({value // unit} {name})"
    return ""


def _text(field: Mapping[str, object]) -> str:
    return str(field["description"]).replace("|", "\\|").replace("None", "none")


if __name__ == "__main__":
    print(page(), end="")
