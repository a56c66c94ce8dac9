"""From ``torch.export`` to our own graph: the only file that knows what an exported program looks like."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from brittle import axes, lowering, ops
from brittle.averaging import Averaged
from brittle.composites import expressed
from brittle.errors import NotCertified
from brittle.graph import Batch, Graph, Node, Ref, references
from brittle.heads import spelled
from brittle.network import Network, copied, read_logits

ALIASES = {
    "alias", "clone", "contiguous", "detach", "detach_", "identity", "lift_fresh", "lift_fresh_copy", "positive", "to", "_to_copy",
    "type_as", "dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout",
}  # fmt: skip
RESHAPES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"}
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
LAST = 2**63 - 1  # the end of a slice that has none
FIRST = {
    "max",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "max_pool2d_with_indices",
    "native_layer_norm",
    "native_group_norm",
}
SPLITS = {"split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk"}


class _Logits(nn.Module):
    """What is exported: values in, logits out, whatever container the module returns."""

    def __init__(self, module: Callable, keywords: tuple[str, ...] | None) -> None:
        super().__init__()
        self.module = module
        self.keywords = keywords

    def forward(self, values: tuple[Tensor, ...]) -> Tensor:
        if self.keywords is None:
            return read_logits(self.module(values[0]))
        return read_logits(self.module(**dict(zip(self.keywords, values, strict=True))))


def export(network: Network, values: dict[str, Tensor], keywords: tuple[str, ...] | None) -> Graph:
    """The graph of ``network.double``; ``values`` are its inputs by leaf, ``keywords`` their names if it takes keywords."""
    leaves, reasons = tuple(values), []
    count = len(next(iter(values.values())))
    pair = tuple(torch.cat([v[:1], v[:1]]) for v in values.values())  # a batch of 1 cannot be made dynamic
    free = tuple({0: torch.export.Dim.AUTO} for _ in leaves)
    for example, dynamic, strict in ((pair, free, False), (pair, free, True), (tuple(values.values()), None, False)):
        try:
            module = _Logits(copied(network.double), keywords)
            with _silence(), torch.no_grad(), spelled(module):
                shapes = None if dynamic is None else (dynamic,)
                program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=strict)
                if any(_in_place(n) for n in program.graph.nodes):
                    program = program.run_decompositions({})
                size = _batch_size(program)
                if size is None or size == count:
                    _compare(program, network, keywords, tuple(values.values()))
                    graph = _translate(program, leaves, _canonical_names(network.double), size)
                    written = expressed(graph)
                    unrolled = any(_op_name(n)[0] in lowering.RECURRENT for n in program.graph.nodes)
                    if unrolled or len(written.nodes) > len(graph.nodes):
                        _compare_written(written, network, keywords, values)
                    return written
            reasons.append(f"the batch size is fixed to {size}")
        except NotCertified:
            raise
        except Exception as reason:  # user code and the exporter decide what can go wrong here
            text = str(reason).strip().splitlines() or [""]
            reasons.append(f"{type(reason).__name__}: {text[0][:160]}".rstrip(": "))
    if _packs(network, keywords, tuple(values.values())):
        raise NotCertified(
            "packed sequences, whose lengths are data: ask about sequences of one length, without packing"
        )
    if isinstance(network.original, Averaged):
        raise NotCertified(
            "a mean over draws of a random model: no bound knows its draws; ask bt.failure_rate of the points found"
        )
    if not isinstance(network.original, nn.Module):
        raise NotCertified(
            f"cannot export: {reasons[-1]}. The model is a plain function, whose weights have no float64 copy; "
            "write it as a torch.nn.Module that holds them"
        )
    raise NotCertified(f"cannot export: {reasons[-1]}")


def _packs(network: Network, keywords: tuple[str, ...] | None, values: tuple[Tensor, ...]) -> bool:
    """Whether a recurrent layer inside is given packed sequences."""
    module, found = _Logits(copied(network.double), keywords), []
    note = lambda layer, given: found.append(isinstance(given[0], nn.utils.rnn.PackedSequence))
    for layer in module.modules():
        if isinstance(layer, nn.RNNBase):
            layer.register_forward_pre_hook(note)
    if any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
        module(values)
    return any(found)


def _compare(program, network: Network, keywords: tuple[str, ...] | None, values: tuple[Tensor, ...]) -> None:
    """Run the program on the examples themselves: its guards speak up where a branch was taken for other batch sizes."""
    given = program.module()(values)
    wanted = _Logits(copied(network.double), keywords)(values)
    if not torch.allclose(given, wanted, rtol=1e-6, atol=1e-6 * (1 + float(wanted.abs().max()))):
        raise RuntimeError(
            "the exported program disagrees with the module: is its forward random, or does it keep a state?"
        )


def _compare_written(
    graph: Graph, network: Network, keywords: tuple[str, ...] | None, values: dict[str, Tensor]
) -> None:
    """Evaluate an unrolled or rewritten graph on the examples: what it means is written by us, so it is compared with the module itself."""
    found = {**graph.constants, **{name: values[leaf] for leaf, name in graph.inputs.items()}}
    count = len(next(iter(values.values())))
    for node in graph.nodes:
        if node.name not in found:
            found[node.name] = _value(node, found, count)
    wanted = _Logits(copied(network.double), keywords)(tuple(values.values()))
    if not torch.allclose(found[graph.output], wanted, rtol=1e-9, atol=1e-9 * (1 + float(wanted.abs().max()))):
        raise RuntimeError("the unrolled or rewritten graph disagrees with the module")


def _value(node: Node, found: dict[str, Tensor], count: int) -> Tensor:
    if node.op == ops.PRODUCT:  # of the two halves of a stack
        return found[node.sources[0]].prod(1)
    if node.op == "reshape" or (node.op in ops.AFFINE and not ops.is_nonlinear(node)):
        return ops.evaluate(node, found, count)
    return ops.call(node, ops.arguments_of(node, found, count))


def _translate(program, leaves: tuple[str, ...], canonical: dict[str, str], size: int | None) -> Graph:
    """The exported program as our own plain data."""
    from torch.export.graph_signature import InputKind, OutputKind

    signature = program.graph_signature
    build = _Build(size)
    free = iter(leaves)
    inputs, parameters = {}, {}
    for spec, node in zip(signature.input_specs, (n for n in program.graph.nodes if n.op == "placeholder")):
        if spec.kind == InputKind.USER_INPUT:
            leaf = next(free)
            inputs[leaf] = build.add(node, leaf, "input", {}, varies=True)
            continue
        own: str = spec.target.removeprefix("module.")
        value = program.state_dict.get(spec.target, program.constants.get(spec.target))
        if not isinstance(value, Tensor):
            continue
        if spec.kind == InputKind.PARAMETER:
            own = canonical.get(own, own)
            if own in parameters:  # tied: one node
                build.names[node] = parameters[own]
                continue
        name = build.add(node, own, "constant", {}, varies=False)
        build.constants[name] = value.detach().to(torch.float64) if value.is_floating_point() else value.detach()
        if spec.kind == InputKind.PARAMETER:
            parameters[own] = name
    outputs = [s.arg.name for s in signature.output_specs if s.kind == OutputKind.USER_OUTPUT]
    last = next(n for n in program.graph.nodes if n.name == outputs[0])
    alive = _ancestors(last)
    for node in program.graph.nodes:
        if node.op in ("call_function", "get_attr") and node in alive:
            build.operation(node)
    if build.axis.get(last, 0):
        raise NotCertified(f"the logits hold the examples on axis {build.axis[last]}")
    output = build.names[last]
    nodes = _living(build.nodes, output)
    names = {n.name for n in nodes}
    kept: Callable[[dict], dict] = lambda table: {
        k: v for k, v in table.items() if (v if isinstance(v, str) else k) in names
    }
    return Graph(nodes, inputs, kept(parameters), kept(build.constants), output, size)


def _ancestors(last) -> set:
    """Everything that the output needs: asserts and the like have no part in it."""
    found, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


class _Build:
    """Nodes under construction: torch.fx nodes in, ours out.

    axis    where the module holds the examples, for every torch.fx node that does not hold them in front; our nodes always do
    pieces  the values of torch.fx nodes that have several
    """

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.nodes: list[Node] = []
        self.names: dict = {}
        self.constants: dict[str, Tensor] = {}
        self.known: dict[str, Node] = {}
        self.axis: dict = {}
        self.pieces: dict[Any, tuple[Ref, ...]] = {}

    def add(
        self, source, name: str, op: str, arguments: dict, varies: bool, target: str = "", examples: int = 0
    ) -> str:
        value = source.meta.get("val")
        whole = tuple(value.shape) if isinstance(value, Tensor) else ()
        varies = varies or any(isinstance(_multiple(s, None), Batch) for s in whole[:1])  # zeros for every example
        if varies and isinstance(value, Tensor):
            whole = self._per_example(op, value, examples)
        self.names[source] = self.append(name, op, arguments, tuple(int(s) for s in whole), varies, target)
        if examples:
            self.axis[source] = examples
        return self.names[source]

    def append(self, name: str, op: str, arguments: dict, shape: tuple[int, ...], varies: bool, target: str) -> str:
        """One more node, under the first name that is free."""
        count, unique = 0, name
        while unique in self.known:
            count += 1
            unique = f"{name}_{count}"
        node = Node(unique, op, arguments, shape, varies, target)
        self.nodes.append(node)
        self.known[unique] = node
        return unique

    def _per_example(self, op: str, value: Tensor, examples: int) -> tuple:
        whole = tuple(value.shape)
        if value.is_floating_point() and value.dtype != torch.float64:
            raise NotCertified(f"{str(value.dtype).removeprefix('torch.')} arithmetic inside the module, at {op}")
        if len(whole) <= examples or _multiple(whole[examples], self.size) != Batch(1):
            raise NotCertified(f"operation {op} mixes examples")
        rest = whole[:examples] + whole[examples + 1 :]
        if any(not isinstance(s, int) and not _is_number(s) for s in rest):
            raise NotCertified(f"operation {op} makes a feature axis that depends on the number of examples")
        return rest

    def operation(self, node) -> None:
        op, target = _op_name(node)
        value: Any = node.meta.get("val")
        if isinstance(value, (int, torch.SymInt)) or op in ("sym_size", "sym_numel"):
            return  # a size; read off where it is used
        arguments = self._arguments(node)
        if isinstance(value, (list, tuple)) and op not in lowering.RECURRENT:
            return  # pieces; each is made where it is taken
        if op in ("new_zeros", "zeros_like") and isinstance(value, Tensor):
            op, target, arguments = "zeros", "aten.zeros.default", _zeros(value)
        source = node.args[0] if node.args and isinstance(node.args[0], torch.fx.Node) else None
        copies = _is_everything(arguments) if op == "slice" else op in ALIASES
        if source is not None and copies and self._is_copy(node, source, arguments):
            self._alias(node, self.names[source], self.axis.get(source, 0))
            return
        if op in lowering.RECURRENT:
            self._recurrent(node, op, target, arguments)
            return
        if op == "getitem" and source in self.pieces:
            self.names[node] = self.pieces[source][int(arguments["index"])].name
            return
        reads = node.all_input_nodes
        if op == "getitem" and source is not None:
            reads = source.all_input_nodes
            op, arguments = self._piece(node, source, arguments)
            target = {"slice": "aten.slice.Tensor", "select": "aten.select.int"}.get(op, _op_name(source)[1])
        if op in CONVOLUTIONS and isinstance(arguments["padding"], str):
            arguments, target = self._numeric_padding(arguments), f"aten.{op}.default"
        varies = any(self.known[name].varies for name in references(arguments.values()))
        name, examples = op, 0
        if op in RESHAPES and not target.endswith(".dtype"):  # view(dtype) reads the bits as another type
            op, arguments = "reshape", {"input": arguments["input"]}
            examples = self._regrouped(name, node, source) if varies else 0
        elif varies:
            op, target, arguments, examples = self._carried(reads, op, target, arguments)
        elif op in axes.MADE and (found := self._made_for(value)):
            varies, examples, arguments = True, found, axes.made(arguments, found)
        elif op == "expand" and (found := self._made_for(value)):
            varies, examples, arguments = True, found, self._expanded(source, arguments, found)
        known = self._already(op, arguments, node)
        if known is not None:
            self._alias(node, known, examples)
            return
        self.add(node, name, op, arguments, varies, target, examples)

    def _alias(self, node, name: str, examples: int) -> None:
        self.names[node] = name
        if examples:
            self.axis[node] = examples

    def _expanded(self, source, arguments: dict, examples: int) -> dict:
        """A constant repeated for every example on an axis that is not the first: the constant with that axis in front, repeated."""
        size = axes.made(arguments, examples)["size"]
        shape = (1,) * (len(size) - source.meta["val"].dim()) + tuple(source.meta["val"].shape)
        order = (examples, *(d for d in range(len(size)) if d != examples))
        turned = tuple(shape[d] for d in order)
        value = Ref(self.append("reshape", "reshape", {"input": arguments["input"]}, shape, False, ""))
        value = Ref(
            self.append("permute", "permute", {"input": value, "dims": order}, turned, False, "aten.permute.default")
        )
        return {**arguments, "input": value, "size": size}

    def _carried(self, reads: list, op: str, target: str, arguments: dict) -> tuple[str, str, dict, int]:
        """The operation on values that hold the examples in front; they do as a rule, and then it is the operation itself."""
        known = {n: self.known[self.names[n]].varies for n in reads if n in self.names}
        seen = {(self.axis.get(n, 0), n.meta["val"].dim()) for n, varies in known.items() if varies}
        moves = op in axes.MOVING and len(seen) == 1
        if not moves and all(examples == 0 for examples, _ in seen):
            return op, target, arguments, 0
        if len(seen) > 1:
            raise NotCertified(f"operation {op} mixes examples")
        ((examples, rank),) = seen
        still = [n.meta["val"].dim() for n, varies in known.items() if not varies]
        new, changed, after = axes.carried(op, arguments, examples, rank, still)
        if moves and examples == after == 0:
            return op, target, arguments, 0
        return new, target if new == op else f"aten.{new}.default", changed, after

    def _regrouped(self, name: str, node, source) -> int:
        before, after = source.meta["val"].shape, node.meta["val"].shape
        is_examples = lambda size: _multiple(size, self.size) == Batch(1)
        found = axes.regrouped(before, after, self.axis.get(source, 0), is_examples)
        if found is None:
            raise NotCertified(f"operation {name} mixes examples")
        return found

    def _made_for(self, value: Any) -> int:
        """The axis of the examples in a value made for each of them; 0 where there is none, or where it is in front."""
        places = [place for place, size in enumerate(value.shape) if isinstance(_multiple(size, None), Batch)]
        return places[0] if len(places) == 1 else 0

    def _already(self, op: str, arguments: dict, node) -> str | None:
        """The node that a piece of a stack, or axes in the order they have, are already."""
        source = arguments.get("input")
        if not isinstance(source, Ref):
            return None
        before = self.known[source.name]
        if op == "permute" and before.varies and arguments["dims"] == tuple(range(len(before.shape) + 1)):
            return source.name
        if op == "select" and before.op == "stack" and arguments["dim"] == before.arguments["dim"]:
            return before.arguments["tensors"][arguments["index"]].name  # type: ignore[index]
        return None

    def _recurrent(self, node, op: str, target: str, arguments: dict) -> None:
        """A recurrent layer or cell, unrolled."""
        cell = op in lowering.CELLS
        if not cell and not target.endswith(".input"):
            raise NotCertified(f"operation {op} of packed sequences")
        batch_first = cell or bool(arguments["batch_first"])
        given = node.args[1] if isinstance(node.args[1], (list, tuple)) else (node.args[1],)
        wanted = {node.args[0]: 0 if batch_first else 1} | {n: 0 if cell else 1 for n in given}
        for value, place in wanted.items():
            varies = self.known[self.names[value]].varies
            if self.axis.get(value, 0) != place if varies else not self._is_zero(Ref(self.names[value])):
                raise NotCertified(f"operation {op} mixes examples")
        write = lowering.Writer(self._write, lambda ref: self.known[ref.name].shape, self._is_zero)
        if cell:
            found = lowering.unroll_cell(op, arguments, write)
        else:
            found = lowering.unroll(op, arguments, write)
        if isinstance(node.meta["val"], Tensor):
            self.names[node] = found[0].name
        self.pieces[node] = found
        for user in node.users:
            if not cell and _op_name(user)[0] == "getitem" and (user.args[1] or not batch_first):
                self.axis[user] = 1

    def _write(self, op: str, arguments: dict, shape: tuple[int, ...], target: str) -> Ref:
        varies = op == "zeros" or any(self.known[name].varies for name in references(arguments.values()))
        return Ref(self.append(op, op, arguments, shape, varies, target))

    def _is_zero(self, value: Ref) -> bool:
        return self.known[value.name].op == "zeros"

    def _is_copy(self, node, source, arguments: dict) -> bool:
        if arguments.get("train"):
            return False
        here, before = node.meta.get("val"), source.meta.get("val")
        same = here.dtype == before.dtype or (before.is_floating_point() and here.dtype == torch.float64)
        return same and here.shape == before.shape

    def _numeric_padding(self, arguments: dict) -> dict:
        """ "valid" and "same" in numbers, so that nobody downstream needs to know the words."""
        weight = self.known[arguments["weight"].name].shape
        dilation = arguments["dilation"]
        dilation = tuple(dilation) * (1 if len(dilation) == len(weight) - 2 else len(weight) - 2)
        total = [d * (k - 1) * (arguments["padding"] == "same") for d, k in zip(dilation, weight[2:], strict=True)]
        if any(t % 2 for t in total):
            raise NotCertified('padding="same" of an even kernel')
        return {**arguments, "padding": tuple(t // 2 for t in total)}

    def _piece(self, node, source, arguments: dict) -> tuple[str, dict]:
        """An element of a tuple-valued node: pieces of a split become slices, pieces of unbind selections."""
        op, _ = _op_name(source)
        whole = self._arguments(source)
        index = int(arguments["index"])
        if op == "unbind":
            return "select", {"input": whole["input"], "dim": whole["dim"], "index": index}
        if op in FIRST and index == 0:
            return op, whole
        if op not in SPLITS:  # a recurrent layer, say: named by itself, not by its pieces
            raise NotCertified(f"operation {op}")
        dim = int(whole["dim"])
        lengths = [piece.shape[dim] for piece in source.meta["val"]]
        if any(not isinstance(n, int) for n in lengths):
            raise NotCertified(f"operation {op} mixes examples")
        start = sum(lengths[:index])
        return "slice", {"input": whole["input"], "dim": dim, "start": start, "end": start + lengths[index], "step": 1}

    def _arguments(self, node) -> dict[str, Any]:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return dict(zip(("input", "index"), (self._plain(a) for a in node.args)))
        named = {}
        for position, argument in enumerate(schema.arguments):
            name = "input" if argument.name == "self" else argument.name
            if position < len(node.args):
                named[name] = self._plain(node.args[position])
            elif argument.name in node.kwargs:
                named[name] = self._plain(node.kwargs[argument.name])
            else:
                named[name] = self._plain(argument.default_value if argument.has_default_value() else None)
        return named

    def _plain(self, value: object) -> object:
        if isinstance(value, (list, tuple)):
            return tuple(self._plain(v) for v in value)
        if isinstance(value, torch.fx.Node):
            size = value.meta.get("val")
            if isinstance(size, (int, torch.SymInt)):
                known = _multiple(size, self.size)
                if known is None:
                    raise NotCertified("a size inside the module is no multiple of the number of examples")
                return known
            return Ref(self.names.get(value, value.name))
        return value


def _zeros(value: Tensor) -> dict[str, Any]:
    """Arguments of ``zeros`` for a value that is zero whatever it was shaped after."""
    size = tuple(_multiple(s, None) for s in value.shape)
    return {"size": size, "dtype": value.dtype, "layout": None, "device": None, "pin_memory": None}


def _is_everything(arguments: dict[str, object]) -> bool:
    """``x[:]``, which ``x[:, 1]`` begins with."""
    return not arguments["start"] and arguments["step"] == 1 and (arguments["end"] is None or arguments["end"] == LAST)


def _multiple(size: Any, batch: int | None) -> "int | Batch | None":
    """A size as a plain integer, or as a multiple of the number of examples; None where it is neither."""
    if isinstance(size, int):
        return Batch(1) if batch is not None and size == batch else size
    expression = size.node.expr
    at = lambda count: int(expression.subs({s: count for s in expression.free_symbols}))
    if not expression.free_symbols:
        return _multiple(int(expression), batch)
    if at(2) * 3 == at(3) * 2 and at(2) * 7 == at(7) * 2 and at(2) % 2 == 0:
        return Batch(at(2) // 2)
    return None


def _is_number(size: object) -> bool:
    return isinstance(size, torch.SymInt) and not size.node.expr.free_symbols


def _batch_size(program) -> int | None:
    """The batch size a program is tied to, None if it is free."""
    names = {s.arg.name for s in program.graph_signature.input_specs if s.kind.name == "USER_INPUT"}
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    sizes = [n.meta["val"].shape[0] for n in placeholders]
    fixed = [int(s) for s in sizes if isinstance(s, int) or _is_number(s)]
    return fixed[0] if fixed else None


def _living(nodes: list[Node], output: str) -> tuple[Node, ...]:
    """Without the nodes that the output does not need; inputs stay."""
    needed = {output}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.sources)
    return tuple(n for n in nodes if n.name in needed or n.op == "input")


def _canonical_names(module: object) -> dict[str, str]:
    """Every name of a parameter -> the one that ``named_parameters`` gives it (tied parameters have several)."""
    if not isinstance(module, nn.Module):
        return {}
    first = {id(value): name for name, value in module.named_parameters()}
    return {name: first[id(value)] for name, value in module.named_parameters(remove_duplicate=False)}


def _op_name(node) -> tuple[str, str]:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        space, name = target._schema.name.split("::")
        return (name if space == "aten" else f"{space}.{name}"), str(target)
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    return name, ""


def _in_place(node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target._schema.is_mutable and _op_name(node)[0] not in ALIASES


@contextmanager
def _silence() -> Iterator[None]:
    """Export talks to warnings and to several loggers; none of it helps somebody who asked for a certificate."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
