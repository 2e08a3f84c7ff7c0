"""Short settings of each method, for `datafree compress`: under two minutes for a ResNet-20 on a laptop.

They show what a method does. How good it can be takes the papers' own numbers of images and steps, which are the
defaults of the methods' classes and of `datafree compress --paper`.
"""

from __future__ import annotations

from collections.abc import Mapping

FRANDI = {"synthesis.images": "64", "synthesis.steps": "200", "recovery.steps": "100", "recovery.batch": "32"}

SHORT: dict[str, dict[str, str]] = {
    "knowledge_within": {"images": "128", "batch": "128", "steps": "20", "synthesis_steps": "80", "copies": "1"},
    "layer_wise": {},
    "layer_wise_pruning": {},
    "udfc": {},
    "frandi": FRANDI | {"candidates": "100"},
    "frandi_quantization": FRANDI,
}
"""Method -> settings as -p takes them; those that take no time anyway keep the paper's."""


def with_short(method: str, given: Mapping[str, str]) -> dict[str, str]:
    """The settings that were given, and short ones in place of all others that take long."""
    heads = {name.partition(".")[0] for name in given if "." not in name}
    short = {name: text for name, text in SHORT.get(method, {}).items() if name.partition(".")[0] not in heads}
    return short | dict(given)
