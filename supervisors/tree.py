"""The tree of supervisors as data, and as a drawing one would paste into a bug report. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import attrs

from supervisors.children import ChildStatus, Place
from supervisors.groups import error_text
from supervisors.specs import Child, ChildSpec, DynamicSupervisorSpec, Intensity, Restart, Strategy

# Children of one supervisor that are drawn; a dynamic one may have thousands.
CHILDREN_DRAWN_MAX = 50

# The last error is drawn in one line; the whole one is in the data.
ERROR_CHARACTERS_MAX = 100


class NodeKind(enum.Enum):
    """What a node of the tree is."""

    SUPERVISOR = "supervisor"
    DYNAMIC = "dynamic"
    TASK = "task"
    PROCESS = "process"


@attrs.frozen(kw_only=True)
class ChildInfo:
    """A child as it is at this moment.

    Attributes:
        value: what it gave to ``task_status.started()``; the supervisor itself if the child is one.
        last_error: how it last crashed, or None.
    """

    name: str
    kind: NodeKind
    status: ChildStatus
    restart: Restart
    restart_count: int
    value: Any
    pid: int | None
    last_error: str | None


@attrs.frozen(kw_only=True)
class TreeNode:
    """A supervisor or child, with what is below it. Plain data: it can be compared, kept and serialised.

    Attributes:
        restart: None for the root.
        up_seconds: since it was last ready; None if it does not run.
        strategy: for supervisors that are not dynamic.
        intensity: for supervisors, with ``restarts_in_window`` restarts used up at this moment.
    """

    name: str
    kind: NodeKind
    status: ChildStatus
    restart: Restart | None = None
    restart_count: int = 0
    up_seconds: float | None = None
    pid: int | None = None
    last_error: str | None = None
    strategy: Strategy | None = None
    intensity: Intensity | None = None
    restarts_in_window: int = 0
    children: tuple[TreeNode, ...] = ()


def kind_of(spec: ChildSpec) -> NodeKind:
    if not isinstance(spec, Child):
        return NodeKind.PROCESS
    if not spec.is_supervisor:
        return NodeKind.TASK
    return NodeKind.DYNAMIC if isinstance(spec.start, DynamicSupervisorSpec) else NodeKind.SUPERVISOR


def last_error_of(place: Place) -> str | None:
    error = place.last_exit.error if place.last_exit is not None else None
    return None if error is None else error_text(error)


def child_info(place: Place) -> ChildInfo:
    incarnation = place.incarnation
    return ChildInfo(
        name=place.name,
        kind=kind_of(place.spec),
        status=place.status,
        restart=place.spec.restart,
        restart_count=place.restart_count,
        value=incarnation.value if incarnation is not None else None,
        pid=incarnation.pid if incarnation is not None else None,
        last_error=last_error_of(place),
    )


def leaf(place: Place, now: float) -> TreeNode:
    incarnation = place.incarnation
    ready_at = incarnation.ready_at if incarnation is not None else None
    return TreeNode(
        name=place.name,
        kind=kind_of(place.spec),
        status=place.status,
        restart=place.spec.restart,
        restart_count=place.restart_count,
        up_seconds=None if ready_at is None else now - ready_at,
        pid=incarnation.pid if incarnation is not None else None,
        last_error=last_error_of(place),
    )


def format_tree(root: TreeNode, *, children_max: int = CHILDREN_DRAWN_MAX) -> str:
    """Draw the tree, one line for each supervisor and child; of one supervisor at most ``children_max`` children."""
    lines = [(root.name, describe(root)), *walk(root, "", children_max)]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in lines)


def walk(node: TreeNode, indent: str, children_max: int) -> Iterator[tuple[str, str]]:
    hidden_count = len(node.children) - children_max
    shown = node.children[:children_max] if hidden_count > 0 else node.children
    for place, child in enumerate(shown, start=1):
        is_last = place == len(node.children)
        yield f"{indent}{'└─' if is_last else '├─'} {child.name}", describe(child)
        yield from walk(child, indent + ("   " if is_last else "│  "), children_max)
    if hidden_count > 0:
        yield f"{indent}└─ … {hidden_count} more", ""


def describe(node: TreeNode) -> str:
    words = [node.strategy.value if node.strategy is not None else node.kind.value, node.status.value]
    if node.restart not in (None, Restart.PERMANENT):
        words.append(node.restart.value)
    if node.pid is not None:
        words.append(f"pid {node.pid}")
    if node.up_seconds is not None:
        words.append(f"up {duration_text(node.up_seconds)}")
    if node.kind is NodeKind.DYNAMIC:
        words.append(f"{len(node.children)} {'child' if len(node.children) == 1 else 'children'}")
    if node.intensity is not None:
        words.append(f"{node.restarts_in_window} of {node.intensity.restarts} restarts in {node.intensity.per:g} s")
    if node.restart_count:
        words.append(f"restarted {node.restart_count}×")
    if node.last_error is not None:
        line = node.last_error.splitlines()[0]
        words.append(line if len(line) <= ERROR_CHARACTERS_MAX else line[: ERROR_CHARACTERS_MAX - 1] + "…")
    return " · ".join(words)


def duration_text(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
