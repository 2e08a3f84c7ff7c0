"""What each operation of a traced network does to the channels that pass through it.

Roles: 'input', 'layer' (Conv2d, Linear), 'norm' (BatchNorm), 'act' (elementwise), 'pool' (within a channel),
'mean' (pooling that also flattens), 'same' (values stay, pixels may be dropped or moved), 'flat' (channel -> columns),
'pad' (zero channels are added), 'sum', 'product', 'concat', 'prepared' (arithmetic on the network's input),
'shape' (sizes and constants), 'get_attr', 'output' and 'unknown'.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from ..networks.blocks import CappedReLU, Normalize, PadShortcut

ACTIVATIONS = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky_relu", nn.PReLU: "prelu", nn.SiLU: "silu",
    nn.Hardswish: "hardswish", nn.Hardtanh: "hardtanh", nn.Hardsigmoid: "hardsigmoid", nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh", nn.GELU: "gelu", nn.ELU: "elu", nn.SELU: "selu", nn.CELU: "celu", nn.Mish: "mish",
    CappedReLU: "capped_relu", nn.Softplus: "softplus", nn.Softsign: "softsign", nn.LogSigmoid: "logsigmoid",
}  # fmt: skip
"""Elementwise modules. Functions and methods of the same names count too, in place or not."""

HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu"})
"""Activations with f(s x) = s f(x) for every s > 0: a positive factor may pass through them."""

_ELEMENTWISE = frozenset(ACTIVATIONS.values()) | {"clamp", "clip", "exp", "abs"}
_POOLING = frozenset({
    "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "lp_pool2d", "interpolate", "upsample",
})  # fmt: skip
_SAME = frozenset({"dropout", "dropout2d", "stochastic_depth", "contiguous", "clone", "detach", "to", "float"})
_KEEPS = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.ZeroPad2d)
_FLAT = frozenset({"flatten", "view", "reshape", "squeeze"})
_SHAPE = frozenset({"size", "dim"})
WITHIN = ("norm", "act", "pool", "mean", "same", "flat")
"""What a node may do without mixing channels."""

Modules = dict[str, nn.Module]
Roles = dict[fx.Node, str]


class Tracer(fx.Tracer):
    """Keeps the library's own layers whole, and modules of the kinds `whole`."""

    def __init__(self, whole: tuple[type[nn.Module], ...] = ()):
        super().__init__()
        self.whole = (CappedReLU, Normalize, PadShortcut, *whole)

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, self.whole) or super().is_leaf_module(module, qualified_name)


def of(nodes: list[fx.Node], modules: Modules) -> Roles:
    """The role of every node; `nodes` in the order they run, because some roles depend on those of the operands."""
    roles: Roles = {}
    for node in nodes:
        roles[node] = _role(node, modules, roles)
    return roles


def _is_spatial(index: Any) -> bool:
    """Whether x[index] leaves batch and channels whole."""
    # x[:, :, ...]: batch and channels are untouched
    whole = slice(None)
    return isinstance(index, tuple) and len(index) > 2 and index[:2] == (whole, whole)


def _role(node: fx.Node, modules: Modules, roles: Roles) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op in ("output", "get_attr"):
        return node.op
    if node.op == "call_module":
        return _module_role(modules[node.target])
    return _function_role(node, name_of(modules, node), roles)


def _module_role(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d | nn.Linear):
        return "layer"
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        return "norm" if module.track_running_stats else "unknown"
    if isinstance(module, Normalize):
        return "same"
    if isinstance(module, PadShortcut):
        return "pad"
    if type(module) in ACTIVATIONS:
        return "act"
    if type(module).__module__ in ("torch.nn.modules.pooling", "torch.nn.modules.upsampling"):
        return "pool"
    if isinstance(module, nn.Flatten):
        return "flat" if (module.start_dim, module.end_dim) == (1, -1) else "unknown"
    return "same" if isinstance(module, _KEEPS) else "unknown"


def _function_role(node: fx.Node, name: str, roles: Roles) -> str:
    tensors = [a for a in node.all_input_nodes if roles.get(a) not in ("shape", "get_attr")]
    if name in _SHAPE or (name == "getattr" and node.args[1] in ("shape", "dtype", "device")):
        return "shape"
    if tensors and all(roles[a] == "shape" for a in node.all_input_nodes):
        return "shape"
    if not tensors:
        return "shape"
    if name in ("add", "iadd", "sub", "mul", "imul", "truediv", "div"):
        return _arithmetic_role(node, name, tensors, roles)
    for names, role in ((_ELEMENTWISE, "act"), (_POOLING, "pool"), (_SAME, "same"), ({"cat", "concat"}, "concat")):
        if name in names:
            return role
    return _layout_role(node, name)


def _arithmetic_role(node: fx.Node, name: str, tensors: list[fx.Node], roles: Roles) -> str:
    # torch.add(a, b, alpha=2) is no plain sum
    if "alpha" in node.kwargs or len(node.args) != 2:
        return "unknown"
    if len(tensors) == 2 or node.args[0] is node.args[1]:
        return {"add": "sum", "iadd": "sum", "mul": "product", "imul": "product"}.get(name, "unknown")
    # x / 255 - mean before the first layer
    if roles[tensors[0]] in ("input", "prepared"):
        return "prepared"
    return (
        "act"
        if all(isinstance(a, int | float | fx.Node) for a in node.args) and len(node.all_input_nodes) == 1
        else "unknown"
    )


def _layout_role(node: fx.Node, name: str) -> str:
    given = node.args[1:]
    if name in _FLAT:
        shape = given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given
        start = node.kwargs.get("start_dim", given[0] if given else 0)
        # flatten from the channels on, or a view with two sizes: [N, C H W]
        flat = {"flatten": start == 1, "squeeze": True}.get(name, len(shape) == 2)
        return "flat" if flat else "unknown"
    if name == "getitem":
        return "same" if _is_spatial(given[0]) else "unknown"
    if name == "mean":
        dims = given[0] if given else node.kwargs.get("dim")
        spatial = isinstance(dims, tuple | list) and set(dims) in ({2, 3}, {-1, -2})
        return "unknown" if not spatial else "pool" if node.kwargs.get("keepdim") else "mean"
    if name == "pad" and given and len(given[0]) <= 4 and not any(given[1:]):
        return "same"
    return "unknown"


def name_of(modules: Modules, node: fx.Node) -> str:
    """'relu' for nn.ReLU, F.relu and .relu_() alike; a module of another kind goes by its class."""
    if node.op == "call_module":
        kind = type(modules[node.target])
        return ACTIVATIONS.get(kind, kind.__name__)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return name if name.startswith("__") else name.rstrip("_")
