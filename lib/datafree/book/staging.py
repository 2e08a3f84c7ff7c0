"""From an executed notebook to a page of the book: what a reader needs is in sight, the rest is folded or gone.

Nothing that was computed changes. The notebook as it is opens in Jupyter; the page adds what stands elsewhere: the code
of the library, numbers of the records, the chapter's head and its audit.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataFreeError
from . import code_exercises, library_source, markdown

COLUMNS = 88
"""Width of code on a page."""

REPOSITORY = "https://github.com/datafree-book/datafree/blob/main"

Cell = dict[str, Any]


def staged(notebook: dict) -> dict:
    """The notebook as a page: code of the library drawn, bookkeeping folded or gone."""
    known = imports(notebook["cells"])
    story = [without_chatter(cell) for cell in notebook["cells"] if not _unseen(cell)]
    cells = [part for cell in story for part in with_sources(cell, known)]
    cells = [without_cited_numbers(wrapped(cell)) for cell in cells]
    return notebook | {"cells": joined(list(folded(cells, known)))}


def text_of(cell: Cell) -> str:
    """The source of a cell, which notebooks keep as text or as a list of lines."""
    return "".join(cell["source"])


def parsed(source: str) -> ast.Module:
    """The syntax tree of a cell; an empty one where it is not plain Python (a line of magic)."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


def imports(cells: list[Cell]) -> dict[str, str]:
    """Name -> what it stands for, for all that the cells import with absolute names."""
    known: dict[str, str] = {}
    for cell in cells:
        for node in ast.walk(parsed(text_of(cell))) if cell["cell_type"] == "code" else ():
            if isinstance(node, ast.ImportFrom) and not node.level:
                known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            if isinstance(node, ast.Import):
                known |= {alias.asname or alias.name: alias.name for alias in node.names}
    return known


def _unseen(cell: Cell) -> bool:
    """Whether the cell only gets the library, or only writes the record."""
    launches = "launch" in cell["metadata"].get("tags", [])
    return launches or (cell["cell_type"] == "code" and text_of(cell).strip() == "chapter.finish()")


def without_chatter(cell: Cell) -> Cell:
    """The cell without what its last call returns in plain text, which is no part of the story; nor does the cell that
    begins a chapter show the line it prints, since the end of the page has all of that and more.
    """
    if cell["cell_type"] != "code":
        return cell
    begins = "chapters.begin(" in text_of(cell)
    return cell | {"outputs": [] if begins else [o for o in cell["outputs"] if not _returned(o)]}


def _returned(output: dict[str, Any]) -> bool:
    return output.get("output_type") == "execute_result" and set(output["data"]) == {"text/plain"}


# The code of the library ----------------------------------------------------------------------------------------------


def with_sources(cell: Cell, known: dict[str, str]) -> Iterator[Cell]:
    """The cell without its calls of `show.source`; what they show comes before it, drawn from the library as it is now."""
    calls = list(_source_calls(cell))
    if not calls:
        yield cell
        return
    lines = text_of(cell).splitlines()
    shown = [argument for call in calls for argument in call.value.args]
    for argument in shown:
        yield markdown_cell(source_box(library_source.find(_dotted(argument, known))))
    gone = {n for call in calls for n in range(call.lineno, call.end_lineno + 1)}
    rest = "\n".join(line for n, line in enumerate(lines, 1) if n not in gone).strip("\n")
    if rest:
        yield cell | {"source": rest, "outputs": _without_sources(cell["outputs"], len(shown))}


def _source_calls(cell: Cell) -> Iterator[ast.Expr]:
    for node in parsed(text_of(cell)).body if cell["cell_type"] == "code" else ():
        if isinstance(node, ast.Expr) and ast.unparse(node).startswith("show.source("):
            yield node


def _without_sources(outputs: list[dict], count: int) -> list[dict]:
    """The outputs without the first `count` pieces of Markdown, which show the code."""
    kept = []
    for output in outputs:
        if count and "text/markdown" in output.get("data", {}):
            count -= 1
        else:
            kept.append(output)
    return kept


def _dotted(node: ast.AST, known: dict[str, str]) -> str:
    name = ast.unparse(node)
    first, _, rest = name.partition(".")
    if first not in known:
        raise DataFreeError(f"a chapter shows the code of '{name}', but imports no '{first}'; import it by name.")
    return ".".join(filter(None, (known[first], rest)))


def source_box(source: library_source.Source) -> str:
    """A function as Markdown: its name and what it computes, where it stands, its arguments folded, its code."""
    return markdown.page("source", source=source, code=formatted(source.code), repository=REPOSITORY)


