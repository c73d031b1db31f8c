"""Check the packages of the lock files for known vulnerabilities: exit 1 and name each one.

Exits with 0 and says so if no source of advisories can be reached: a check without a network must
pass.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCES = ("pypi", "osv")


def main() -> int:
    """Ask the sources in order until one responds."""
    locks = [str(lock) for lock in sorted(Path.cwd().glob("requirements*.lock"))]
    for source in SOURCES:
        packages, problem = run_pip_audit(source, locks)
        if any("skip_reason" not in package for package in packages):
            return report(source, packages)
        say(f"audit: {source} does not respond: {problem}")
    say("audit: no advisory source reachable: skipped")
    return 0


def run_pip_audit(source: str, locks: list[str]) -> tuple[list[dict[str, Any]], str]:
    """Return the packages with their vulnerabilities, or the reason why there are none."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", source]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    command += ["--disable-pip", "--require-hashes"]  # read the lock files, and install nothing
    command += [word for lock in locks for word in ("--requirement", lock)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(completed.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = completed.stderr.strip().splitlines() or [f"exit code {completed.returncode}"]
        return [], lines[-1].partition("(")[0].rstrip(": ")
    # An index that mirrors packages but no advisories knows none of them.
    return packages, "it has advisories of no package"


def report(source: str, packages: list[dict[str, Any]]) -> int:
    """Print the result; return 1 if a package is vulnerable."""
    found = 0
    for package in packages:
        name = f"{package['name']} {package.get('version', '')}".strip()
        if reason := package.get("skip_reason"):
            say(f"{name}: not checked: {reason}")
        for vulnerability in package.get("vulns", ()):
            found += 1
            versions = ", ".join(vulnerability["fix_versions"]) or "no release"
            say(f"{name}: {vulnerability['id']}, fixed in {versions}")
    say(f"audit: {len(packages)} packages, {found} known vulnerabilities, according to {source}")
    return 1 if found else 0


def say(line: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
