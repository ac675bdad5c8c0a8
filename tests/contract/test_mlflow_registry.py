"""What only the MLflow backend can get wrong; test_registry.py has what every backend owes."""

import contextlib
import http.server
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from models.artefact import check_files, read_manifest
from models.errors import AliasConflict, BadCheckpoint, BadModelName, RegistryUnavailable, UnknownModel
from models.registry.mlflow import MlflowRegistry
from models.registry.mlflow_queue import turn
from models.registry.mlflow_server import Server
from models.registry.protocol import ModelVersion
from tests.fire import PROMPT_S

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def registry(mlflow_server: Any, tmp_path: Path) -> MlflowRegistry:
    return MlflowRegistry(mlflow_server.address, tmp_path / "cache")


@pytest.fixture
def client(registry: MlflowRegistry) -> "MlflowClient":
    """MLflow's own client, as other tools use it."""
    registry.names()  # sets what keeps MLflow quiet
    from mlflow import MlflowClient

    return MlflowClient(registry.address, registry.address)


@pytest.fixture
def name() -> str:
    return f"parts-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def checkpoint(tiny_registry: Path) -> Path:
    return tiny_registry / "tiny" / "1"


def patient() -> None:
    """Whoever waits for his turn goes on waiting."""


def foreign_version(client: "MlflowClient", name: str) -> ModelVersion:
    """A version as another tool makes it: files of its own, no tags of ours."""
    run = client.create_run("0")
    client.log_text(run.info.run_id, "a pickle, perhaps", "model/model.pkl")
    with contextlib.suppress(Exception):
        client.create_registered_model(name)
    made = client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id, await_creation_for=0)
    return ModelVersion(name, int(made.version))


def stored_files(mlflow_server: Any, client: "MlflowClient", model: ModelVersion) -> Path:
    """Where the server keeps the files of a version on its disk."""
    run = client.get_model_version(model.name, str(model.version)).run_id
    (folder,) = mlflow_server.artifacts.glob(f"*/{run}/artifacts/checkpoint")
    return Path(folder)


def test_what_other_tools_register_is_refused(registry: MlflowRegistry, client: "MlflowClient", name: str, checkpoint: Path) -> None:
    foreign = foreign_version(client, name)
    assert name not in registry.names()
    assert registry.versions(name) == ()
    ours = registry.publish(checkpoint, name)
    assert registry.versions(name) == (ours,)
    client.set_registered_model_alias(name, "champion", str(foreign.version))  # a person, on MLflow's pages
    assert registry.versions(name) == (ModelVersion(name, foreign.version, ("champion",)), ours)
    for read in (registry.folder, registry.digest):
        with pytest.raises(BadCheckpoint, match="not a fip checkpoint") as caught:
            read(foreign)
        assert caught.value.where == str(foreign)
    with pytest.raises(UnknownModel, match="another tool"):
        registry.move_alias(name, "candidate", foreign.version, expected=None)
    with pytest.raises(UnknownModel, match="another tool"):
        registry.remove(foreign)


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (flip_a_bit, "model.safetensors"),
        (truncate, "model.safetensors"),
        (lambda folder: (folder / "README.md").unlink(), "README.md"),
        (lambda folder: (folder / "model.pkl").write_bytes(b"\x80\x04."), "model.pkl"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "manifest.json"),
    ],
)
def test_damage_on_the_server_is_named(
    registry: MlflowRegistry,
    client: "MlflowClient",
    mlflow_server: Any,
    name: str,
    checkpoint: Path,
    damage: Callable[[Path], object],
    named: str,
) -> None:
    model, other = registry.publish(checkpoint, name), registry.publish(checkpoint, name)
    damage(stored_files(mlflow_server, client, model))
    with pytest.raises(BadCheckpoint) as caught:
        registry.folder(model)
    assert f"{name}:1" in str(caught.value)
    assert named in str(caught.value)
    check_files(registry.folder(other), read_manifest(registry.folder(other))[0])


def test_a_run_that_is_marked_deleted_still_serves(registry: MlflowRegistry, client: "MlflowClient", name: str, checkpoint: Path) -> None:
    model = registry.publish(checkpoint, name)
    client.delete_run(client.get_model_version(name, "1").run_id)  # MLflow keeps the files until `mlflow gc`
    assert registry.digest(model) == read_manifest(registry.folder(model))[1]


