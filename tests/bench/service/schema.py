"""`schemathesis_failures`: requests made from our own OpenAPI description, sound and unsound, against the live service."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.service.furnished import KEY, furnish
from tests.bench.service.process import ROOT, service
from tests.bench.service.rows import Row, at_least, exactly

CASES, SEQUENCES = 2_000, 500
MOST_RUNS = 100  # of sequences
# It asks as two users in turn, whose keys come from a file of its own; that a key opens no other's jobs is seen in test_access.py.
NOT_ASKED = "object_level_authorization"
CONFIG = """
[auth.openapi.bearer]
bearer = "${FIP_BENCH_KEY}"

[auth.openapi.header]
api_key = "${FIP_BENCH_KEY}"

# What answers have told goes into requests by schema_hooks. If schemathesis does that, the draws of hypothesis depend on it, which ends an
# operation early, without a word: DELETE, as its jobs go.
[phases.fuzzing]
extra-data-sources.responses = false

# Any bytes fit the description of a body, which cannot say that they are a cloud of the format that another field names, nor that numbers
# are as many as a shape says: `sound_upload_answered` takes the place of this check. 504 is what a client asks for that gives a request no
# time (X-Request-Timeout); `time_is_up_when_asked` sees to it that nobody else gets it.
[[operations]]
include-path-regex = "^/v1/(classify|segment|points|jobs)$|^/v2/models/.*/infer$"
checks.positive_data_acceptance.enabled = false
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]

[[operations]]
include-path-regex = "^/v1/jobs/.*/result$"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "410"]

# A job that was deleted is told of for a while, as one that has ended: `deleted_jobs_are_gone` takes the place of this check. Of its result
# nothing is left.
[[operations]]
include-path-regex = "^/v1/jobs/[^/]*(/events)?$"
checks.use_after_free.enabled = false

# `ensure_resource_availability` looks only where all parameters come from the answer before; a made-up key is one that does not.
[[operations]]
include-path-regex = "^/v1/jobs/"
generation.with-security-parameters = false
"""


@dataclass(frozen=True)
class Outcome:
    """cases: how many requests of each operation were made up. sequences: of requests that follow from each other's answers. failures: an
    operation, a check and a title -> a text with the first request that shows it.
    """

    cases: Counter[str]
    sequences: int
    statuses: Counter[str]
    failures: dict[tuple[str, str, str], str]

    def __add__(self, later: "Outcome") -> "Outcome":
        cases = Counter(self.cases)
        cases.update(later.cases)  # a sum would leave out operations without any
        failures = {**later.failures, **self.failures}
        return Outcome(cases, self.sequences + later.sequences, self.statuses + later.statuses, failures)

    @property
    def fewest(self) -> int:
        """Cases of the operation that has the fewest."""
        return min(self.cases.values())

    @property
    def never_done(self) -> list[str]:
        """Operations that no request has succeeded in: no answer was held against the schema of a success."""
        done = {operation for operation, _, status in (each.rpartition(" ") for each in self.statuses) if status.startswith("2")}
        return sorted(self.cases.keys() - done)


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        furnished = furnish(Path(folder))
        with service(**furnished.environment) as running:
            outcome = check(running.url, furnished.key, CASES, SEQUENCES)
    counts = {"cases": dict(outcome.cases), "statuses": dict(outcome.statuses)}
    return [
        exactly("schemathesis_failures", len(outcome.failures), 0, failures=list(outcome.failures.values()), **counts),
        at_least("schemathesis_cases_per_operation", outcome.fewest, CASES),
        at_least("schemathesis_sequences", outcome.sequences, SEQUENCES),
        exactly("schemathesis_operations_never_done", len(outcome.never_done), 0, operations=outcome.never_done),
    ]


def check(url: str, key: str, cases: int, sequences: int, seed: int = 0, seconds: float = 3600) -> Outcome:
    """So many made-up requests of each operation, those that try the edges of its description, and so many sequences. key: that opens
    everything. seconds: for each run of schemathesis.

    It ends a run of sequences, without a word, at the first that goes otherwise than one before which began the same, as where a job was
    done sooner: then there is another run.

    Raises: RuntimeError (schemathesis itself failed), subprocess.TimeoutExpired.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
        outcome = ask(folder, url, key, "examples,coverage,fuzzing", cases, seed, seconds)
        runs = 0
        while outcome.sequences < sequences and (runs := runs + 1) <= MOST_RUNS:
            outcome += ask(folder, url, key, "stateful", sequences - outcome.sequences, seed + runs, seconds)
    return outcome


def ask(folder: Path, url: str, key: str, phases: str, examples: int, seed: int, seconds: float) -> Outcome:
    """One run of schemathesis."""
    report = folder / "report.ndjson"
    command = [str(Path(sys.executable).with_name("st")), "--config-file", str(folder / "schemathesis.toml"), "run"]
    command += [f"{url}/openapi.json", "--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure"]
    command += ["--phases", phases, "--exclude-checks", NOT_ASKED]
    command += ["--request-timeout", "60", "--generation-database", "none", "--warnings", "off", "--no-color"]
    command += ["--report", "ndjson", "--report-ndjson-path", str(report)]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.bench.service.schema_hooks", "PYTHONPATH": str(ROOT), KEY: key}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
    if done.returncode not in (0, 1) or not report.is_file():
        raise RuntimeError(f"schemathesis ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    outcome = read_report(report)
    report.unlink()
    if done.returncode == 1 and not outcome.failures:
        raise RuntimeError(f"schemathesis found something that its report lacks:\n{done.stdout[-3000:]}")
    return outcome


def read_report(report: Path) -> Outcome:
    """What a report of events (ndjson) tells. A failure is counted once an operation and title."""
    cases, statuses, failures, sequences = Counter[str](), Counter[str](), dict[tuple[str, str, str], str](), 0
    for kind, event in _events(report):
        if kind in ("NonFatalError", "FatalError"):
            failures[kind, str(event.get("label")), ""] = f"{kind}: {json.dumps(event)[:1000]}"
        if kind != "ScenarioFinished":
            continue
        recorder = event["recorder"]
        label = recorder["label"]
        if event["phase"] == "stateful":
            sequences += "cases" in recorder
        else:
            made_up = [each for each in recorder.get("cases", {}).values() if each.get("parent_id") is None]  # others are of checks
            cases[label] += len(made_up) if event["phase"] == "fuzzing" else 0
        for each in recorder.get("interactions", {}).values():
            statuses[f"{label} {(each.get('response') or {}).get('status_code')}"] += 1
        for case, made in recorder.get("checks", {}).items():
            request = recorder["interactions"].get(case, {}).get("request", {})
            for found in (each for each in made if each["status"] == "failure"):
                told = (found.get("failure_info") or {}).get("failure") or {}
                text = f"{label}: {told.get('title')}: {str(told.get('message'))[:1000]}; {json.dumps(request)}"
                failures.setdefault((label, found["name"], str(told.get("title"))), text[:2000])
    return Outcome(cases, sequences, statuses, failures)


def _events(report: Path) -> Iterator[tuple[str, dict]]:
    with report.open(encoding="utf-8") as lines:
        for line in lines:
            yield from json.loads(line).items()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(rows(), indent=1) + "\n")
