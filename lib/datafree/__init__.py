"""Compression without data: four papers on one library.

    model  = datafree.load("resnet20")
    images = datafree.images("cifar10-stub", split="test")
    result = datafree.compress(model, datafree.UDFC(prune_ratio=0.3, repair="gaussian"))
    datafree.evaluate(result.model, images)

What is named here is imported when it is first used (PEP 562), so that `import datafree` costs nothing.
"""

import importlib
import importlib.util

from .errors import DataFreeError as DataFreeError

__version__ = "0.1.0"

CALLS = {
    "Result": "core.register.Result",
    "compress": "api.compress",
    "evaluate": "api.evaluate",
    "export": "export.export",
    "images": "data.sources.load_images",
    "load": "networks.weights.load_network",
    "load_compressed": "api.load_compressed",
    "save_compressed": "api.save_compressed",
}
"""Name here -> where it is defined. The configurations of the methods come on top, from their register."""


def _configurations() -> dict[str, type]:
    """Name -> class of the settings of each method of each paper."""
    methods = importlib.import_module(".api", __name__).METHODS
    return {method.config.__name__: method.config for method in methods.values()}


def __getattr__(name: str):
    if name in CALLS:
        module, _, attribute = CALLS[name].rpartition(".")
        return getattr(importlib.import_module(f".{module}", __name__), attribute)
    # `from datafree import files` asks here first: a module is never searched for among the settings.
    if name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}"):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    configurations = _configurations()
    if name not in configurations:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'; settings: {', '.join(configurations)}")
    return configurations[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *CALLS, *_configurations()})
