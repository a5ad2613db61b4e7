"""The blocks of a network: what it repeats, one after the other, or the layers of a plain chain."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import UninitializedParameter

# Modules that only hand on what they are given.
PASSING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d)


class _Member(NamedTuple):
    """A module in another.

    Attributes:
        name: dotted, in the model.
        module: itself.
        list: name of the outermost `Sequential` or `ModuleList` that it stands in, or None.
    """

    name: str
    module: nn.Module
    list: str | None


def block_names(model: nn.Module, head: str) -> list[str]:
    """Names of a model's blocks: residual blocks, layers of a transformer, layers of a chain.

    Lists (`Sequential`, `ModuleList`) are opened, so that their entries count as parts of the
    module that holds them. Blocks are the parts with at least two layers with weights of which two
    or more are of one class, and others of that size that stand in the same list, as near to the
    model's root as there are such; where a part holds a list of such parts in turn, it is a stage
    and these are the blocks, unless it stands in a list beside blocks of another class. Where
    nothing repeats: each layer with weights in a `Sequential`, measured behind the normalisation,
    activation and pooling that follow it there.

    Args:
        model: any module.
        head: dotted name of the classifier, which is not a block.

    Raises:
        ValueError: if there are no blocks.

    Example:
        >>> model = nn.Sequential(
        ...     nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
        ... )
        >>> block_names(model, "4")
        ['1', '3']
    """
    found = [name for name in _repeated_in(model) or _chain(model, head) if name != head]
    if not found:
        raise ValueError(
            "layers='blocks' must find blocks in the model, which has no two modules of one class "
            "with several layers each, and no Sequential of layers, in front of the classifier "
            "(one block that runs again and again, as in ALBERT, is none); name layers that run "
            "once, or take 'all'"
        )
    return found


def _repeated_in(module: nn.Module, path: str = "") -> list[str]:
    """Blocks at the level nearest to this module that has some."""
    members = [*_members(module, path)]
    blocks = _repeated(members)
    if not blocks:
        return [name for member in members for name in _repeated_in(member.module, member.name)]
    return _opened(blocks)


def _opened(blocks: list[_Member]) -> list[str]:
    """The blocks of those that are stages, and the names of the others.

    In a list, what stands beside blocks of another class that repeats is a block as they are: that
    of a MobileViT holds a transformer, whose layers see pieces of pictures.
    """
    inner = {block.name: _in_stage(block) for block in blocks}
    plain = Counter((b.list, type(b.module)) for b in blocks if inner[b.name] == [b.name])
    found: list[str] = []
    for block in blocks:
        beside = (
            kind
            for (place, kind), times in plain.items()
            if times > 1 and place is not None and place == block.list
        )
        is_block = any(kind is not type(block.module) for kind in beside)
        found += [block.name] if is_block else inner[block.name]
    return found


def _in_stage(block: _Member) -> list[str]:
    """The blocks of a stage, or the name of a block that is none.

    A stage holds a list of blocks, or nothing but blocks: what stands beside other parts under a
    name of its own, as two attentions, runs side by side or within a residual. So does a stack of
    separable convolutions, each of which is one layer here. A `ModuleDict` is no stage: the layers
    of a DenseNet stand in one, and each adds to what all before it gave.
    """
    members = [*_members(block.module, block.name)]
    listed = [member for member in members if member.list is not None]
    inner = [m for m in _repeated(listed) if _num_layers(m.module, depthwise=False) > 1]
    alone = not listed and not isinstance(block.module, nn.ModuleDict)
    if alone and len(_repeated(members)) == len(members):
        inner = members
    return _opened(inner) or [block.name]


def _repeated(members: list[_Member]) -> list[_Member]:
    """Members of several layers: those of a class that occurs twice, and those in their lists."""
    large = [member for member in members if _num_layers(member.module) > 1]
    times = Counter(type(member.module) for member in large)
    lists = {member.list for member in large if times[type(member.module)] > 1} - {None}
    return [m for m in large if times[type(m.module)] > 1 or m.list in lists]


def _chain(module: nn.Module, head: str, path: str = "") -> list[str]:
    """Where each layer with weights of this module's lists ends; of the first level with some."""
    members = [*_members(module, path)]
    uses = Counter(member.module for member in members)
    ends: dict[str | None, list[str]] = {}  # by list: a list ends what the one before has begun
    for name, part, place in members:
        if name == head or place is None:
            continue
        own = ends.setdefault(place, [])
        if _num_layers(part):
            own.append(name)
        elif own and uses[part] == 1 and not isinstance(part, PASSING):
            own[-1] = name
    found = [name for own in ends.values() for name in own]
    inner = [m for m in members if _num_layers(m.module) > 1]
    if not found and len(inner) == 1:
        return _chain(inner[0].module, head, inner[0].name)
    return found


def _members(module: nn.Module, path: str, within: str | None = None) -> Iterator[_Member]:
    """The parts of a module, with lists opened."""
    if not path and _is_list(module):
        within = path
    for key, child in module._modules.items():  # a module that stands twice comes twice
        if child is None:
            continue
        name = f"{path}.{key}" if path else key
        if _is_list(child):
            yield from _members(child, name, name if within is None else within)
        else:
            yield _Member(name, child, within)


def _is_list(module: nn.Module) -> bool:
    """Whether a module does nothing but run its entries in turn, or hold them."""
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return isinstance(module, nn.ModuleList)


def _num_layers(module: nn.Module, *, depthwise: bool = True) -> int:
    """How many of the modules in this one have weights; those of normalisations are vectors."""
    return sum(
        any(
            isinstance(parameter, UninitializedParameter) or parameter.dim() > 1
            for parameter in part.parameters(recurse=False)
        )
        for part in module.modules()
        if depthwise or getattr(part, "groups", 1) == 1
    )
