"""Names of leaves as the caller gives them: patterns become one ball for each parameter, relative balls get their units."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn

from brittle.errors import InputError
from brittle.network import Network
from brittle.region import Ball, Region


def expand(region: Region, inputs: Mapping[str, Tensor], network: Network) -> dict[str, Ball]:
    """One ball for every leaf that moves, under the name that ``named_parameters`` gives it.

    A key with ``*``, ``?`` or ``[`` is a pattern (:mod:`fnmatch`) over the names of parameters; a name written out goes before any
    pattern. ``*.`` at its beginning also stands for no layer at all: ``"*.weight"`` is the weight of a lone ``nn.Linear`` too. Tied weights
    are one leaf and move together, whichever of their names was given. Relative balls are told the stored weight (:meth:`brittle.region.Ball.at`).

    Errors: InputError for a name or a pattern that no parameter has (with the nearest ones), buffers, two balls for one parameter,
    and relative balls of inputs.

    >>> list(expand({"*weight": Ball(2, 1.0)}, {}, Network(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))))
    ['0.weight', '2.weight']
    >>> list(expand({"*.weight": Ball(2, 1.0)}, {}, Network(nn.Linear(2, 2))))
    ['weight']
    """
    if all(leaf in inputs for leaf in region):
        return {leaf: _input(leaf, ball) for leaf, ball in region.items()}
    parameters, first = network.parameters(), network.first_names()
    found: dict[str, Ball] = {}
    given: dict[str, str] = {}  # first name of a parameter -> what the caller wrote
    plain = [key for key in region if key in inputs or not _is_pattern(key, first)]
    for key in (*plain, *(k for k in region if k not in plain)):
        if key in inputs:
            found[key] = _input(key, region[key])
            continue
        for leaf in _named(key, inputs, first, network):
            name = leaf.removeprefix("param:")
            if name in given and given[name] in plain and key not in plain:
                continue
            if name in given:
                raise InputError(
                    "region", "one ball for each parameter", f"{key!r} and {given[name]!r} for {name}", "leave one out"
                )
            given[name] = key
            found[leaf] = region[key].at(parameters[name])
    return _in_order(found, region, given, parameters)


def _in_order(
    found: Mapping[str, Ball], region: Region, given: Mapping[str, str], parameters: Mapping
) -> dict[str, Ball]:
    """Leaves in the caller's order, those of a pattern in the module's."""
    place = {key: k for k, key in enumerate(region)}
    rank = {name: k for k, name in enumerate(parameters)}

    def key(leaf: str) -> tuple[int, int]:
        name = leaf.removeprefix("param:")
        return (place[given[name]], rank[name]) if name in given and leaf not in place else (place[leaf], 0)

    return {leaf: found[leaf] for leaf in sorted(found, key=key)}


def _is_pattern(key: str, names: Mapping[str, str]) -> bool:
    return key.removeprefix("param:") not in names and any(mark in key for mark in "*?[")


def _named(key: str, inputs: Mapping[str, Tensor], first: Mapping[str, str], network: Network) -> Iterator[str]:
    """The leaves that a key means, each once."""
    prefix = "param:" if key.startswith("param:") else ""
    name = key.removeprefix("param:")
    if name in first:
        yield prefix + first[name]
        return
    at_top = lambda own: name.startswith("*.") and fnmatchcase(own, name.removeprefix("*."))  # no layer before the dot
    matches = [n for n in first if fnmatchcase(n, name) or at_top(n)] if _is_pattern(key, first) else []
    if not matches:
        raise _unknown(key, name, inputs, first, network)
    for own in dict.fromkeys(first[match] for match in matches):
        # a parameter that is called like an input is told apart by its prefix
        yield (prefix or "param:" if own in inputs else prefix) + own


def _unknown(
    key: str, name: str, inputs: Mapping[str, Tensor], first: Mapping[str, str], network: Network
) -> InputError:
    module = network.quiet
    buffers = dict(module.named_buffers()) if isinstance(module, nn.Module) else {}
    hit = [n for n in buffers if n == name or (_is_pattern(key, first) and fnmatchcase(n, name))]
    if hit:
        kind = str(buffers[hit[0]].dtype).removeprefix("torch.")
        why = "an integer has no small change" if not buffers[hit[0]].is_floating_point() else "no training sets it"
        return InputError(
            f"leaf {key!r}", "an input or a parameter", f"the buffer {hit[0]} ({kind}): {why}",
            "move a weight, or make the buffer a torch.nn.Parameter",
        )  # fmt: skip
    known = [*inputs, *first]
    if f"x.{key}" in inputs:
        do = f'write "x.{key}"'
    elif key == "x":
        do = f'name the input that moves, for example "{next(iter(inputs), "x.NAME")}"'
    else:
        plain = {n.lower(): n for n in known}  # "X" is "x", spelled in another case
        near = [plain[name.lower()]] if name.lower() in plain else get_close_matches(name, known, 3, 0.3)
        do = f"did you mean {' or '.join(map(repr, near))}?" if near else "use one of these names"
    some = f"{', '.join(known[:8])}{' ...' if len(known) > 8 else ''}"
    what = "a pattern that matches leaves among" if _is_pattern(key, first) else "leaves among"
    return InputError("region", f"{what} {some}", repr(key), do)


def _input(leaf: str, ball: Ball) -> Ball:
    if ball.relative is not None or ball.unit is not None:
        raise InputError(
            f"leaf {leaf!r}",
            "relative or unit with parameters only",
            "an input",
            "give the radius in the units of the input",
        )
    return ball
