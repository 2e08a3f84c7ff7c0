"""Exercises in code: the solution passes its tests, and what is handed out does not."""

import pytest

from datafree.book import code_exercises, student
from datafree.errors import DataFreeError
from datafree.evidence.notebook_text import notebooks

LABELS = sorted(path.stem for path in code_exercises.PLACE.glob("*.py"))
FILE = '''"""One."""

# %% code
def one():
    """One."""
    ### BEGIN SOLUTION
    return 1
    ### END SOLUTION


# %% tests
assert one()
### BEGIN HIDDEN TESTS
assert one() == 1
### END HIDDEN TESTS
'''


def run(code: str, tests: str) -> None:
    exec(compile(f"{code}\n\n\n{tests}", "exercise.py", "exec"), {})


@pytest.mark.parametrize("label", LABELS)
def test_the_solution_passes_all_tests(label):
    one = code_exercises.find(label)
    run(one.solution, one.all_tests)


@pytest.mark.parametrize("label", LABELS)
def test_what_is_handed_out_fails_the_tests_that_are_seen(label):
    one = code_exercises.find(label)
    assert "return" not in one.starter and "###" not in one.starter + one.visible_tests
    with pytest.raises(NotImplementedError):
        run(one.starter, one.visible_tests)


@pytest.mark.parametrize("label", LABELS)
def test_an_answer_that_is_always_zero_fails_the_hidden_tests(label):
    one = code_exercises.find(label)
    hidden = one.all_tests.removeprefix(one.visible_tests)
    with pytest.raises((AssertionError, TypeError, AttributeError, IndexError, RuntimeError, ValueError)):
        run(one.starter.replace("raise NotImplementedError", "return torch.zeros(())"), hidden)


def test_every_chapter_has_one_and_every_file_its_exercise():
    found = {path.stem: [e.label for e in student.exercises(path)] for path in notebooks()}
    assert all(set(labels) & set(LABELS) for labels in found.values())
    assert set(LABELS) <= {label for labels in found.values() for label in labels}


def test_solution_and_hidden_tests_are_told_apart(tmp_path):
    (tmp_path / "one.py").write_text(FILE)
    one = code_exercises.find("one", tmp_path)
    assert one.starter.endswith("    # your code here\n    raise NotImplementedError")
    assert one.visible_tests == "assert one()" and one.all_tests.endswith("assert one() == 1")
    assert one.solution.endswith("    return 1") and code_exercises.find("two", tmp_path) is None


@pytest.mark.parametrize("lost", ["# %% tests", "### BEGIN SOLUTION", "### END HIDDEN TESTS", '"""One."""\n\n'])
def test_a_file_of_another_form_is_refused(tmp_path, lost):
    (tmp_path / "one.py").write_text(FILE.replace(lost, "", 1))
    with pytest.raises(DataFreeError, match="is not an exercise"):
        code_exercises.find("one", tmp_path)
