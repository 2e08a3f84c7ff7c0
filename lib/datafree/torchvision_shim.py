"""Make `import torchvision` work where torch is a CPU build and torchvision's wheel is not.

There torchvision cannot register its C++ operators and its import stops at
'operator torchvision::nms does not exist'. The book needs none of these operators, only models,
transforms and data sets. With matching builds nothing is changed.
"""

from __future__ import annotations

import sys

_library = None


def install() -> bool:
    """Import torchvision, defining the schemas of `nms` and `qnms` only if the import fails without them.

    Returns:
        True where the shim was needed, False where the builds match or torchvision is absent.
    """
    global _library
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return False
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torch

        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401

        return True
    return False
