"""What ``tree --json`` prints."""

from __future__ import annotations

import attrs

from supervisors import TreeNode

__all__ = ["NodeDocument", "TreesDocument", "trees_document"]


@attrs.frozen(kw_only=True)
class NodeDocument:
    """A supervisor or a child of one. The children of a worker process are those of the tree that runs in it."""

    name: str
    kind: str
    status: str
    restart: str | None
    restart_count: int
    restarts_in_window: int
    restarts_max: int | None
    window_seconds: float | None
    strategy: str | None
    up_seconds: float | None
    pid: int | None
    last_error: str | None
    children: tuple[NodeDocument, ...]


@attrs.frozen(kw_only=True)
class TreesDocument:
    """What ``tree`` prints: the root of each server's tree."""

    servers: tuple[NodeDocument, ...]


def trees_document(roots: tuple[TreeNode, ...]) -> TreesDocument:
    """Return trees as they are printed."""
    return TreesDocument(servers=tuple(map(_node_document, roots)))


def _node_document(node: TreeNode) -> NodeDocument:
    return NodeDocument(
        name=node.name,
        kind=node.kind.value,
        status=node.status.value,
        restart=None if node.restart is None else node.restart.value,
        restart_count=node.restart_count,
        restarts_in_window=node.restarts_in_window,
        restarts_max=None if node.intensity is None else node.intensity.restarts,
        window_seconds=None if node.intensity is None else node.intensity.per,
        strategy=None if node.strategy is None else node.strategy.value,
        up_seconds=node.up_seconds,
        pid=node.pid,
        last_error=node.last_error,
        children=tuple(map(_node_document, node.children)),
    )
