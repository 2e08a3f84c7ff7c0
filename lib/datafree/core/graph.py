"""Which layer feeds which: the wiring of a network, read by torch.fx, for everything that works layer by layer.

    graph = trace(model)         one symbolic trace in evaluation mode; the model is not changed
    graph.layers                 every Conv2d and Linear in the order they run, with its BatchNorm and activation
    graph.neighbours()           (first, last): all output channels of `first` go to `last` and nowhere else
    graph.pairs()                the same, with whole chains of depthwise convolutions between the two
    graph.feeding(name)          what the input of a layer is made of: a small tree of BatchNorm outputs
    graph.problems()             sentences: what is not handled, and where
    fold_all(model)              a copy in which every BatchNorm behind a convolution is part of it
    inputs_of, input_moments     what layers really receive, to compare with

Names are those of `model.named_modules()`, so they hold in every copy of the model, folded or not.
Operations between layers count by what they do to channels: elementwise activations, pooling and other maps
within a channel keep them apart; additions, products, concatenations and everything unknown end a pair.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial, reduce

import torch
from torch import fx, nn

from ..data.images import ImageSet
from ..errors import DataFreeError
from . import batchnorm, graph_roles
from .hooks import evaluating, input_hooks


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    kind: 'conv', 'depthwise' (one input and one output channel a group), 'grouped' or 'linear'.
    inputs, outputs: channels (features of a linear layer).
    norm: the BatchNorm that alone reads its output, or None.
    act: the activation that alone reads what comes after the norm ('relu', 'silu', ...), or None.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    norm: str | None = None
    act: str | None = None


@dataclass(frozen=True)
class Pair:
    """Every output channel of `first` reaches only `last`, through `middle`, a chain of depthwise convolutions.

    positions: columns of a linear `last` that belong to one channel (1 for convolutions): channel c has
        columns c * positions to (c + 1) * positions - 1.
    acts: all activations on the way, in order; a BatchNorm that cannot be folded counts as 'batch_norm'.
    linear: whether `last` is a linear layer.
    """

    first: str
    middle: tuple[str, ...]
    last: str
    positions: int = 1
    acts: tuple[str, ...] = ()
    linear: bool = False

    @property
    def homogeneous(self) -> bool:
        """Whether a positive factor passes from `first` to `last` unchanged."""
        return all(act in graph_roles.HOMOGENEOUS for act in self.acts)


@dataclass(frozen=True)
class Feed:
    """What feeds a layer, as a tree. `str(feed)` reads like 'relu(bn2 + relu(bn1))'.

    kind: leaves are 'norm' (a BatchNorm's output), 'input' (of the network), 'layer' (the output of a layer
        without BatchNorm) and 'unknown'; inner nodes are 'sum', 'act', 'pool', 'pad' (more channels, zero),
        'concat' and 'product'.
    name: of the module, the activation, or the operation.
    channels: of a leaf; 0 where it is not known.
    terms: the operands of an inner node.
    apply: the activation, pooling or padding as a function of one tensor; None where it needs more than that.
    before, after: channels that 'pad' adds.

    Maps that only move or drop pixels of a channel (dropout, slices, flattening) leave no node.
    """

    kind: str
    name: str
    channels: int = 0
    terms: tuple[Feed, ...] = ()
    apply: Callable[[torch.Tensor], torch.Tensor] | None = field(default=None, compare=False, repr=False)
    before: int = 0
    after: int = 0

    def __str__(self) -> str:
        if self.kind == "sum":
            return " + ".join(map(str, self.terms))
        if self.terms:
            label = self.name if self.kind == "act" else self.kind
            return f"{label}({', '.join(map(str, self.terms))})"
        return self.name if self.kind in ("norm", "input") else f"{self.kind} {self.name}"

    def value(self, leaf: Callable[[Feed], torch.Tensor], spatial: bool = True) -> torch.Tensor:
        """The tree's value, given that of each leaf as [N, C, H, W].

        Args:
            leaf: gives a tensor that may be written over (activations may work in place).
            spatial: apply pooling and strides as the network does; False leaves them out (Layer-Wise,
                section III-B), so that all leaves may have the same height and width.
        """
        if not self.terms:
            return leaf(self)
        terms = [term.value(leaf, spatial) for term in self.terms]
        if self.kind in ("sum", "product"):
            return reduce(operator.add if self.kind == "sum" else operator.mul, terms)
        if self.kind == "concat":
            return torch.cat(terms, 1)
        if not spatial and self.kind == "pool":
            return terms[0]
        if not spatial and self.kind == "pad":
            return nn.functional.pad(terms[0], (0, 0, 0, 0, self.before, self.after))
        if self.apply is None:
            raise DataFreeError(f"'{self.name}' needs more than one tensor, so its value is not known.")
        return self.apply(terms[0])

    def leaves(self) -> Iterator[Feed]:
        """The leaves from left to right."""
        if not self.terms:
            yield self
        for term in self.terms:
            yield from term.leaves()

    def nodes(self) -> Iterator[Feed]:
        """This node and all below it."""
        yield self
        for term in self.terms:
            yield from term.nodes()


def trace(model: nn.Module) -> Graph:
    """The wiring of `model` in evaluation mode; its mode is put back and nothing in it changes.

    Raises:
        DataFreeError: the forward pass depends on values of its input, so it has no fixed wiring.
    """
    try:
        with evaluating(model):
            traced = graph_roles.Tracer().trace(model)
    except Exception as error:  # torch.fx runs the model's own code, which may raise anything
        reason = " ".join(str(error).split())[:200]
        raise DataFreeError(
            f"{type(model).__name__} cannot be traced by torch.fx ({type(error).__name__}: {reason}); "
            "write its forward without branches on values of tensors, or give the part of it that has none."
        ) from None
    return Graph(model, traced)


class Graph:
    """The wiring of one network; see the module's text."""

    def __init__(self, model: nn.Module, graph: fx.Graph):
        self.modules = dict(model.named_modules())
        self.network = type(model).__name__
        self.nodes = list(graph.nodes)
        self.roles = graph_roles.of(self.nodes, self.modules)
        self.uses = Counter(n.target for n in self.nodes if n.op == "call_module")
        self.node_of: dict[str, fx.Node] = {}
        for node in self.nodes:
            if self.roles[node] in ("layer", "norm"):
                self.node_of.setdefault(node.target, node)
        self._feeds: dict[fx.Node, Feed] = {}
        names = [name for name, node in self.node_of.items() if self.roles[node] == "layer"]
        self.layers = [self._layer(name) for name in names]
        self._by_name = {layer.name: layer for layer in self.layers}

    def layer(self, name: str) -> Layer:
        """The layer of that name; DataFreeError where the forward pass uses none."""
        if name not in self._by_name:
            raise DataFreeError(
                f"{self.network} runs no convolution or linear layer '{name}'; it runs {', '.join(self._by_name)}."
            )
        return self._by_name[name]

    def activation(self, name: str) -> str:
        """Name of the module that alone reads what layer `name` and its BatchNorm put out, and acts on each value."""
        layer = self.layer(name)
        reader = self._reader(self.node_of[layer.norm or name])
        if layer.act is None or reader.op != "call_module" or self.uses[reader.target] > 1:
            raise DataFreeError(f"no activation module of its own reads layer '{name}' of {self.network}.")
        return reader.target

    # Layers and pairs -------------------------------------------------------------------------------------------

    def _reader(self, node: fx.Node) -> fx.Node | None:
        """The only node that reads a value, or None; questions about its shape do not count."""
        # x.size() reads no value
        readers = [user for user in node.users if self.roles[user] != "shape"]
        return readers[0] if len(readers) == 1 else None

    def _norm_behind(self, node: fx.Node) -> fx.Node | None:
        reader = self._reader(node)
        found = reader is not None and self.roles[reader] == "norm"
        # a layer that runs twice has two inputs with one BatchNorm: left alone
        return reader if found and self.uses[reader.target] == self.uses[node.target] == 1 else None

    def _layer(self, name: str) -> Layer:
        module, node = self.modules[name], self.node_of[name]
        norm = self._norm_behind(node)
        reader = self._reader(norm or node)
        act = graph_roles.name_of(self.modules, reader) if reader is not None and self.roles[reader] == "act" else None
        if isinstance(module, nn.Linear):
            kind, sizes = "linear", (module.in_features, module.out_features)
        else:
            sizes = module.in_channels, module.out_channels
            # depthwise: one input and one output channel a group
            single = module.groups == sizes[0] == sizes[1]
            kind = "conv" if module.groups == 1 else "depthwise" if single else "grouped"
        return Layer(name, kind, *sizes, norm.target if norm else None, act)

    def _act_module(self, node: fx.Node | None) -> nn.Module | None:
        """The node's activation, where it is a module that runs once."""
        known = node is not None and self.roles[node] == "act" and node.op == "call_module"
        return self.modules[node.target] if known and self.uses[node.target] == 1 else None

    def act_behind(self, name: str) -> tuple[nn.Module | None, bool]:
        """The activation that alone reads the BatchNorm behind a layer, and whether one convolution alone reads that."""
        norm = self.layer(name).norm
        node = self._reader(self.node_of[norm]) if norm else None
        act = self._act_module(node)
        following = next(iter(node.users)) if act is not None and len(node.users) == 1 else None
        alone = following is not None and following.op == "call_module"
        return act, alone and isinstance(self.modules[following.target], nn.Conv2d)

    def acts_behind_sums(self) -> list[nn.Module]:
        """Activations that alone read the sum of two maps."""
        sums = [node for node in self.nodes if self.roles[node] == "sum" and len(node.users) == 1]
        return [act for node in sums if (act := self._act_module(next(iter(node.users)))) is not None]

    def _next(self, name: str) -> Pair | None:
        """The one layer that reads all channels of `name`, and what lies between."""
        start = self.node_of[name]
        flat, acts, norm = self._by_name[name].kind == "linear", [], self._by_name[name].norm
        node = self._reader(start)
        while node is not None and self.roles[node] in graph_roles.WITHIN:
            # behind flattening, the next layer must be a linear one
            flat |= self.roles[node] in ("flat", "mean")
            if self.roles[node] == "act":
                acts.append(graph_roles.name_of(self.modules, node))
            if self.roles[node] == "norm" and node.target != norm:
                # a second BatchNorm in a row cannot be folded; it stands between as an operation of its own
                acts.append("batch_norm")
            node = self._reader(node)
        if node is None or self.roles[node] != "layer":
            return None
        last, outputs = self._by_name[node.target], self._by_name[name].outputs
        linear = last.kind == "linear"
        # weights used twice cannot be scaled for one place; columns must be whole channels
        if self.uses[name] > 1 or self.uses[last.name] > 1 or linear != flat or last.inputs % outputs:
            return None
        return Pair(name, (), last.name, last.inputs // outputs, tuple(acts), linear)

    def neighbours(self) -> list[Pair]:
        """All pairs without anything in the middle, in the order of their first layers; depthwise layers count."""
        return [pair for layer in self.layers if (pair := self._next(layer.name))]

    def pairs(self) -> list[Pair]:
        """Chains from a layer that mixes channels, through depthwise convolutions, to the next one that mixes them."""
        after = {pair.first: pair for pair in self.neighbours()}
        found = []
        for layer in self.layers:
            pair = after.get(layer.name) if layer.kind != "depthwise" else None
            while pair and self.layer(pair.last).kind == "depthwise":
                step = after.get(pair.last)
                # a depthwise layer carries each channel through: the chain goes on behind it
                middle = (*pair.middle, pair.last)
                pair = step and Pair(pair.first, middle, step.last, step.positions, pair.acts + step.acts, step.linear)
            if pair:
                found.append(pair)
        return found

    # What feeds a layer -----------------------------------------------------------------------------------------

    def feeding(self, name: str) -> Feed:
        """What the input of layer `name` is made of (at its first use, where it is used twice)."""
        self.layer(name)
        return self._feed(self.node_of[name].args[0])

    def _feed(self, node: fx.Node) -> Feed:
        if node not in self._feeds:
            self._feeds[node] = self._make_feed(node)
        return self._feeds[node]

    def _make_feed(self, node: fx.Node) -> Feed:
        role, name = self.roles[node], graph_roles.name_of(self.modules, node)
        if role in ("input", "prepared"):
            return Feed("input", "input")
        if role == "norm":
            return Feed("norm", node.target, self.modules[node.target].num_features)
        if role == "layer":
            return Feed("layer", node.target, self._by_name[node.target].outputs)
        operands = node.args[0] if role == "concat" else node.args
        terms = tuple(self._feed(a) for a in operands if isinstance(a, fx.Node) and self.roles[a] != "shape")
        if role in ("same", "flat"):
            return terms[0]
        if role in ("sum", "product", "concat"):
            return Feed(role, self._place(node), terms=terms)
        if role in ("act", "pool", "mean"):
            return Feed("act" if role == "act" else "pool", name, terms=terms[:1], apply=self._callable(node))
        if role == "pad":
            module = self.modules[node.target]
            return Feed("pad", name, terms=terms, apply=module, before=module.before, after=module.after)
        return Feed("unknown", f"{node.name} ({name})")

    def _callable(self, node: fx.Node) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """The node's operation on its one tensor, with its constants bound."""
        if node.op == "call_module":
            return self.modules[node.target]
        if any(isinstance(a, fx.Node) for a in (*node.args[1:], *node.kwargs.values())):
            return None
        first = node.args[0]
        # the constant stands first
        if not isinstance(first, fx.Node):  # 2 * x
            return partial(node.target, first)
        if node.op == "call_method":
            return lambda x: getattr(x, node.target)(*node.args[1:], **node.kwargs)
        return lambda x: node.target(x, *node.args[1:], **node.kwargs)

    def sums(self) -> list[Feed]:
        """What each addition of two branches puts out, in their order; with the activation that alone reads it."""
        return [self._feed(_end_of_sum(node, self.roles)) for node in self.nodes if self.roles[node] == "sum"]

    # What is not handled ----------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """One sentence for each kind of thing that is not handled or left out, with the names of the places."""
        places: dict[str, list[str]] = {}
        for found in (self._module_problems(), self._norm_problems(), self._node_problems(), self._feed_problems()):
            for sentence, name in found:
                if name not in places.setdefault(sentence, []):
                    places[sentence].append(name)
        return [f"{sentence}: {_listed(names)}." for sentence, names in places.items()]

    def _module_problems(self) -> Iterator[tuple[str, str]]:
        norms = nn.BatchNorm2d | nn.BatchNorm1d
        for name, module in self.modules.items():
            if not isinstance(module, nn.Conv2d | nn.Linear | norms):
                continue
            if self.uses[name] > 1:
                yield "left as they are, because they run more than once with the same weights", name
            elif not self.uses[name]:
                yield "left as they are, because the forward pass does not reach them", name
            if not isinstance(module, norms) and "weight" not in module._parameters:
                yield "weights computed from other parameters; remove that parametrization first", name
        first_owner: dict[int, str] = {}
        for layer in self.layers:
            owner = first_owner.setdefault(id(self.modules[layer.name].weight), layer.name)
            if owner != layer.name:
                yield f"weights shared with '{owner}', so that changing one changes the other", layer.name
            if layer.kind == "grouped":
                yield "channels not pruned, because the groups are neither one nor depthwise", layer.name

    def _norm_problems(self) -> Iterator[tuple[str, str]]:
        folded = {layer.norm for layer in self.layers}
        for name, node in self.node_of.items():
            if self.roles[node] == "norm" and name not in folded and self.uses[name] == 1:
                yield "BatchNorm not fused, because it does not stand alone behind one convolution", name

    def _node_problems(self) -> Iterator[tuple[str, str]]:
        sentences = {
            "concat": "channels before a concatenation are neither equalised nor pruned",
            "product": "channels before a product of activations (squeeze-and-excite?) are neither equalised nor pruned",
        }
        for node in self.nodes:
            role, where = self.roles[node], self._place(node)
            if role in sentences:
                yield sentences[role], where
            elif role == "unknown":
                yield (
                    f"{graph_roles.name_of(self.modules, node)} is not understood, so nothing is carried through it",
                    where,
                )

    def _place(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return node.target
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        return f"{stack[-1][0]}.{node.name}".lstrip(".") if stack else node.name

    def _feed_problems(self) -> Iterator[tuple[str, str]]:
        for layer in self.layers:
            if any(leaf.kind == "layer" for leaf in self.feeding(layer.name).leaves()):
                yield "moments of the input not known, because a layer without BatchNorm feeds it", layer.name


def _listed(names: list[str], most: int = 3) -> str:
    """'a', 'b', 'c' and 4 more."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


@torch.no_grad()
def fold_all(model: nn.Module, graph: Graph | None = None) -> nn.Module:
    """A copy in evaluation mode in which each BatchNorm that alone reads a layer is part of that layer's weight.

    Equal to `model` in evaluation mode. Where a BatchNorm was, nn.Identity is left, so all names stay.
    BatchNorm layers that `Graph.problems` names are kept.
    """
    graph = graph or trace(model)
    folded = copy.deepcopy(model).eval()
    for layer in graph.layers:
        if layer.norm:
            parts = folded.get_submodule(layer.name), folded.get_submodule(layer.norm)
            put_module(folded, layer.name, batchnorm.fold(*parts).eval())
            put_module(folded, layer.norm, nn.Identity())
    return folded


def _end_of_sum(node: fx.Node, roles: graph_roles.Roles) -> fx.Node:
    """The activation behind an addition, if nothing else reads the sum; else the sum itself."""
    readers = [user for user in node.users if roles[user] != "shape"]
    return readers[0] if len(readers) == 1 and roles[readers[0]] == "act" else node


def behind_sums(model: nn.Module, make: Callable[[], nn.Module], whole: tuple[type[nn.Module], ...] = ()) -> nn.Module:
    """`model` with a module of its own behind each of `Graph.sums`: sums.0, sums.1, ...; all other names stay.

    Args:
        model: its modules are taken over, not copied.
        make: makes one of the new modules.
        whole: kinds of modules that torch.fx is not to look into.
    """
    with evaluating(model):
        traced = graph_roles.Tracer(whole=whole).trace(model)
    roles = graph_roles.of(list(traced.nodes), dict(model.named_modules()))
    ends = [_end_of_sum(node, roles) for node in traced.nodes if roles[node] == "sum"]
    if not ends:
        return model
    model.sums = nn.ModuleList(make() for _ in ends)
    for k, end in enumerate(ends):
        with traced.inserting_after(end):
            rounded = traced.call_module(f"sums.{k}", (end,))
        end.replace_all_uses_with(rounded, lambda user, own=rounded: user is not own)
    return fx.GraphModule(model, traced).train(model.training)


def put_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the one named, in place."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def replaced(model: nn.Module, names: Iterable[str], make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy of `model` in evaluation mode with `make(module)` in the place of each named module."""
    copied = copy.deepcopy(model)
    for name in names:
        put_module(copied, name, make(copied.get_submodule(name)))
    return copied.eval()


@torch.no_grad()
def inputs_of(model: nn.Module, names: Iterable[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the named modules receive when the network gets x."""
    seen: dict[str, torch.Tensor] = {}

    def note(name: str, value: torch.Tensor) -> None:
        seen[name] = value.clone()  # a layer behind may work in place

    with input_hooks(model, names, note), evaluating(model):
        model(x)
    return seen


@torch.no_grad()
def input_moments(model: nn.Module, names: Iterable[str], images: ImageSet, batch: int = 250) -> batchnorm.NamedMoments:
    """Mean and variance of each channel (or column of a linear layer) that the named modules receive, over `images`."""
    sums: dict[str, list] = {}

    def note(name: str, value: torch.Tensor) -> None:
        dims = [d for d in range(value.ndim) if d != 1]  # all but the channels
        # sums of the values and of their squares, and how many there are: they add up over batches
        parts = (value.sum(dims).double(), value.square().sum(dims).double(), value.numel() // value.shape[1])
        sums[name] = [a + b for a, b in zip(sums.get(name, (0, 0, 0)), parts)]

    with input_hooks(model, names, note), evaluating(model):
        for x, _ in images.batches(batch):
            model(x)
    means = {name: (first / n, second / n) for name, (first, second, n) in sums.items()}
    return {name: batchnorm.Moments(m.float(), (q - m.square()).clamp_min(0).float()) for name, (m, q) in means.items()}
