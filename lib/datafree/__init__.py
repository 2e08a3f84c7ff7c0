"""Compression without data: four papers on one library."""

from . import torchvision_shim as _shim

_shim.install()

from . import data, evaluate, models, params, records  # noqa: E402
from .errors import DataFreeError  # noqa: E402

__version__ = "0.1.0"
