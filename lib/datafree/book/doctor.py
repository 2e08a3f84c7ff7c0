"""A check-up: is everything here that the book needs? Every finding is one sentence."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from .. import files
from ..errors import DataFreeError
from . import build

PINS = ("requirements.txt", "requirements-torch.txt")
"""The first with the hashes of all files; of torch, the user chooses the build."""

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


class Finding(NamedTuple):
    """`state` is 'ok', 'note' (works, but know it) or 'broken'."""

    state: str
    sentence: str


def examine() -> list[Finding]:
    """Every check, in order."""
    checks = (_python, _packages, _kernel, _stubs, _disk, _clamp, _bf16, _left_over, _git, _browser)
    return [finding for check in checks for finding in check()]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Finding("ok" if good else "broken", f"Python is {version}; 3.11 or newer is needed.")


def pinned() -> list[Requirement]:
    """What the requirements files pin for this system and this Python; their hashes are the installer's."""
    lines = "".join((files.ROOT / name).read_text() for name in PINS).splitlines()
    pins = [Requirement(line.rstrip("\\")) for line in lines if re.match(r"[a-z]", line)]
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]


def _packages() -> Iterator[Finding]:
    pins, wrong = pinned(), []
    for pin in pins:
        try:
            found = metadata.version(pin.name)
        except metadata.PackageNotFoundError:
            yield Finding("broken", f"The package {pin.name} is missing; run 'make book' to install it.")
            continue
        if not pin.specifier.contains(found, prereleases=True):
            wrong.append(f"{pin.name} {found} (pinned: {str(pin.specifier).removeprefix('==')})")
    if wrong:
        yield Finding("note", f"These packages differ from requirements.txt, so figures may too: {', '.join(wrong)}.")
    else:
        yield Finding("ok", f"The packages agree with requirements.txt ({len(pins)} pins).")


def _kernel() -> Iterator[Finding]:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        yield Finding("broken", "Jupyter finds no kernel 'python3'; run 'make book' to install it.")
        return
    known = Path(program).name in ("python", "python3") or Path(program) == Path(sys.executable)
    state, tail = ("ok", "is this environment's") if known else ("note", f"starts another Python, '{program}'")
    yield Finding(state, f"The kernel 'python3' {tail}.")


def _stubs() -> Iterator[Finding]:
    sums = files.STUBS / "SHA256SUMS"
    if not sums.is_file():
        yield Finding("broken", "The list data_stubs/SHA256SUMS is missing; restore it with 'git checkout data_stubs'.")
        return
    listed = dict(reversed(line.split("  ", 1)) for line in sums.read_text().splitlines() if line)
    wrong = [sentence for name, digest in listed.items() if (sentence := _wrong(name, digest))]
    wrong += [
        f"The file data_stubs/{name} is not in SHA256SUMS; run 'datafree doctor --seal' if it is yours."
        for name in _unlisted(set(listed))
    ]
    for sentence in wrong:
        yield Finding("broken", sentence)
    if not wrong:
        yield Finding("ok", f"The embedded data and networks have the SHA-256 they should ({len(listed)} files).")


def _wrong(name: str, digest: str) -> str | None:
    path = files.STUBS / name
    if not path.is_file():
        return f"The file data_stubs/{name} is missing; restore it with 'git checkout data_stubs'."
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        return f"The file data_stubs/{name} has a wrong SHA-256; restore it with 'git checkout data_stubs'."
    return None


def _unlisted(listed: set[str]) -> list[str]:
    """Files that would be refused at loading; progress files of a training are none of ours."""
    present = (p for p in files.STUBS.rglob("*") if p.is_file() and p.suffix != ".resume")
    names = {p.relative_to(files.STUBS).as_posix() for p in present if p.name not in ("SHA256SUMS", "README.md")}
    return sorted(names - listed)


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(files.ROOT).free / 2**30
    state = "broken" if free < 0.5 else "note" if free < 2 else "ok"
    yield Finding(state, f"The disk has {free:.1f} GiB free; a build needs about 0.5.")


def _clamp() -> Iterator[Finding]:
    import torch

    x = torch.tensor([0.0, 1.0], requires_grad=True)  # the ends of the range
    x.clamp(0, 1).sum().backward()
    if x.grad.tolist() == [1.0, 1.0]:
        yield Finding("ok", "clamp passes the gradient at both ends of its range.")
    else:
        yield Finding(
            "broken",
            f"torch {torch.__version__} passes no gradient where clamp meets an end of its range, so rounding is learned "
            "otherwise; install the version of requirements-torch.txt (make book does).",
        )


def _bf16() -> Iterator[Finding]:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    fast = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    yield Finding(
        "ok", f"bfloat16 is {'supported' if fast else 'emulated, so the book stays in float32'} here ({capability})."
    )


def _left_over() -> Iterator[Finding]:
    running = build.orphans()
    for sentence in running:
        yield Finding("note", sentence[0].upper() + sentence[1:])
    if build.stale_locks() and not running:
        yield Finding(
            "note",
            "An earlier build was interrupted and left a lock, or one is running; 'make book' removes a stale lock.",
        )
    elif not running:
        yield Finding("ok", "No interrupted build has left anything behind.")


def _git() -> Iterator[Finding]:
    if not shutil.which("git"):
        yield Finding("note", "git is not installed, so records cannot name the commit; install git.")
        return
    inside = subprocess.run(["git", "rev-parse", "HEAD"], cwd=files.ROOT, capture_output=True).returncode == 0
    yield Finding(
        "ok" if inside else "note",
        "git knows this checkout." if inside else "This is no git checkout; records say 'unknown'.",
    )


def _browser() -> Iterator[Finding]:
    found = next((name for name in CHROMIUM if shutil.which(name)), None)
    yield Finding(
        "ok" if found else "note",
        f"The browser tests use {found}." if found else "No chromium: the browser tests are skipped.",
    )


def report(findings: list[Finding]) -> None:
    """Print the findings; DataFreeError is not used, so that all of them are seen."""
    for state, sentence in findings:
        print(f"{state:>6}  {sentence}")


def check_up() -> bool:
    """Print every finding; true if nothing is broken."""
    try:
        findings = examine()
    except DataFreeError as error:
        findings = [Finding("broken", str(error))]
    report(findings)
    return all(finding.state != "broken" for finding in findings)
