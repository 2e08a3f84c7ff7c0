"""Every notebook in short: it ran to its end as it is now, and its checks say what the notebook says."""

import json

import pytest

from datafree.book import parameters, plan, run

TAG = "nbval-check-output"
"""Cells whose output is kept in the notebook; the tag is the one that nbval knows."""


def said(cell: dict) -> str:
    """What a cell printed and returned, as text."""
    outputs = cell["outputs"]
    return "".join("".join(out.get("text") or out.get("data", {}).get("text/plain", "")) for out in outputs)


def code_cells(path) -> list[dict]:
    cells = json.loads(path.read_text())["cells"]
    return [c for c in cells if c["cell_type"] == "code" and "injected-parameters" not in c["metadata"].get("tags", [])]


@pytest.mark.parametrize("name", list(parameters.NOTEBOOKS))
def test_checks_say_what_the_notebook_says(name):
    executed = run.places(name, "smoke", 0)[0]
    if not executed.is_file():
        pytest.skip("'datafree build notebooks --profile smoke' has not run")
    assert plan.is_current(name, 0, "smoke"), "run 'datafree build notebooks --profile smoke' again"
    pairs = zip(code_cells(run.find(name)), code_cells(executed), strict=True)
    checks = [(said(kept), said(ran)) for kept, ran in pairs if TAG in kept["metadata"].get("tags", [])]
    assert [ran for _, ran in checks] == [kept for kept, _ in checks]


@pytest.mark.parametrize("name", list(parameters.NOTEBOOKS))
def test_a_notebook_keeps_outputs_of_its_checks_only(name):
    for cell in code_cells(run.find(name)):
        assert bool(cell["outputs"]) == (TAG in cell["metadata"].get("tags", []))
