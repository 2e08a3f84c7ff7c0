"""Values written as text: scalars of the command line, triples, and YAML files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from .errors import DataFreeError

_CORE = (
    (re.compile(r"(?i:true)"), lambda text: True),
    (re.compile(r"(?i:false)"), lambda text: False),
    (re.compile(r"(?i:null|~|)"), lambda text: None),
    (re.compile(r"[-+]?\d{1,30}"), int),
    (re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"), float),
    (re.compile(r"(?i:[-+]?\.?(?:inf|infinity|nan))"), lambda text: float(text.replace(".", ""))),
)


def scalar(text: str) -> bool | int | float | str | None:
    """What `text` means by the scalars of YAML 1.2: true, null, 3, 1e-3, .nan; anything else is text."""
    for pattern, convert in _CORE:
        if pattern.fullmatch(text):
            return convert(text)
    return text


def triple(text: str) -> tuple[float, ...] | None:
    """Three numbers from a parameter such as '0.485 0.456 0.406'; None where it is empty."""
    return tuple(float(part) for part in text.replace(",", " ").split()) or None


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((k for i, k in enumerate(keys) if k in keys[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key '{twice}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; DataFreeError naming the file (and line) where it cannot be read."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise DataFreeError(f"'{path}'{line} is not valid YAML ({getattr(error, 'problem', error)}).") from None
    except (OSError, UnicodeDecodeError, TypeError) as error:
        raise DataFreeError(f"'{path}' cannot be read ({error}).") from None
