"""Audits the delivered packages and code: `make audit`.

    python -m deploy.audit --runtime .audit/runtime --output .audit

All checks run, and a table at the end has their outcomes. The exit status is 1 if a check found
something, else 3 if one could not run. A check without an answer from its service does not pass.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

FOUND, NOT_CHECKED = 1, 3
SEVERE = ("high", "critical")
TORCH = re.compile(r'"(torch==[^"]*)"')


class Outcome(StrEnum):
    """Outcome of a check."""

    PASSED = "passed"
    FOUND = "FOUND"
    NOT_CHECKED = "NOT CHECKED"


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of a check in short, with its reason."""

    check: str
    outcome: Outcome
    detail: str = ""


def run(check: str, command: Sequence[str]) -> Result:
    """Runs a check that is one command, which reports its own findings."""
    print(f"\n== {check}", flush=True)
    try:
        done = subprocess.run(command, check=False)  # noqa: S603 - our own command
    except OSError as error:
        return Result(check, Outcome.NOT_CHECKED, str(error))
    if done.returncode:
        return Result(check, Outcome.FOUND, f"status {done.returncode}: see above")
    return Result(check, Outcome.PASSED)


def ask(check: str, command: Sequence[str]) -> tuple[dict[str, object], str]:
    """Returns a command's output as JSON, if it is any, and the last line of its errors."""
    print(f"\n== {check}", flush=True)
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, check=False, capture_output=True, text=True
        )
    except OSError as error:
        return {}, str(error)
    complaints = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    try:
        said = json.loads(done.stdout)
    except ValueError:
        return {}, complaints[-1]
    return (said, complaints[-1]) if isinstance(said, dict) else ({}, complaints[-1])


def look_up(check: str, command: Sequence[str]) -> Result:
    """Runs pip-audit, with the vulnerabilities that PyPI or another service knows."""
    said, complaint = ask(check, command)
    packages = said.get("dependencies")
    if not isinstance(packages, list) or not packages:
        return Result(check, Outcome.NOT_CHECKED, complaint)
    found = [f"{one['name']} {one['version']}" for one in packages if one.get("vulns")]
    skipped = [one for one in packages if "skip_reason" in one]
    for one in packages:
        for hole in one.get("vulns", ()):
            fixed = ", ".join(hole["fix_versions"]) or "no version"
            print(f"{one['name']} {one['version']}: {hole['id']}, fixed in {fixed}")
    if found:
        return Result(check, Outcome.FOUND, ", ".join(found))
    if skipped:
        detail = f"{len(skipped)} of {len(packages)}; {skipped[0]['skip_reason']}"
        return Result(check, Outcome.NOT_CHECKED, detail)
    return Result(check, Outcome.PASSED, f"{len(packages)} packages")


def look_up_npm(check: str, command: Sequence[str]) -> Result:
    """Runs npm audit; lower severities are no findings, as only tests use these packages."""
    said, complaint = ask(check, command)
    metadata = said.get("metadata")
    if not isinstance(metadata, dict):
        return Result(check, Outcome.NOT_CHECKED, str(said.get("message") or complaint))
    holes = said.get("vulnerabilities")
    assert isinstance(holes, dict)
    found = [name for name, hole in holes.items() if hole["severity"] in SEVERE]
    if found:
        return Result(check, Outcome.FOUND, ", ".join(found))
    return Result(check, Outcome.PASSED, f"{metadata['dependencies']['total']} packages")


def _checks(runtime: Path, output: Path, tools: list[str], npm: list[str]) -> list[Result]:
    (packages,) = runtime.glob("lib/python*/site-packages")
    torch = output / "torch.txt"
    torch.write_text("\n".join(TORCH.findall(Path("pyproject.toml").read_text())) + "\n")
    python = sys.executable
    pip_audit = [*tools, "pip-audit", "--disable-pip", "--progress-spinner=off", "--format=json"]
    bandit = [python, "-m", "bandit", "-q", "-c", "pyproject.toml", "-r", "src", "training"]
    sbom = [*tools, "cyclonedx-py", "environment", "--pyproject", "pyproject.toml"]
    sbom += ["--output-file", str(output / "sbom.json"), str(runtime)]
    return [
        run("code (bandit)", bandit),
        run("licences", [python, "-m", "deploy.licences", str(packages)]),
        run(f"SBOM ({output / 'sbom.json'})", sbom),
        look_up(
            "vulnerabilities of requirements.lock (pip-audit)",
            [*pip_audit, "--require-hashes", "-r", "requirements.lock"],
        ),
        look_up(
            "vulnerabilities of torch (pip-audit)", [*pip_audit, "--no-deps", "-r", str(torch)]
        ),
        look_up_npm(
            "severe vulnerabilities of the tested clients (npm audit)",
            [*npm, "audit", "--package-lock-only", "--json", "--prefix", "tests/clients"],
        ),
    ]


def report(results: Sequence[Result]) -> int:
    """Prints the outcomes of all checks; returns the exit status."""
    print("\n== The audit")
    for one in results:
        print(f"{one.outcome:<12} {one.check}{one.detail and ': ' + one.detail}")
    outcomes = {one.outcome for one in results}
    if Outcome.FOUND in outcomes:
        print("The audit failed: see the findings above.")
        return FOUND
    if Outcome.NOT_CHECKED in outcomes:
        print("The audit is incomplete: no findings, but some checks could not run.")
        return NOT_CHECKED
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runtime", type=Path, required=True, help="environment with the runtime packages alone"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the SBOM")
    parser.add_argument("--tools", default="", help="command that runs pip-audit and cyclonedx-py")
    parser.add_argument("--npm", default="npm", help="command that is npm")
    options = parser.parse_args()
    tools, npm = shlex.split(options.tools), shlex.split(options.npm)
    return report(_checks(options.runtime, options.output, tools, npm))


if __name__ == "__main__":
    sys.exit(main())
