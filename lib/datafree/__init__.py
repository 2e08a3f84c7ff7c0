"""Compression without data: four papers on one library."""

from . import bn, data, evaluate, models, params, quantize, records
from .compress import Result, compress
from .errors import DataFreeError
from .papers.frandi import FRanDI
from .papers.frandi_quantization import FRanDIQuantization
from .papers.knowledge_within import KnowledgeWithin, SynthesisConfig
from .papers.layerwise_pruning import LayerWisePruning
from .papers.layerwise_quantization import LayerWise
from .papers.udfc import UDFC

__version__ = "0.1.0"
__all__ = [
    "DataFreeError", "FRanDI", "FRanDIQuantization", "KnowledgeWithin", "LayerWise", "LayerWisePruning", "Result",
    "SynthesisConfig", "UDFC", "bn", "compress", "data", "evaluate", "models", "params", "quantize", "records",
]  # fmt: skip
