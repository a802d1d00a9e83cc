"""Parameters of a tower by name: the members of a group, and learned tensors under the tower's own dotted names."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from ironclip.core.errors import UsageError, unknown

BLOCK = r"(?:^|\.)(?:res)?blocks\.(\d+)\."
GROUPS = {
    "all": "",
    "attn": rf"{BLOCK}attn\.|^attnpool\.",
    "mlp": rf"{BLOCK}mlp\.",
    "ln": r"(?:^|\.)(?:ln_\w+|\w*norm\w*|bn\d?|downsample\.1)\.(?:weight|bias)$",
    "proj": r"^(?:proj|text_projection|text_projection\.weight|head\.proj\.weight|trunk\.head\.weight|attnpool\.c_proj\.weight)$",
    "embed": r"^(?:class_embedding|positional_embedding|conv1\.\w+|trunk\.(?:cls_token|reg_token|pos_embed|patch_embed\..*))$",
}
"""Named groups over the names of open_clip's ViT, its ResNets and timm's ViTs; "last_3" means the last three blocks."""


def select(names: Sequence[str], groups: str | Sequence[str]) -> tuple[str, ...]:
    """The names that any of the groups means, in the order of `names`.

    Args:
        groups: of `GROUPS`, "last_<blocks>", or patterns over the names such as "*.ln_1.*".

    Raises:
        UsageError: an unknown group, or one that means nothing here.
    """
    wanted = [groups] if isinstance(groups, str) else groups
    if not wanted or not isinstance(wanted, list | tuple) or not all(isinstance(group, str) for group in wanted):
        raise UsageError(f"tune takes {', '.join(GROUPS)}, last_<blocks> or a pattern, or a list of these; got {groups!r}")
    chosen = {name for group in wanted for name in _of_group(names, group)}
    return tuple(name for name in names if name in chosen)


def _of_group(names: Sequence[str], group: str) -> list[str]:
    if last := re.fullmatch(r"last_(\d+)", group):
        numbers = {name: int(block[1]) for name in names if (block := re.search(BLOCK, name))}
        count = max(numbers.values(), default=-1) + 1
        if not 1 <= int(last[1]) <= count:
            raise UsageError(f"{group!r} asks for 1 to {count} blocks, those of this tower")
        return [name for name, number in numbers.items() if number >= count - int(last[1])]
    if group in GROUPS:
        found = [name for name in names if re.search(GROUPS[group], name)]
    else:
        found = [name for name in names if fnmatchcase(name, group)]
        if not found and not set(group) & set("*?["):
            raise unknown("group of weights", group, [*GROUPS, "last_1", *names])
    if not found:
        raise UsageError(f"no weight of this tower is in {group!r}; the first of {len(names)} are {', '.join(names[:3])}")
    return found


def plant(root: nn.Module, name: str, value: Tensor) -> None:
    """Make `value` a parameter of `root` under a dotted name, as in the tower."""
    *path, leaf = name.split(".")
    for step in path:
        if step not in root._modules:
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    root.register_parameter(leaf, nn.Parameter(value))


def named(root: nn.Module) -> dict[str, Tensor]:
    return dict(root.named_parameters())


class Replaced(nn.Module):
    """Learned copies of weights under their own names.

    Args:
        base: name -> weight to start from.
    """

    def __init__(self, base: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = tuple(base)
        for name, weight in base.items():
            plant(self, name, weight.detach().clone())

    def values(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return named(self)
