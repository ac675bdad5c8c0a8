"""What a registry on a server said last, while the server is away."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models.errors import RegistryUnavailable
from models.registry import ModelVersion
from models.registry.local import LocalRegistry
from models.registry.remembered import Remembered


@dataclass
class Line:
    """To the server: whether it is dead, and what was asked of it."""

    dead: bool = False
    asked: list[str] = field(default_factory=list)

    def ask(self, what: str) -> None:
        self.asked.append(what)
        if self.dead:
            raise RegistryUnavailable("the server is dead")


@dataclass(frozen=True)
class Server(LocalRegistry):
    """A folder that is reached through a line."""

    line: Line

    def names(self) -> tuple[str, ...]:
        self.line.ask("names")
        return super().names()

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        self.line.ask(name)
        return super().versions(name)


@pytest.fixture
def server(tmp_path: Path, tiny_registry: Path) -> Server:
    """tiny 1, other 1."""
    for name in ("tiny", "other"):
        shutil.copytree(tiny_registry / "tiny", tmp_path / "registry" / name)
    return Server(tmp_path / "registry", Line())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "known.json"


def test_who_reached_the_server_first_goes_by_memory_too(server: Server, file: Path) -> None:
    told = Remembered(server, file)
    names, versions = told.names(), told.versions("tiny")
    server.line.dead, server.line.asked[:] = True, []
    assert [told.versions("tiny") for _ in range(5)] == [versions] * 5
    assert told.names() == names
    assert server.line.asked == ["tiny"]  # once, and then it is left alone for a while
    assert told.away


def test_who_never_reached_it_says_so(server: Server, file: Path) -> None:
    server.line.dead = True
    told = Remembered(server, file)
    for ask in (told.names, lambda: told.versions("tiny")):
        with pytest.raises(RegistryUnavailable, match="dead"):
            ask()


def test_what_is_removed_does_not_come_back(server: Server, file: Path) -> None:
    ours = Remembered(server, file)
    ours.names(), ours.versions("tiny"), ours.versions("other")
    theirs = Remembered(server, file)  # of another service, which knows what ours did
    shutil.rmtree(server.root / "other")
    assert ours.versions("other") == ()
    assert ours.names() == ("tiny",)
    shutil.copytree(server.root / "tiny" / "1", server.root / "tiny" / "2")
    assert len(theirs.versions("tiny")) == 2
    server.line.dead = True
    later = Remembered(server, file)
    assert later.versions("other") == ()
    assert later.names() == ("tiny",)
    assert len(later.versions("tiny")) == 2  # and nothing else is lost


def test_a_file_that_is_gone_is_made_anew(server: Server, file: Path) -> None:
    told = Remembered(server, file)
    told.names(), told.versions("tiny")
    for spoil in (file.unlink, lambda: file.write_text("{")):
        spoil()
        shutil.rmtree(server.root / "other", ignore_errors=True)
        number = len(told.versions("tiny")) + 1
        shutil.copytree(server.root / "tiny" / "1", server.root / "tiny" / str(number))
        told.versions("tiny")
        assert len(Remembered(server, file)._versions["tiny"]) == number
