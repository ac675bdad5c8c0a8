"""What is promised about the distribution, the image and the compose file."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "service", "training")


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree, built from a copy so that no build output lands in it."""
    source = tmp_path_factory.mktemp("source")
    for folder in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_three_top_level_names_are_ours_alone() -> None:
    owners = importlib.metadata.packages_distributions()
    assert {name: set(owners.get(name, ())) for name in PACKAGES} == {name: {"fip-server"} for name in PACKAGES}


def test_torch_is_pinned_and_torchsparse_has_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "torch==2.13.0" in project["dependencies"]
    assert {"serve", "train", "dev", "torchsparse"} <= set(project["optional-dependencies"])


def test_the_wheel_holds_the_three_packages_and_their_data(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {*PACKAGES, next(top for top in tops if top.endswith(".dist-info"))}
    for package in PACKAGES:
        ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        assert ours <= set(names), sorted(ours - set(names))
    data = [*(ROOT / "models/bundled").rglob("*.*"), *(ROOT / "training/recipes").glob("*.yaml"), *ROOT.glob("*/py.typed")]
    expected = {path.relative_to(ROOT).as_posix() for path in data if path.is_file()}
    assert expected <= set(names), sorted(expected - set(names))


def test_the_wheel_carries_the_licence_and_stays_small(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert sum(entry.file_size for entry in wheel.infolist()) < 12_000_000  # 7.6 of it weights: two models, and a start for others


def test_compose_file_fits_the_published_schema(compose: dict) -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    errors = [f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(compose)]
    assert errors == []


def test_compose_up_starts_one_cpu_service_without_secrets(compose: dict) -> None:
    assert "secrets" not in compose
    started = {name: service for name, service in compose["services"].items() if not service.get("profiles")}
    assert list(started) == ["fip"]
    assert started["fip"]["ports"] == ["${FIP_BIND:-127.0.0.1}:${FIP_PORT:-8000}:8000"]  # nobody needs a key, so only this machine gets in
    assert not [volume for volume in started["fip"].get("volumes", []) if ":/home/fip/models" in volume]


def test_compose_takes_keys_and_names(compose: dict) -> None:
    """Each is a setting, and what it is without a variable lets the published port work."""
    environment = compose["services"]["fip"]["environment"]
    given = {name: re.sub(r"^\$\{[A-Z_]+:?-(.*)\}$", r"\1", environment[name]) for name in ("FIP_ALLOW_ANONYMOUS", "FIP_KEYS", "FIP_HOSTS")}
    settings = Settings.model_validate({name.removeprefix("FIP_").lower(): value for name, value in given.items() if value})
    assert (settings.allow_anonymous, settings.keys, settings.hosts) == (True, None, "fip")


@pytest.mark.parametrize("name", ["fip", "train", "fip-gpu", "train-gpu"])
def test_compose_gives_no_more_than_is_needed(compose: dict, name: str) -> None:
    service = compose["services"][name]
    assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert not {"privileged", "cap_add", "user", "network_mode", "pid", "devices"} & service.keys()  # the image's user is not root
    for folder in (service["environment"].get(kind, "/tmp") for kind in ("XDG_CACHE_HOME", "MPLCONFIGDIR")):
        assert folder.startswith("/tmp")


@pytest.mark.parametrize("name", ["train", "train-gpu"])
def test_batches_of_workers_find_room(name: str, compose: dict) -> None:
    """They travel through shared memory, of which Docker gives 64 MB."""
    assert compose["services"][name]["shm_size"] == "2gb"


def test_the_gpu_image_mends_what_torchsparse_has_not_followed(compose: dict) -> None:
    """Its sources ask for C++17, and for a header that torch has no more. They are compiled some at a time."""
    dockerfile = (ROOT / "docker/gpu.Dockerfile").read_text()
    for mended in ("s/-std=c++17/-std=c++20/", "s:THC/THCAtomics.cuh:ATen/cuda/Atomic.cuh:", 'MAX_JOBS="$MAX_JOBS"'):
        assert mended in dockerfile


def test_compose_waits_longer_than_the_service_drains(compose: dict) -> None:
    grace = compose["services"]["fip"]["stop_grace_period"]
    assert grace.endswith("s")
    defaults = (Settings.model_fields[name].default for name in ("lame_duck_seconds", "drain_seconds"))
    assert int(grace.removesuffix("s")) > sum(defaults)


def test_the_bound_on_bytes_says_no_before_tmp_is_full(compose: dict) -> None:
    """With room left for the answer to a file of the largest size: answers are held without being asked whether they fit."""
    service = compose["services"]["fip"]
    [tmp] = [mount for mount in service["tmpfs"] if mount.startswith("/tmp:")]
    [gib] = map(int, re.findall(r"size=(\d+)g", tmp))
    [waiting] = map(int, re.findall(r"^\$\{FIP_MAX_WAITING_BYTES:-(\d+)\}$", service["environment"]["FIP_MAX_WAITING_BYTES"]))
    assert waiting + Settings.model_fields["max_body_bytes"].default <= gib << 30


def test_compose_can_send_traces(compose: dict) -> None:
    service = compose["services"]["fip"]
    assert "otel" in service["build"]["args"]["EXTRAS"].split(",")
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME"):
        assert service["environment"][name] == f"${{{name}:-}}"  # empty: off


@pytest.mark.parametrize("name", ["fip", "train", "fip-gpu", "train-gpu"])
def test_compose_passes_only_arguments_that_the_dockerfile_takes(name: str, compose: dict) -> None:
    build = compose["services"][name]["build"]
    dockerfile = (ROOT / build.get("dockerfile", "Dockerfile")).read_text()
    for argument in build["args"]:
        assert f"ARG {argument}" in dockerfile


@pytest.mark.parametrize(("name", "profile"), [("fip-gpu", "gpu"), ("train-gpu", "train-gpu")])
def test_compose_reserves_a_gpu_under_a_profile_of_its_own(name: str, profile: str, compose: dict) -> None:
    """`--profile gpu up` starts the service, and no training without a recipe."""
    service = compose["services"][name]
    assert [each for each, other in compose["services"].items() if profile in other.get("profiles", [])] == [name]
    assert service["profiles"] == [profile]
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert any(volume.endswith(":/cache") for volume in service["volumes"])  # all else is read-only
    assert all(compose["services"][other].get("deploy") is None for other in ("fip", "train"))


def test_the_gpu_service_is_the_other_one_on_a_gpu(compose: dict) -> None:
    one, other = compose["services"]["fip"], compose["services"]["fip-gpu"]
    assert other["environment"] == one["environment"] | {"FIP_DEVICE": "cuda", "FIP_PRECISION": "${FIP_PRECISION:-fp32}"}
    assert Settings(device="cuda", precision="fp16").device == "cuda"
    assert one["ports"] != other["ports"]
    assert {key for key in one if one[key] != other[key]} == {"build", "image", "ports", "environment", "volumes", "healthcheck"}


def test_torchsparse_is_the_same_wherever_it_is_named(compose: dict) -> None:
    """A commit: a branch moves, and there is no tag."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [requirement] = project["optional-dependencies"]["torchsparse"]
    commit = requirement.rpartition("@")[2]
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert f"ARG TORCHSPARSE={commit}\n" in (ROOT / "docker/gpu.Dockerfile").read_text()
    assert compose["services"]["fip-gpu"]["build"]["args"]["TORCHSPARSE"] == f"${{TORCHSPARSE-{commit}}}"


def test_the_toolkit_is_one_that_compose_names_too(compose: dict) -> None:
    [cuda] = re.findall(r"^ARG CUDA=(.+)$", (ROOT / "docker/gpu.Dockerfile").read_text(), re.MULTILINE)
    assert compose["services"]["fip-gpu"]["build"]["args"]["CUDA"] == f"${{CUDA:-{cuda}}}"


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "docker/gpu.Dockerfile"])
def test_the_image_runs_the_service_as_a_fixed_user(dockerfile: str) -> None:
    lines = (ROOT / dockerfile).read_text().splitlines()
    assert "USER 10001:10001" in lines
    assert 'CMD ["fip", "serve"]' in lines
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    copied = [line.split()[1] for line in lines if line.startswith("COPY") and "--from" not in line and len(line.split()) == 3]
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert [name for name in copied if f"!{name}" not in allowed] == []
