"""`schemathesis_failures`: requests made from our own OpenAPI description, sound and unsound, against the live service."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.bench.service.process import ROOT, service
from tests.bench.service.rows import Row, at_least, exactly

CASES = 2_000
# All checks but: those of authorization and of resources made and deleted over the API, of which the service has none.
NOT_OURS = ("ignored_auth", "object_level_authorization", "use_after_free", "ensure_resource_availability")
# Any bytes fit the description of a body, which cannot say that they are a cloud of the format that another field names, nor that
# numbers are as many as a shape says:
# for uploads `sound_upload_answered` (schema_hooks) takes the place of this check. 504 is what a client asks for that gives a
# request no time (X-Request-Timeout); `time_is_up_when_asked` sees to it that nobody else gets it.
CONFIG = """
[[operations]]
include-path-regex = "^/v1/(classify|segment|points|jobs)$|^/v2/models/.*/infer$"
checks.positive_data_acceptance.enabled = false
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]

[[operations]]
include-path-regex = "^/v1/jobs/.*/result$"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "410"]
"""


@dataclass(frozen=True)
class Outcome:
    """cases: how many requests of each operation were made up. failures: one text each, with the command that shows it."""

    cases: Counter[str]
    statuses: Counter[str]
    failures: list[str]

    @property
    def fewest(self) -> int:
        """Cases of the operation that has the fewest, beside those that remove something: there is only so much to remove."""
        return min(count for operation, count in self.cases.items() if not operation.startswith("DELETE"))


def rows() -> list[Row]:
    with service() as running:
        outcome = check(running.url, CASES)
    counts = {"cases": dict(outcome.cases), "statuses": dict(outcome.statuses)}
    return [
        exactly("schemathesis_failures", len(outcome.failures), 0, failures=outcome.failures, **counts),
        at_least("schemathesis_cases_per_operation", outcome.fewest, CASES),
    ]


def check(url: str, cases: int, seed: int = 0, seconds: float = 3600) -> Outcome:
    """So many made-up requests of each operation, and those that try the edges of its description.

    Raises: RuntimeError (schemathesis itself failed), subprocess.TimeoutExpired.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
        report = Path(folder) / "report.ndjson"
        command = [str(Path(sys.executable).with_name("st")), "--config-file", str(Path(folder) / "schemathesis.toml"), "run"]
        command += [f"{url}/openapi.json", "--max-examples", str(cases), "--seed", str(seed), "--continue-on-failure"]
        command += ["--phases", "examples,coverage,fuzzing,stateful", "--exclude-checks", ",".join(NOT_OURS)]
        command += ["--request-timeout", "60", "--generation-database", "none", "--warnings", "off", "--no-color"]
        command += ["--report", "ndjson", "--report-ndjson-path", str(report)]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.bench.service.schema_hooks", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
        if done.returncode not in (0, 1) or not report.is_file():
            raise RuntimeError(f"schemathesis ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        outcome = read_report(report)
        if done.returncode == 1 and not outcome.failures:
            raise RuntimeError(f"schemathesis found something that its report lacks:\n{done.stdout[-3000:]}")
        return outcome


def read_report(report: Path) -> Outcome:
    """What a report of events (ndjson) tells. A failure is counted once an operation and title."""
    cases, statuses, failures = Counter[str](), Counter[str](), dict[tuple[str, str, str], str]()
    with report.open(encoding="utf-8") as lines:
        for line in lines:
            [(kind, event)] = json.loads(line).items()
            if kind in ("NonFatalError", "FatalError"):
                failures[kind, str(event.get("label")), ""] = f"{kind}: {json.dumps(event)[:1000]}"
            if kind != "ScenarioFinished":
                continue
            recorder = event["recorder"]
            label = recorder["label"]
            if event["phase"] == "fuzzing":
                cases[label] += len(recorder.get("cases", {}))
            for each in recorder.get("interactions", {}).values():
                statuses[f"{label} {(each.get('response') or {}).get('status_code')}"] += 1
            for made in recorder.get("checks", {}).values():
                for found in (each for each in made if each["status"] == "failure"):
                    told = (found.get("failure_info") or {}).get("failure") or {}
                    failures.setdefault((label, found["name"], str(told.get("title"))), f"{label}: {told.get('title')}: {_shown(found)}")
    return Outcome(cases, statuses, list(failures.values()))


def _shown(found: dict) -> str:
    info = found.get("failure_info") or {}
    return f"{(info.get('failure') or {}).get('message')}; {info.get('code_sample')}"[:2000]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(rows(), indent=1) + "\n")
