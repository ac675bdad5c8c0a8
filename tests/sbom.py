"""`make sbom`: what an installed service is made of, as CycloneDX, and whether any of it is known to be vulnerable.

    python -m tests.sbom [FOLDER]

FOLDER (build) gets sbom.json and audit.json.
"""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DISTRIBUTION = "fip-server"
EXTRAS = ("serve", "otel")  # what the image of docker-compose.yml has
VULNERABLE, NOT_ASKED = 1, 2


def packages() -> dict[str, str]:
    """Name and version of all that is installed because of fip-server[serve,otel], and nothing else."""
    found: dict[str, str] = {}
    asked: set[tuple[str, str]] = set()
    to_ask = [(DISTRIBUTION, extra) for extra in (*EXTRAS, "")]
    while to_ask:
        name, extra = each = to_ask.pop()
        if each in asked:
            continue
        asked.add(each)
        distribution = importlib.metadata.distribution(name)
        found[name] = distribution.version
        for needed in _needed(distribution, extra):
            to_ask += [(canonicalize_name(needed.name), wanted) for wanted in (*needed.extras, "")]
    del found[DISTRIBUTION]
    return dict(sorted(found.items()))


def _needed(distribution: importlib.metadata.Distribution, extra: str) -> Iterator[Requirement]:
    for line in distribution.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def write_sbom(folder: Path) -> Path:
    """CycloneDX 1.6 in JSON, with licences and who needs what; the same for the same packages. Raises: CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    sbom = folder / "sbom.json"
    options = ["--spec-version", "1.6", "--output-format", "JSON", "--output-reproducible", "--output-file", str(sbom)]
    described = ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application"]
    subprocess.run([str(BIN / "cyclonedx-py"), "environment", *options, *described, sys.executable], check=True)
    document = json.loads(sbom.read_text())
    _keep(document, set(packages()))
    sbom.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    return sbom


def _keep(document: dict, names: set[str]) -> None:
    """Of everything that is installed here, what the service needs."""
    document["components"] = [each for each in document["components"] if canonicalize_name(each["name"]) in names]
    kept = {each["bom-ref"] for each in document["components"]}
    root = document["metadata"]["component"]["bom-ref"]
    graph = [each for each in document["dependencies"] if each["ref"] in kept | {root}]
    for each in graph:
        each["dependsOn"] = [ref for ref in each.get("dependsOn", ()) if ref in kept]
        if each["ref"] == root:
            each["dependsOn"] = [ref for ref in each["dependsOn"] if canonicalize_name(ref.partition("==")[0]) in _direct()]
    document["dependencies"] = graph


def _direct() -> set[str]:
    distribution = importlib.metadata.distribution(DISTRIBUTION)
    return {canonicalize_name(each.name) for extra in EXTRAS for each in _needed(distribution, extra)}


def audit(folder: Path) -> int:
    """Ask the vulnerability service about these packages; what the command ends with. Builds of a version count as that version."""
    public, answer = folder / "audit-requirements.txt", folder / "audit.json"
    public.write_text("".join(f"{name}=={Version(version).public}\n" for name, version in packages().items()))
    answer.unlink(missing_ok=True)
    options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json", "--output", str(answer)]
    command = [str(BIN / "pip-audit"), *options, "--requirement", str(public)]
    asked = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if not answer.exists():
        print(asked.stderr[-2000:], file=sys.stderr)
        return _not_asked("the vulnerability service could not be reached")
    return judge(json.loads(answer.read_text())["dependencies"])


def judge(checked: list[dict]) -> int:
    """checked: an entry for each package. One that the service does not know is not one without flaws: a mirror of PyPI knows none."""
    skipped = [each["name"] for each in checked if "skip_reason" in each]
    wrong = [f"{each['name']} {each['version']}: {flaw['id']}" for each in checked for flaw in each.get("vulns", ())]
    print(f"audited {len(checked) - len(skipped)} of {len(checked)} packages: {len(wrong)} known vulnerabilities", *wrong, sep="\n")
    if wrong:
        return VULNERABLE
    return _not_asked(f"the vulnerability service does not know {', '.join(skipped)}") if skipped else 0


def _not_asked(why: str) -> int:
    print(f"not audited: {why}. The SBOM stands.", file=sys.stderr)
    return NOT_ASKED


def main(folder: Path) -> int:
    sbom = write_sbom(folder)
    print(f"{sbom}: {len(json.loads(sbom.read_text())['components'])} packages")
    return audit(folder)


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:2]) if sys.argv[1:] else Path("build")))
