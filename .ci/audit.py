"""One line: are weaknesses known of the packages that requirements.txt pins? It informs, and never fails."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PINS = re.split(r"\n(?=\S)", Path("requirements.txt").read_text())[1:]


def audit(pins: list[str]) -> list[dict]:
    """What pip-audit says of each pin; nothing where it cannot be run to its end."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "requirements.txt")
        listed.write_text("\n".join(pins))
        options = [
            "--disable-pip",
            "--require-hashes",
            "--progress-spinner",
            "off",
            "--timeout",
            "10",
            "--cache-dir",
            folder,
        ]
        command = [sys.executable, "-m", "pip_audit", *options, "--format", "json", "-r", listed]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            return [one for one in json.loads(done.stdout)["dependencies"] if "vulns" in one]
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            return []


first = audit([next(pin for pin in PINS if " ; " not in pin)])
looked_up = audit(PINS) if first else []
weak = [
    f"{one['name']} {one['version']} ({', '.join(v['id'] for v in one['vulns'])})" for one in looked_up if one["vulns"]
]
if not looked_up:
    print("pip-audit could not reach its data: no package was looked up.")
else:
    print(
        f"pip-audit looked up {len(looked_up)} of {len(PINS)} packages; weaknesses are known of: {', '.join(weak) or 'none'}"
    )
