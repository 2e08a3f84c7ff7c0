"""What this machine does well: bf16 where it has it, checked, never assumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from ..config import Precision


def bf16_pays(device: torch.device | str = "cpu") -> bool:
    """True on processors with bf16 instructions, and cards; elsewhere autocast only loses time."""
    if torch.device(device).type != "cpu":
        return torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(test() for test in tests if test)


def uses_bf16(precision: Precision, device: torch.device | str = "cpu") -> bool:
    """Whether passes of this precision multiply in bfloat16 on a device."""
    return precision == "bf16" or (precision == "auto" and bf16_pays(device))


@contextmanager
def autocast(enabled: bool) -> Iterator[None]:
    """bf16 autocast, or none, on the processor and on a CUDA card where there is one."""
    with ExitStack() as both:
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            both.enter_context(torch.autocast(kind, torch.bfloat16, enabled=enabled))
        yield
