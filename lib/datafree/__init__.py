"""Compression without data: four papers on one library."""

from .api import Result, compress
from .errors import DataFreeError
from .papers.frandi.compression import FRanDI
from .papers.frandi.quantization import FRanDIQuantization
from .papers.knowledge_within.calibration import KnowledgeWithin
from .papers.knowledge_within.synthesis import SynthesisConfig
from .papers.layerwise.pruning import LayerWisePruning
from .papers.layerwise.quantization import LayerWise
from .papers.udfc.compression import UDFC

__version__ = "0.1.0"
__all__ = [
    "DataFreeError", "FRanDI", "FRanDIQuantization", "KnowledgeWithin", "LayerWise", "LayerWisePruning", "Result",
    "SynthesisConfig", "UDFC", "compress",
]  # fmt: skip
