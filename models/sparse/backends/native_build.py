"""Compiles the native engine with the system's C compiler, once for each version of its sources, and loads it.

The library is plain C behind ctypes: it links to nothing of torch or Python, so that one build serves any version of either, and
a machine without a compiler loses nothing but speed. Where it lives: $FIP_NATIVE_LIBRARY (an image's build), else the cache.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models.cache import cache_dir
from models.durable import locked

SOURCES = Path(__file__).parent / "native"
X86 = platform.machine() in ("x86_64", "AMD64")
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-fvisibility=default", "-ffp-contract=fast", "-fno-math-errno", "-Wall", "-Wextra")
_AVX512 = ("-DFIP_WIDTH=16", "-DFIP_MANY_REGISTERS", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")
KERNELS: dict[str, tuple[str, ...]] = {"portable": ("-DFIP_WIDTH=4",)}  # instruction set -> flags of its compilation
if X86:
    KERNELS |= {"avx2": ("-DFIP_WIDTH=8", "-mavx2", "-mfma"), "avx512": _AVX512, "avx512bf16": (*_AVX512, "-mavx512bf16")}
    if sys.platform == "linux":  # which has to be asked for the tiles
        KERNELS["amx"] = (*KERNELS["avx512bf16"], "-mamx-tile", "-mamx-bf16")
else:
    KERNELS["portable"] += ("-DFIP_MANY_REGISTERS",)  # AArch64 has 32 vector registers
PLAIN_UNITS = ("tensors", "maps", "dispatch")
TIMEOUT_S = 120


class CannotBuild(Exception):
    """The native engine is not to be had here; says why in one line."""


def load_library() -> ctypes.CDLL:
    """The compiled library, built if need be. Raises: CannotBuild."""
    try:
        if given := os.environ.get("FIP_NATIVE_LIBRARY"):
            return _loaded(Path(given))
        return _cached()
    except (OSError, AttributeError) as error:
        raise CannotBuild(f"the compiled library cannot be loaded: {error}") from error
    except RuntimeError as error:  # no home directory, so no cache
        raise CannotBuild(f"{error} Set FIP_CACHE to a folder of your own.") from error


def _loaded(path: Path) -> ctypes.CDLL:
    """Raises: OSError, AttributeError (no library of ours), CannotBuild (of other sources)."""
    library = ctypes.CDLL(str(path))
    library.fip_sources.restype = ctypes.c_char_p
    found: bytes = library.fip_sources()
    if found.decode() != sources_digest():
        raise CannotBuild(f"{path} was compiled from other sources than those installed")
    return library


def _cached() -> ctypes.CDLL:
    """The library of the cache directory; compiled if it is not there or cannot be loaded. Raises: CannotBuild, OSError."""
    folder = cache_dir() / "native"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_owner(folder)
    path = cached_library(folder)
    if path.is_file():
        _check_owner(path)
        with contextlib.suppress(OSError, AttributeError):  # damaged: made anew
            return _loaded(path)
    with locked(folder / "compiling"):  # several processes that start at once wait for the first
        if path.is_file():
            with contextlib.suppress(OSError, AttributeError):
                return _loaded(path)
        _compile(path)
    return _loaded(path)


def cached_library(folder: Path) -> Path:
    """The file of these sources and flags. Compiled once for all compilers, so that it outlives the one that made it."""
    key = hashlib.sha256(repr((sources_digest(), FLAGS, KERNELS, platform.machine())).encode()).hexdigest()
    return folder / f"fip-{key[:24]}.so"


def _compile(path: Path) -> None:
    """Raises: CannotBuild, OSError."""
    compiler = find_compiler()
    sys.stderr.write("compiling the native engine (once, some seconds)\n")
    for leftover in path.parent.glob("tmp*"):  # of a process that was killed meanwhile
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        built = build(Path(scratch), compiler)
        built.chmod(0o700)  # whatever the umask says
        built.replace(path)


def _check_owner(place: Path) -> None:
    """Code is run only from places that nobody else can have written to. Raises: CannotBuild."""
    facts = place.stat()
    if hasattr(os, "getuid") and (facts.st_uid not in (os.getuid(), 0) or facts.st_mode & 0o022):
        raise CannotBuild(f"{place} may be written by others than its user: remove it, or name another folder by FIP_CACHE")


def find_compiler() -> list[str]:
    """The command in $CC, else cc, gcc or clang. Raises: CannotBuild."""
    wanted = shlex.split(os.environ.get("CC", ""))
    if wanted:
        if shutil.which(wanted[0]):
            return wanted
        raise CannotBuild(f"the compiler that CC names is not there: {wanted[0]}")
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    raise CannotBuild("no C compiler on this machine (looked for cc, gcc and clang)")


def build(folder: Path, compiler: list[str], extra: tuple[str, ...] = ()) -> Path:
    """Compile and link everything in `folder`; returns the library. extra: flags for every step. Raises: CannotBuild.

    An instruction set that the compiler does not know is left out, and so is OpenMP; the engine says so in `detail()`.
    """
    flags = (*FLAGS, *extra, f'-DFIP_SOURCES="{sources_digest()}"')
    try:
        return _build(folder, compiler, (*flags, "-fopenmp"))
    except CannotBuild:
        return _build(folder, compiler, (*flags, "-Wno-unknown-pragmas"))


def _build(folder: Path, compiler: list[str], flags: tuple[str, ...]) -> Path:
    sets = {name: [*compiler, *flags, f"-DFIP_ISA={name}", *wide, "-c", str(SOURCES / "kernels.c")] for name, wide in KERNELS.items()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = dict(
            zip(sets, pool.map(_compiles, ([*command, "-o", str(folder / f"{name}.o")] for name, command in sets.items())), strict=True)
        )
    if reason := done["portable"]:
        raise CannotBuild(reason)
    usable = [name for name, reason in done.items() if reason is None]
    defines = [f"-DHAVE_{name}" for name in usable]
    for unit in PLAIN_UNITS:
        _run([*compiler, *flags, *defines, "-c", str(SOURCES / f"{unit}.c"), "-o", str(folder / f"{unit}.o")])
    library = folder / "fip.so"
    _run([*compiler, *flags, "-shared", *(str(folder / f"{unit}.o") for unit in (*usable, *PLAIN_UNITS)), "-o", str(library)])
    return library


def _compiles(command: list[str]) -> str | None:
    """None, or why not."""
    try:
        _run(command)
    except CannotBuild as error:
        return str(error)
    return None


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{command[0]} could not be run: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CannotBuild(f"the C compiler {command[0]} failed: {next((line for line in said if 'error' in line), said[-1])}")


def sources_digest() -> str:
    """Of the sources; a library says which it was made from."""
    found = hashlib.sha256()
    for source in sorted(SOURCES.glob("*.[ch]")):
        found.update(source.read_bytes())
    return found.hexdigest()[:24]


def main() -> int:
    """`python -m models.sparse.backends.native_build FILE`: compile to FILE, for an image that will have no compiler."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copy(build(Path(scratch), find_compiler()), sys.argv[1])
    except CannotBuild as error:
        sys.stderr.write(f"the native engine is left out: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
