"""`make sbom`: what an installed service is made of, as CycloneDX, and whether any of it is known to be vulnerable.

    python -m tests.sbom [FOLDER]

FOLDER (build) gets serve-requirements.txt, sbom.json and audit.json.
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
DISTRIBUTION, EXTRA = "fip-server", "serve"
VULNERABLE, NOT_ASKED = 1, 2
PIN = "{}=={}"


def packages() -> dict[str, str]:
    """Name and version of all that is installed because of fip-server[serve], and nothing else."""
    found: dict[str, str] = {}
    asked: set[tuple[str, str]] = set()
    to_ask = [(DISTRIBUTION, EXTRA), (DISTRIBUTION, "")]
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
    """CycloneDX 1.6 in JSON, the same for the same packages. Raises: CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    requirements, sbom = folder / "serve-requirements.txt", folder / "sbom.json"
    requirements.write_text("".join(f"{PIN.format(*each)}\n" for each in packages().items()))
    options = ["--spec-version", "1.6", "--output-format", "JSON", "--output-reproducible", "--output-file", str(sbom)]
    described = ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application"]
    command = [str(BIN / "cyclonedx-py"), "requirements", *options, *described, str(requirements)]
    subprocess.run(command, check=True)
    return sbom


def audit(folder: Path) -> int:
    """Ask the vulnerability service about these packages; what the command ends with. Builds of a version count as that version."""
    public, answer = folder / "audit-requirements.txt", folder / "audit.json"
    public.write_text("".join(f"{PIN.format(name, Version(version).public)}\n" for name, version in packages().items()))
    answer.unlink(missing_ok=True)
    options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json", "--output", str(answer)]
    asked = subprocess.run([str(BIN / "pip-audit"), *options, "--requirement", str(public)], stderr=subprocess.PIPE, text=True, check=False)
    if not answer.exists():
        print(asked.stderr[-2000:], file=sys.stderr)
        print("not audited: the vulnerability service could not be asked. The SBOM stands.", file=sys.stderr)
        return NOT_ASKED
    checked = json.loads(answer.read_text())["dependencies"]
    skipped = [f"{each['name']} ({each['skip_reason']})" for each in checked if "skip_reason" in each]
    wrong = [f"{each['name']} {each['version']}: {flaw['id']}" for each in checked for flaw in each.get("vulns", ())]
    print(f"audited {len(checked) - len(skipped)} packages: {len(wrong)} known vulnerabilities", *wrong, sep="\n")
    if skipped:
        print("not known to the service:", ", ".join(skipped))
    return VULNERABLE if wrong else 0


def main(folder: Path) -> int:
    sbom = write_sbom(folder)
    print(f"{sbom}: {len(json.loads(sbom.read_text())['components'])} packages")
    return audit(folder)


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:2]) if sys.argv[1:] else Path("build")))
