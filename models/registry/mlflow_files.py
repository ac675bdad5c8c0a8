"""Files of a version on their way to and from an MLflow server: what arrives is what was published, or is refused by name."""

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from models.artefact import MANIFEST, check_files, read_manifest
from models.errors import BadCheckpoint
from models.manifest import Manifest
from models.registry.mlflow_server import Absent, Server
from models.registry.protocol import ModelVersion

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Stored

ARTIFACTS = "checkpoint"  # folder among the artifacts of the run
DIGEST_TAG, FILES_TAG = "fip.digest", "fip.files"
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def tags_of(folder: Path, digest: str) -> dict[str, str]:
    """What a version says of its files: the digest of their manifest, and their names."""
    return {DIGEST_TAG: digest, FILES_TAG: "/".join(sorted(path.name for path in folder.iterdir()))}


def is_ours(stored: "Stored") -> bool:
    """Whether `fip` published it."""
    return DIGEST_TAG in stored.tags


def digest_of(model: ModelVersion, stored: "Stored") -> str:
    """The digest a stored version was published with. Raises: BadCheckpoint (another tool made it)."""
    digest = stored.tags.get(DIGEST_TAG, "")
    if not _DIGEST.match(digest) or FILES_TAG not in stored.tags:
        raise BadCheckpoint(f"not a fip checkpoint: without good tags {DIGEST_TAG} and {FILES_TAG}, another tool made it", where=str(model))
    return digest


def download(server: Server, model: ModelVersion, stored: "Stored", into: Path) -> Path:
    """Fetch and check the files of a version; returns their folder inside `into`.

    Raises: BadCheckpoint (a file is missing, surplus or damaged on the server).
    """
    run, digest = str(stored.run_id), digest_of(model, stored)
    try:
        listed = {PurePosixPath(file.path).name for file in server.ask(lambda client: client.list_artifacts(run, ARTIFACTS))}
        published = set(stored.tags[FILES_TAG].split("/"))
        if listed != published:
            missing, surplus = sorted(published - listed), sorted(listed - published)
            changes = [f"missing {name}" for name in missing] + [f"not published {name}" for name in surplus]
            raise BadCheckpoint(f"files on the server are not those that were published: {'; '.join(changes)}", where=str(model))
        server.ask(lambda client: client.download_artifacts(run, ARTIFACTS, str(into)))
    except Absent:
        raise BadCheckpoint(f"the run {run} with its files is gone from the server", where=str(model)) from None
    check(into / ARTIFACTS, model, digest)
    return into / ARTIFACTS


def download_manifest(server: Server, model: ModelVersion, stored: "Stored", digest: str, into: Path) -> Manifest:
    """Fetch and check the manifest alone. Raises: BadCheckpoint (it is missing, or not the one of that digest)."""
    try:
        path = server.ask(lambda client: client.download_artifacts(str(stored.run_id), f"{ARTIFACTS}/{MANIFEST}", str(into)))
    except Absent:
        raise BadCheckpoint("the manifest is gone from the server", where=f"{model} {MANIFEST}") from None
    try:
        manifest, found = read_manifest(Path(path).parent)
    except BadCheckpoint as error:
        raise BadCheckpoint(error.detail, where=f"{model} {MANIFEST}") from error
    if found != digest:
        raise BadCheckpoint("the manifest is not the one that was published", where=f"{model} {MANIFEST}")
    return manifest


def check(folder: Path, model: ModelVersion, digest: str) -> None:
    """Compare a folder with the digest of its manifest, and its files with the manifest. Raises: BadCheckpoint (names both)."""
    try:
        manifest, found = read_manifest(folder)
        if found != digest:
            raise BadCheckpoint("the manifest is not the one that was published", where=str(folder / "manifest.json"))
        check_files(folder, manifest)
    except BadCheckpoint as error:
        file = Path(error.where).name if error.where and Path(error.where) != folder else ""
        raise BadCheckpoint(error.detail, where=f"{model} {file}".strip()) from error
