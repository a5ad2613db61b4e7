"""A tree as it is written somewhere, before anything but its names is checked."""

from dataclasses import dataclass, field


@dataclass
class Outline:
    """A tree as written.

    Attributes:
        names: of the nodes; siblings have different names, others may share one.
        parent: index of each node's parent, -1 at the root.
        classes: the nodes that are classes, in the order of the labels; None for all leaves.
    """

    names: list[str] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    classes: list[int] | None = None

    def add(self, name: str, parent: int) -> int:
        """Add a node; its index."""
        self.names.append(name)
        self.parent.append(parent)
        return len(self.names) - 1

    def with_root(self, root: str) -> "Outline":
        """The same where one node stands at the top, else with a root above all that do."""
        tops = [node for node, parent in enumerate(self.parent) if parent < 0]
        if len(tops) == 1:
            return self
        taken = {*self.names}
        while root in taken:
            root += "_"
        classes = None if self.classes is None else [node + 1 for node in self.classes]
        return Outline([root, *self.names], [-1, *(max(p, -1) + 1 for p in self.parent)], classes)