@contextlib.contextmanager
def passage(address: str) -> Iterator[str]:
    """A second address of a server, which is gone at the end."""
    target = address.removeprefix("http://").split(":")
    pairs: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 16):
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection((target[0], int(target[1])))
                pairs.extend((near, far))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for end in (listener, *pairs):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_the_cache_answers_without_the_server(mlflow_server: Any, name: str, checkpoint: Path, tmp_path: Path) -> None:
    with passage(mlflow_server.address) as address:
        registry = MlflowRegistry(address, tmp_path)
        model, other = registry.publish(checkpoint, name), registry.publish(checkpoint, name)
        folder = registry.folder(model)
    for later in (registry, MlflowRegistry(address, tmp_path)):
        assert later.folder(model) == folder
        assert later.digest(model) == read_manifest(checkpoint)[1]
        with pytest.raises(RegistryUnavailable, match=address):
            later.folder(other)
        with pytest.raises(RegistryUnavailable, match=address):
            later.versions(name)
    assert list((tmp_path / "registry").glob("*/.*")) == []  # nothing is left of downloads


def test_a_listing_fetches_no_weights(
    registry: MlflowRegistry, client: "MlflowClient", mlflow_server: Any, name: str, checkpoint: Path, tmp_path: Path
) -> None:
    model = registry.publish(checkpoint, name)
    (stored_files(mlflow_server, client, model) / "model.safetensors").unlink()
    assert registry.manifest(model) == read_manifest(checkpoint)
    (stored_files(mlflow_server, client, model) / "manifest.json").write_text("{}")
    assert registry.manifest(model) == read_manifest(checkpoint)  # a version does not change: it is not asked for again
    with pytest.raises(BadCheckpoint, match=r"manifest\.json"):
        MlflowRegistry(mlflow_server.address, tmp_path / "other cache").manifest(model)


def test_a_damaged_cache_is_fetched_anew(registry: MlflowRegistry, name: str, checkpoint: Path) -> None:
    model = registry.publish(checkpoint, name)
    flip_a_bit(registry.folder(model))
    check_files(registry.folder(model), read_manifest(checkpoint)[0])


def test_a_dead_server_is_told_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret-token")
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, and never answers
        port = mute.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(RegistryUnavailable, match="no answer within") as caught:
            MlflowRegistry(f"http://127.0.0.1:{port}", tmp_path).names()
        assert time.monotonic() - started < PROMPT_S
        assert caught.value.where == f"http://127.0.0.1:{port}"
    started = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="Connection refused"):
        MlflowRegistry(f"http://127.0.0.1:{port}", tmp_path).names()
    with pytest.raises(RegistryUnavailable, match=r"Name or service not known|Temporary failure|nodename"):
        MlflowRegistry("http://mlflow.invalid", tmp_path).names()
    assert time.monotonic() - started < PROMPT_S


@pytest.mark.parametrize(("status", "says"), [(200, "JSON"), (401, "401"), (404, "404"), (500, "500")])
def test_what_is_no_mlflow_server_is_told(status: int, says: str) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever).start()
        started = time.monotonic()
        try:
            with pytest.raises(RegistryUnavailable, match=says):
                Server(f"http://127.0.0.1:{server.server_port}", busy_s=0.5).ask(lambda client: client.get_registered_model("parts"))
        finally:
            server.shutdown()
        assert time.monotonic() - started < PROMPT_S


def test_credentials_stay_out_of_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RegistryUnavailable, match="MLFLOW_TRACKING_PASSWORD") as caught:
        MlflowRegistry("http://anna:secret@127.0.0.1:5000", tmp_path)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret\nwith a line break")  # which the HTTP client refuses, and quotes
    with pytest.raises(RegistryUnavailable, match="header") as caught:
        MlflowRegistry("http://127.0.0.1:5000", tmp_path).names()
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("address", ["ftp://127.0.0.1", "http://", "models"])
def test_addresses_that_are_no_server(address: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable, match="not the http or https URL"):
        MlflowRegistry(address, tmp_path)


