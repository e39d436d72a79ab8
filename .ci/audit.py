"""Asks PyPI whether what we ship has known vulnerabilities: `python .ci/audit.py`. Part of `make check`.

Exit code 1 names them. Where nobody answers it prints that and passes, so that work goes on offline. It looks
at requirements.lock, which the image is made of, and not at the tools of development.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
COMMAND = ["--requirement", str(LOCK), "--require-hashes", "--disable-pip", "--progress-spinner", "off"]


def main() -> int:
    """Run pip-audit and read its report."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *COMMAND, "--format", "json", "--timeout", "5"],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        if re.match(r"requests\.exceptions\.|pip_audit\S*(Connection|Service)Error", reason):
            print("pip-audit: skipped, PyPI does not answer")
            return 0
        print(done.stderr)
        return 1
    asked = [each for each in found if "skip_reason" not in each]
    if not asked:
        print("pip-audit: skipped, nobody here knows the packages on PyPI")
        return 0
    faults = [(each["name"], each["version"], fault) for each in asked for fault in each["vulns"]]
    for name, version, fault in faults:
        fixed = ", ".join(fault["fix_versions"]) or "no version yet"
        print(f"{name} {version}: {fault['id']}, fixed in {fixed}")
    print(
        f"pip-audit: {len(asked)} of {len(found)} packages asked about, {len(faults)} vulnerabilities known"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