def markdown_cell(source: str) -> Cell:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


# The width of code ----------------------------------------------------------------------------------------------------


def wrapped(cell: Cell) -> Cell:
    """The same cell with its statements of more than 88 columns broken as a formatter would break them."""
    source = text_of(cell)
    if cell["cell_type"] != "code" or not _wide(source):
        return cell
    return cell | {"source": formatted(source)}


def _wide(source: str) -> bool:
    return any(len(line) > COLUMNS for line in source.splitlines())


def formatted(source: str) -> str:
    """Python with its wide statements reformatted to 88 columns; all others stay as they are written."""
    source = _comments_above(source)
    lines, pieces, done = source.splitlines(), [], 0
    for node in parsed(source).body if _wide(source) else ():
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        mine = "\n".join(lines[first : node.end_lineno])
        if first >= done and _wide(mine):
            pieces += [*lines[done:first], _by_ruff(mine)]
            done = node.end_lineno
    return "\n".join([*pieces, *lines[done:]])


def _comments_above(source: str) -> str:
    """Python in which a comment that makes its line too wide stands above the line."""
    lines = []
    for line in source.splitlines():
        code, sign, comment = line.partition("  # ")
        if len(line) > COLUMNS >= len(code) and sign and '"' not in comment and "'" not in comment:
            lines.append(code[: len(code) - len(code.lstrip())] + f"# {comment}")
            line = code
        lines.append(line)
    return "\n".join(lines)


@functools.cache
def _by_ruff(source: str) -> str:
    options = ["format", "--isolated", "--line-length", str(COLUMNS), "--stdin-filename", "cell.py", "-"]
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, *options], input=source + "\n", capture_output=True, text=True)
    return done.stdout.rstrip("\n") if done.returncode == 0 else source


# What is folded -------------------------------------------------------------------------------------------------------

SETTING_UP = "Set-up: imports, network, images"
READER_TOOLS = ("datafree.book", "datafree.evidence", "datafree.DataFreeError")
"""What of the library only draws, keeps or compares."""


def joined(cells: list[Cell]) -> list[Cell]:
    """The cells with neighbours that both set up, and show nothing, as one."""
    found: list[Cell] = []
    for cell in cells:
        last = found[-1] if found else None
        if last and _sets_up(last) and _sets_up(cell):
            found[-1] = last | {"source": text_of(last).rstrip() + "\n\n" + text_of(cell)}
        else:
            found.append(cell)
    return found


def _sets_up(cell: Cell) -> bool:
    return cell["metadata"].get("mystnb", {}).get("code_prompt_show") == SETTING_UP and not cell["outputs"]


def folded(cells: list[Cell], known: dict[str, str]) -> Iterator[Cell]:
    """The cells, folded where they are no part of the story, with words on the fold that say what is inside."""
    heading = ""
    for cell in cells:
        if cell["cell_type"] == "markdown":
            headings = re.findall(r"^#+ +(.*)$", text_of(cell), re.M)
            heading = headings[-1] if headings else heading
        words = words_on_fold(cell, heading, known)
        yield hidden(cell, words) if words else cell


def words_on_fold(cell: Cell, heading: str, known: dict[str, str]) -> str | None:
    """What the fold of a cell says; None for a cell that stays in sight."""
    source, tags = text_of(cell), cell["metadata"].get("tags", [])
    if cell["cell_type"] != "code":
        return None
    if "parameters" in tags:
        return "Change me: parameters"
    body = parsed(source).body
    if "chapters.begin(" in source or (body and all(isinstance(n, ast.Import | ast.ImportFrom) for n in body)):
        return SETTING_UP
    if body and all(_keeps(node) for node in body):
        return "Kept in the record"
    if re.match(r"Check\b", heading):
        return "Code of the check"
    return None if _computes(body, known) else _drawing(source)


def _keeps(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith("chapter.metric(")


def _computes(body: list[ast.stmt], known: dict[str, str]) -> bool:
    """Whether the code uses what the library computes with."""
    names = {node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)}
    full = (known.get(name, "") for name in names)
    return any(name.startswith("datafree") and not name.startswith(READER_TOOLS) for name in full)


def _drawing(source: str) -> str | None:
    for sign, words in (("plots.show(", "Code of the figure"), ("show.table(", "Code of the table")):
        if sign in source:
            return words
    return None


def hidden(cell: Cell, words: str) -> Cell:
    """The cell with its code behind a fold."""
    tags = [*cell["metadata"].get("tags", []), "hide-input"]
    folds = {"tags": tags, "mystnb": {"code_prompt_show": words, "code_prompt_hide": words}}
    return cell | {"metadata": cell["metadata"] | folds}