def test_aliases_are_those_of_mlflow(registry: MlflowRegistry, client: "MlflowClient", name: str, checkpoint: Path) -> None:
    for _ in range(3):
        registry.publish(checkpoint, name)
    registry.move_alias(name, "champion", 1, expected=None)
    assert client.get_model_version_by_alias(name, "champion").version == "1"
    client.set_registered_model_alias(name, "champion", "2")  # a person, on MLflow's pages
    assert registry.versions(name)[1].aliases == ("champion",)
    with pytest.raises(AliasConflict, match="points at version 2"):
        registry.move_alias(name, "champion", 3, expected=1)
    assert registry.history(name, "champion") == (1,)
    registry.move_alias(name, "champion", 3, expected=2)
    assert registry.history(name, "champion") == (1, 2)
    for alias in ("latest", "v3", "a.b"):
        with pytest.raises(BadModelName, match="MLflow"):
            registry.move_alias(name, alias, 1, expected=None)


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[[], Path]:
    """Makes folders side by side."""
    return lambda: Path(tempfile.mkdtemp(dir=tmp_path))


def test_turns_left_behind_elsewhere_are_overcome(
    registry: MlflowRegistry, client: "MlflowClient", name: str, workspace: Callable[[], Path]
) -> None:
    queue, server = f"_fip.moves.{name}", Server(registry.address)
    with turn(server, name, workspace(), patient):
        assert not any("fip.moves" in listed for listed in registry.names())
    for ticket in range(3):  # three processes drew tickets on other machines and were killed
        client.create_model_version(queue, f"fip://ticket/{ticket}", await_creation_for=0)
    started = time.monotonic()
    with turn(server, name, workspace(), patient, abandoned_s=1):
        assert 1 < time.monotonic() - started < PROMPT_S  # all of them at once
    assert client.search_model_versions(f"name = '{queue}'") == []


def test_a_turn_left_behind_here_is_overcome_at_once(registry: MlflowRegistry, name: str, checkpoint: Path, tmp_path: Path) -> None:
    registry.publish(checkpoint, name)
    code = (
        "import sys, pathlib, models.registry.mlflow as m; r = m.MlflowRegistry(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
        "with r._turn(sys.argv[3], lambda: None): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, registry.address, str(tmp_path / "cache"), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # it has its turn
        process.kill()
    started = time.monotonic()
    registry.move_alias(name, "champion", 1, expected=None)
    assert time.monotonic() - started < PROMPT_S


def test_who_waits_for_long_is_not_taken_for_dead(mlflow_server: Any, name: str, workspace: Callable[[], Path]) -> None:
    server, order = Server(mlflow_server.address), []

    def wait(number: int) -> None:
        with turn(server, name, workspace(), patient, abandoned_s=3):
            order.append(number)
            time.sleep(2 if number == 0 else 0)

    with turn(server, name, workspace(), patient, abandoned_s=3):
        threads = [threading.Thread(target=wait, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
            time.sleep(0.3)
        time.sleep(1.2)
    for thread in threads:  # the last sees the second wait for more than three seconds
        thread.join()
    assert order == [0, 1, 2]


def test_who_lost_his_turn_changes_nothing(mlflow_server: Any, client: "MlflowClient", name: str, workspace: Callable[[], Path]) -> None:
    changes: list[object] = []
    with turn(Server(mlflow_server.address), name, workspace(), patient) as act:
        act(changes.append)
        for ticket in client.search_model_versions(f"name = '_fip.moves.{name}'"):
            client.delete_model_version(ticket.name, ticket.version)
        with pytest.raises(RegistryUnavailable, match="taken away"):
            act(changes.append)
    assert len(changes) == 1


def test_all_pages_are_read(registry: MlflowRegistry, name: str, checkpoint: Path) -> None:
    for _ in range(3):
        registry.publish(checkpoint, name)
    found = Server(registry.address).ask_all(
        lambda client, token: client.search_model_versions(f"name = '{name}'", max_results=1, page_token=token)
    )
    assert {version.version for version in found} == {"1", "2", "3"}


def test_publishing_is_silent(registry: MlflowRegistry, name: str, checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    registry.folder(registry.publish(checkpoint, name))
    assert capfd.readouterr() == ("", "")


def test_a_folder_needs_no_mlflow() -> None:
    code = "import sys, service.app, models.registry as r; r.open_registry(sys.argv[1]).names(); print('mlflow' in sys.modules)"
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
