"""docs/settings.md is the page of the settings there are, and whoever looks for one finds it."""

import re
from pathlib import Path

from click.testing import CliRunner
from pydantic import TypeAdapter

from service.cli import serve
from service.settings import Settings
from service.settings_page import page

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    assert (ROOT / "docs/settings.md").read_text() == page(), "python -m service.settings_page > docs/settings.md"


def test_every_setting_has_a_row_with_its_default_and_what_it_is() -> None:
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in page().splitlines() if line.startswith("| `FIP_")]
    assert [row[0].strip("`").removeprefix("FIP_").lower() for row in rows] == list(Settings.model_fields)
    for name, default, _, text in rows:
        value = Settings.model_fields[name.strip("`").removeprefix("FIP_").lower()].default
        assert default == "none" if value is None else TypeAdapter(type(value)).validate_python(default.split("`")[1]) == value, name
        assert len(text) > len("bytes of"), name


def test_readme_and_help_and_reasons_lead_there() -> None:
    assert "(docs/settings.md)" in (ROOT / "README.md").read_text()
    assert "(../settings.md)" in (ROOT / "docs/adr/0014-a-worker-that-may-die.md").read_text()
    told = CliRunner().invoke(serve, ["--help"]).output
    assert "docs/settings.md" in told