# Prose ----------------------------------------------------------------------------------------------------------------

TASK = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{(?P<kind>exercise|solution)\} *(?P<title>[^\n]*)\n(?P<body>.*?)^(?P=fence) *$",
    re.M | re.S,
)
_OPTION = re.compile(r"^:(\w+): *(.*)\n", re.M)
_CITED = re.compile(r"\s*\\quad\s*\\text\{\(eqs?\. [^)]*\)\}")


def task(match: re.Match) -> tuple[str, str]:
    """The label of an exercise, or of the one that a solution solves; and the text without its options."""
    options = dict(_OPTION.findall(match["body"]))
    return options.get("label", match["title"].strip()), _OPTION.sub("", match["body"]).strip()


def with_exercises(cells: list[Cell], chapter: int, level: Callable[[str], int]) -> list[Cell]:
    """The cells with exercises and solutions in the book's form: numbered N.k, with how hard they are.

    Args:
        level: label of an exercise -> 1, 2 or 3.
    """
    numbers: dict[str, str] = {}

    def shown(match: re.Match) -> str:
        label, text = task(match)
        if match["kind"] == "exercise":
            numbers[label] = f"{chapter}.{len(numbers) + 1}"
        hard = level(label) if match["kind"] == "exercise" else None
        box = {"title": match["title"].strip(), "label": label, "number": numbers[label], "level": hard}
        code = code_exercises.find(label) if match["kind"] == "exercise" else None
        if code is None:
            return markdown.page(match["kind"], text=text, **box).rstrip()
        task_box = markdown.page("exercise", text=f"{text}\n\n{code_task(code)}", **box)
        return f"{task_box}\n{markdown.page('solution', text=code_solution(code), **box)}".rstrip()

    return [
        cell | {"source": TASK.sub(shown, text_of(cell))} if cell["cell_type"] == "markdown" else cell for cell in cells
    ]


def code_task(one: code_exercises.CodeExercise) -> str:
    """What is to be written, and the tests that everybody sees, as Markdown."""
    return f"```python\n{one.starter}\n```\n\nThis must hold, and more:\n\n```python\n{one.visible_tests}\n```"


def code_solution(one: code_exercises.CodeExercise) -> str:
    """The solution and all tests, as Markdown."""
    return f"```python\n{one.solution}\n```\n\nAll tests:\n\n```python\n{one.all_tests}\n```"


def without_cited_numbers(cell: Cell) -> Cell:
    """Equations without '(eq. 1)' in their text: the page numbers them as the paper does."""
    return cell | {"source": _CITED.sub("", text_of(cell))} if cell["cell_type"] == "markdown" else cell


_HEAD = re.compile(r"(?P<targets>(?:\([\w-]+\)=\n)*)# +(?P<title>[^\n]*)\n(?P<rest>.*)", re.S)
_SECTIONS = re.compile(r"\*\*Paper sections\*\* (.*?)\s*$", re.M)
_RUN_TIME = re.compile(r"^\*\*Run time\*\*.*\n?", re.M)


def with_head(cells: list[Cell], **content: Any) -> list[Cell]:
    """The cells with the first one as the head of the chapter: number and title, result, a strip of facts, goals, opening.

    Raises:
        DataFreeError: the first cell does not begin with a title.
    """
    match = _HEAD.match(text_of(cells[0])) if cells and cells[0]["cell_type"] == "markdown" else None
    if match is None:
        raise DataFreeError("the first cell of a chapter must be Markdown that begins with its title, '# ...'.")
    sections = _SECTIONS.search(match["rest"])
    opening = _RUN_TIME.sub("", match["rest"]).replace("**What this chapter shows.** ", "").strip()
    head = markdown.page(
        "chapter_head", targets=match["targets"], title=match["title"], opening=opening,
        sections=sections[1].rstrip(".") if sections else "", **content,
    )  # fmt: skip
    return [markdown_cell(head), *cells[1:]]


_CLOSING = re.compile(r"^(?=## (?:Paper against here|Summary)\b)", re.M)


def before_closing(cells: list[Cell], text: str) -> list[Cell]:
    """The cells with `text` before the sections that close a chapter; at the end where there are none."""
    for k, cell in enumerate(cells):
        parts = _CLOSING.split(text_of(cell), maxsplit=1) if cell["cell_type"] == "markdown" else []
        if len(parts) == 2:
            around = [markdown_cell(part) for part in (parts[0].rstrip(), text, parts[1]) if part]
            return [*cells[:k], *around, *cells[k + 1 :]]
    return [*cells, markdown_cell(text)]
