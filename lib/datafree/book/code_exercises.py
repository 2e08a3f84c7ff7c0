"""Exercises that are solved by code: a function to write, and checks of it, in the form that nbgrader reads.

A file `book/exercises/LABEL.py` belongs to the exercise of that label in a chapter. It has two parts, `# %% code` and
`# %% tests`. Lines from `### BEGIN SOLUTION` to `### END SOLUTION` and from `### BEGIN HIDDEN TESTS` to
`### END HIDDEN TESTS` are not handed out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from .. import files
from ..errors import DataFreeError

PLACE = files.ROOT / "book" / "exercises"

_PARTS = re.compile(r'\A""".*?"""\n+(?P<imports>.*?)# %% code\n(?P<code>.*?)# %% tests\n(?P<tests>.*)\Z', re.S)
_SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION$", re.M | re.S)
_HIDDEN = re.compile(r"^ *### BEGIN HIDDEN TESTS\n.*?^ *### END HIDDEN TESTS\n?", re.M | re.S)
_MARK = re.compile(r"^ *### (BEGIN|END) (SOLUTION|HIDDEN TESTS)\n?", re.M)


class CodeExercise(NamedTuple):
    """What there is to write, with its solution, and the tests, with the hidden ones; both with nbgrader's marks."""

    label: str
    code: str
    tests: str

    @property
    def starter(self) -> str:
        """The code as it is handed out."""
        return _SOLUTION.sub(r"\1# your code here\n\1raise NotImplementedError", self.code)

    @property
    def solution(self) -> str:
        """The code without marks."""
        return _MARK.sub("", self.code).rstrip()

    @property
    def visible_tests(self) -> str:
        return _HIDDEN.sub("", self.tests).rstrip()

    @property
    def all_tests(self) -> str:
        return _MARK.sub("", self.tests).rstrip()


def find(label: str, folder: Path = PLACE) -> CodeExercise | None:
    """The code of an exercise; None for one that is solved in words.

    Raises:
        DataFreeError: the file does not have the two parts.
    """
    path = folder / f"{label}.py"
    if not path.is_file():
        return None
    match = _PARTS.match(path.read_text(encoding="utf-8"))
    if match is None or not _SOLUTION.search(match["code"]) or not _HIDDEN.search(match["tests"]):
        raise DataFreeError(
            f"'{path}' is not an exercise; it needs a docstring, '# %% code' with a marked solution and '# %% tests' with marked "
            f"hidden tests, as its neighbours have."
        )
    return CodeExercise(label, (match["imports"] + match["code"]).strip(), match["tests"].strip())


def cells(one: CodeExercise, solved: bool) -> list[dict[str, Any]]:
    """Two cells of a notebook, to write in and to check with, as nbgrader wants them; `solved`: for who teaches."""
    code, tests = (one.code, one.tests) if solved else (one.starter, one.visible_tests)
    return [_cell(code, one.label, grade=False), _cell(tests, f"{one.label}-tests", grade=True)]


def _cell(source: str, name: str, grade: bool) -> dict[str, Any]:
    marks = {
        "schema_version": 3,
        "grade_id": name,
        "grade": grade,
        "solution": not grade,
        "locked": grade,
        "task": False,
    }
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": re.sub(r"[^\w-]", "-", name)[:64],
        "metadata": {"nbgrader": marks | ({"points": 1} if grade else {})},
        "outputs": [],
        "source": source,
    }
