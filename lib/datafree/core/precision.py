"""What this processor does well: bf16 where it has it, checked, never assumed."""

from __future__ import annotations

import torch

from ..config import Precision


def bf16_pays() -> bool:
    """True on CPUs with bf16 instructions; elsewhere autocast only loses time."""
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(test() for test in tests if test)


def uses_bf16(precision: Precision) -> bool:
    """Whether passes of this precision multiply in bfloat16."""
    return precision == "bf16" or (precision == "auto" and bf16_pays())


def autocast(enabled: bool):
    """bf16 autocast on the CPU, or nothing."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)
