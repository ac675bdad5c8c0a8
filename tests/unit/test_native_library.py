"""Building the native engine: without a compiler, with one that fails or is old, and with libraries that are not to be trusted."""

import os
from pathlib import Path

import pytest

from models.errors import BadOption
from models.sparse import backends
from models.sparse.backends import native_build
from models.sparse.backends.native import NativeEngine
from models.sparse.backends.native_build import CannotBuild, build, find_compiler, load_library
from tests.unit.test_native import native


def test_without_a_compiler_the_default_engine_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("FIP_NATIVE_LIBRARY", raising=False)
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    engine = NativeEngine()
    assert "no C compiler" in (engine.unavailable() or "")
    monkeypatch.setitem(backends.ENGINES, "native", engine)
    backends._chosen.cache_clear()
    try:
        choice = backends.choose("cpu")
        assert choice.name == "torch"
        assert not choice.reports["native"].works
        assert "no C compiler" in choice.reports["native"].reason
        with pytest.raises(BadOption, match="no C compiler"):
            backends.engine_named("native")
    finally:
        backends._chosen.cache_clear()


def test_a_compiler_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.delenv("FIP_NATIVE_LIBRARY", raising=False)
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CannotBuild, match="no space left"):
        load_library()
    assert not list((tmp_path / "cache").rglob("*.so"))


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no users here")
def test_an_open_umask_and_no_home_do_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    native("portable")
    monkeypatch.delenv("FIP_NATIVE_LIBRARY", raising=False)
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    (tmp_path / "native").mkdir(mode=0o700)
    before = os.umask(0o002)
    try:
        load_library()
        monkeypatch.setenv("PATH", str(tmp_path))
        load_library()  # what the first one left is taken, also where there is no compiler
    finally:
        os.umask(before)
    for name in ("FIP_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))))
    assert "home directory" in (NativeEngine().unavailable() or "")
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    assert NativeEngine().unavailable()


def test_an_old_compiler_leaves_out_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No bfloat16 products and no OpenMP: the rest is built, and the engine says that it runs on one thread."""
    native("portable")
    old = tmp_path / "cc"
    old.write_text(f'#!/bin/sh\ncase "$*" in *bf16*|*-fopenmp*) echo "unknown option" >&2; exit 1;; esac\nexec {find_compiler()[0]} "$@"\n')
    old.chmod(0o755)
    library = build(tmp_path, [str(old)])
    monkeypatch.setenv("FIP_NATIVE_LIBRARY", str(library))
    assert "avx512bf16" in (NativeEngine("avx512bf16").unavailable() or "")
    assert NativeEngine("portable").unavailable() is None
    assert "no OpenMP" in NativeEngine("portable").detail()


def test_a_library_that_others_may_write_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    native("portable")
    monkeypatch.delenv("FIP_NATIVE_LIBRARY", raising=False)
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    path = native_build.cached_library(tmp_path / "native")
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"not ours")
    path.chmod(0o666)
    with pytest.raises(CannotBuild, match="may be written by others"):
        load_library()
    path.unlink()
    path.parent.chmod(0o777)
    with pytest.raises(CannotBuild, match="may be written by others"):
        load_library()
    assert not path.exists()


def test_a_damaged_library_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    native("portable")
    monkeypatch.delenv("FIP_NATIVE_LIBRARY", raising=False)
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    (tmp_path / "native").mkdir(mode=0o700)
    path = native_build.cached_library(tmp_path / "native")
    path.write_bytes(b"")
    path.chmod(0o700)
    load_library()
    assert path.stat().st_size > 0


def test_a_library_from_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    native("portable")
    monkeypatch.setattr(native_build, "sources_digest", lambda: "another")
    monkeypatch.setenv("FIP_NATIVE_LIBRARY", str(build(tmp_path, find_compiler())))
    monkeypatch.undo()
    monkeypatch.setenv("FIP_NATIVE_LIBRARY", str(tmp_path / "fip.so"))
    with pytest.raises(CannotBuild, match="other sources"):
        load_library()
