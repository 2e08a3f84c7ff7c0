"""Compression without data: four papers on one library."""

from . import torchvision_shim as _shim

_shim.install()

from . import bn, data, evaluate, models, params, quantize, records  # noqa: E402
from .compress import Result, compress  # noqa: E402
from .errors import DataFreeError  # noqa: E402
from .papers.knowledge_within import KnowledgeWithin, SynthesisConfig  # noqa: E402

__version__ = "0.1.0"
__all__ = [
    "DataFreeError", "KnowledgeWithin", "Result", "SynthesisConfig",
    "bn", "compress", "data", "evaluate", "models", "params", "quantize", "records",
]  # fmt: skip
