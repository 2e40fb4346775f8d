"""Looks the installed packages up in PyPI's database of vulnerabilities: `python -m tests.audit`.

Exits with 1 for a known vulnerability. Where the package pip-audit is missing or the database cannot be
reached, it says that nothing was checked, and exits with 0.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

COMMAND = ("-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "10")
SECONDS = 300
UNCHECKED = "nothing was checked: "


def main() -> int:
    if find_spec("pip_audit") is None:
        return tell(UNCHECKED + "pip-audit is missing; pip install -r tests/requirements.txt")
    # A pip that is told to be quiet lists no packages.
    env = {name: value for name, value in os.environ.items() if name != "PIP_QUIET"}
    asked = {"capture_output": True, "text": True, "timeout": SECONDS, "env": env}
    try:
        done = subprocess.run([sys.executable, *COMMAND], **asked)
    except subprocess.TimeoutExpired:
        return tell(f"{UNCHECKED}the database did not answer within {SECONDS} seconds")
    return tell(*report(done.stdout, done.stderr))


def tell(text: str, code: int = 0) -> int:
    print(text)
    return code


def report(said: str, errors: str = "") -> tuple[str, int]:
    """Return what pip-audit's answer means, and the exit code."""
    try:
        packages = json.loads(said)["dependencies"]
    except (ValueError, KeyError, TypeError):
        why = (errors.strip().splitlines() or ["no answer"])[-1]
        return f"{UNCHECKED}the database is not reachable ({why[:200]})", 0
    found = [
        f"{one['name']} {one['version']}: {bad['id']}" for one in packages for bad in one.get("vulns", ())
    ]
    checked = [one for one in packages if "skip_reason" not in one]
    if not checked:
        return f"{UNCHECKED}the database is not reachable, it knows none of {len(packages)} packages", 0
    counts = (
        f"{len(checked)} of {len(packages)} packages were looked up, {len(found)} vulnerabilities are known"
    )
    return "\n".join([counts, *found]), int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
