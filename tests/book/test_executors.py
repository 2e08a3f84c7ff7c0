"""Runs beyond one process: jobs of a cluster are planned, two local jobs run, and what failed or was killed resumes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from datafree.book import build
from datafree.errors import DataFreeError
from datafree.files import ROOT

STAND_IN = """
rule all:
    input: "first.txt", "second.txt"

rule run:
    output: "{name}.txt"
    shell: "echo {wildcards.name} >> started; test ! -e wait-{wildcards.name} || sleep 60;"
        " test ! -e broken-{wildcards.name} && echo done > {output}"
"""
COMMAND = [sys.executable, "-m", "snakemake", "all", "--cores", "2", "--rerun-incomplete", "--quiet", "all"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Snakefile").write_text(STAND_IN)
    return tmp_path


def snakemake(folder, *more):
    return subprocess.run([*COMMAND, *more], cwd=folder, capture_output=True, text=True)


def started(folder):
    return sorted((folder / "started").read_text().split())


def test_two_local_jobs_run_and_the_one_that_failed_resumes(folder):
    (folder / "broken-second").touch()
    assert snakemake(folder, "--keep-going").returncode
    assert (folder / "first.txt").exists() and not (folder / "second.txt").exists()
    (folder / "broken-second").unlink()
    assert snakemake(folder).returncode == 0
    assert (folder / "second.txt").exists() and started(folder) == ["first", "second", "second"]


def test_a_job_that_was_killed_resumes(folder):
    (folder / "wait-second").touch()
    process = subprocess.Popen(COMMAND, cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL)
    for _ in range(300):
        if (folder / "first.txt").exists() and "second" in (folder / "started").read_text():
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (folder / "wait-second").unlink()
    assert snakemake(folder, "--unlock").returncode == 0
    assert snakemake(folder).returncode == 0
    assert (folder / "second.txt").exists() and started(folder) == ["first", "second", "second"]


def test_an_audit_on_a_cluster_can_be_planned(folder):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    done = snakemake(folder, *build._executor("slurm"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert build._executor("slurm")[1].startswith(str(ROOT)) and build._executor("local") == []


def test_an_executor_that_is_not_there_is_named(monkeypatch):
    with pytest.raises(DataFreeError, match="'moon' is not known"):
        build._executor("moon")
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataFreeError, match="not installed"):
        build._executor("slurm")
