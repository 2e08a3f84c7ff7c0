"""Whatever is typed is taken or explained in a sentence: every command, every setting of a method, every parameter."""

import math

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from datafree import api, cli
from datafree.book import parameters
from datafree.config import from_text, group_of, pairs, validate
from datafree.errors import DataFreeError

ODD = ["", " ", "0", "-1", "1e400", "-1e-400", ".nan", "-.inf", "null", "true", "~", "0x10", "9" * 40, "1_000", "1,2,3",
       "1 2 3", "[1, 2]", "{a: 1}", "!!python/object:os.system", "a=b", "--help", "\x00", "\n", "ü書", "../..", "*", "$HOME"]  # fmt: skip
TYPED = st.one_of(st.sampled_from(ODD), st.integers().map(str), st.floats().map(repr), st.text(max_size=12))
UsageError = typer.BadParameter.__base__
COMMANDS = typer.main.get_command(cli.app).commands


def names_of(cls, prefix="") -> list[str]:
    """Every name that -p can set, groups within groups included."""
    found = []
    for name in cls.model_fields:
        inner = group_of(cls, name)
        found += [prefix + name, *(names_of(inner, f"{prefix}{name}.") if inner else [])]
    return found


def numbers_in(value) -> list[float]:
    """All numbers of settings, however deep."""
    if isinstance(value, dict | list | tuple):
        return [n for part in (value.values() if isinstance(value, dict) else value) for n in numbers_in(part)]
    return [value] if isinstance(value, int | float) else []


def taken_or_explained(make, cls) -> None:
    """`make` gives settings that their class would take again, all of them finite, or a sentence."""
    try:
        config = make()
    except DataFreeError as error:
        assert str(error).endswith(".") and "\n" not in str(error).strip()
    else:
        assert cls.model_validate(config.model_dump()) == config
        assert all(map(math.isfinite, numbers_in(config.model_dump())))


@pytest.mark.parametrize("notebook", parameters.NOTEBOOKS)
@settings(max_examples=60)
@given(data=st.data())
def test_every_parameter_of_every_notebook(notebook, data):
    cls = parameters.NOTEBOOKS[notebook]
    typed = data.draw(st.dictionaries(st.sampled_from(names_of(cls)), TYPED, min_size=1, max_size=3))
    taken_or_explained(lambda: parameters.resolve(notebook, "smoke", typed), cls)


@pytest.mark.parametrize("method", api.METHODS)
@settings(max_examples=60)
@given(data=st.data())
def test_every_setting_of_every_method(method, data):
    cls = api.METHODS[method].config
    typed = data.draw(st.dictionaries(st.sampled_from(names_of(cls)), TYPED, min_size=1, max_size=3))
    given_text = [f"{name}={value}" for name, value in typed.items()]
    taken_or_explained(lambda: validate(cls, from_text(cls, pairs(given_text))), cls)


@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=60)
@given(data=st.data())
def test_every_option_of_every_command(command, data):
    """The line is only read; nothing is done."""
    words = [*(opt for p in COMMANDS[command].params for opt in p.opts if opt.startswith("-")), "--unknown"]
    line = data.draw(st.lists(st.one_of(st.sampled_from(words), TYPED), max_size=6))
    try:
        COMMANDS[command].make_context(command, line)
    except UsageError as error:
        assert error.exit_code == 2 and error.format_message()
    except typer.Exit as end:
        assert end.exit_code in (0, 2)
