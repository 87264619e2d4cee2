"""Supervision trees for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import click

from durable_trio.cli.screen import Screen
from durable_trio.cli.text import cut, visible
from supervisors import NodeKind, TreeNode, format_tree

__all__ = ["shape_of", "tree_lines", "trees_lines", "worker_nodes"]

_CHILDREN_DRAWN_MAX = 20
_MARKS = str.maketrans({"├": "|", "└": "`", "─": "-", "│": "|", "·": "-", "×": "x", "…": "~"})


def tree_lines(root: TreeNode, screen: Screen) -> list[str]:
    """Return the lines of a server's tree; what is in trouble stands out."""
    lines = []
    for number, line in enumerate(format_tree(root, children_max=_CHILDREN_DRAWN_MAX).splitlines()):
        shown = cut(visible(line if screen.is_unicode else line.translate(_MARKS)), screen.room)
        is_running = " running" in line or " finished" in line or "more" in line
        lines.append(click.style(shown, bold=number == 0 or None, fg=None if is_running else "yellow"))
    return lines


def trees_lines(roots: Sequence[TreeNode], screen: Screen) -> list[str]:
    """Return the lines of the trees of several servers."""
    lines: list[str] = []
    for root in roots:
        lines += [""] if lines else []
        lines += tree_lines(root, screen)
    return lines


def worker_nodes(root: TreeNode) -> Iterator[TreeNode]:
    """Yield the nodes of worker processes, wherever they are in a tree."""
    for child in root.children:
        if child.kind is NodeKind.PROCESS:
            yield child
        else:
            yield from worker_nodes(child)


def shape_of(node: TreeNode) -> Any:
    """Return what makes a tree look different to people; that time goes by and runs come and go does not."""
    below = () if node.name == "runs" else tuple(map(shape_of, node.children))
    return attrs.astuple(
        attrs.evolve(node, up_seconds=None, restarts_in_window=0, intensity=None, children=()), recurse=False
    ), below
