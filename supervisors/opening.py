"""The doors: open a supervisor as a block, or run one as a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random

import trio

from supervisors.dynamic import DynamicSupervisor
from supervisors.errors import UnstoppedChild
from supervisors.mailboxes import Mailboxes
from supervisors.node import Node, Surroundings
from supervisors.specs import (
    AutoShutdown,
    ChildSpec,
    DynamicSupervisorSpec,
    Intensity,
    Strategy,
    SupervisorSpec,
)
from supervisors.supervisor import Supervisor


def open_supervisor(
    spec: SupervisorSpec | None = None,
    *,
    name: str = "supervisor",
    strategy: Strategy = Strategy.ONE_FOR_ONE,
    intensity: Intensity = Intensity(),  # noqa: B008  (an immutable value)
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
    children: Sequence[ChildSpec] = (),
    random: Random | None = None,
    on_unstopped: Callable[[UnstoppedChild], None] | None = None,
) -> AbstractAsyncContextManager[Supervisor]:
    """Open a supervisor: ``async with open_supervisor() as supervisor: ...``.

    The block is entered when all ``children`` are ready. Leaving it stops the children in reverse order, each with its
    own deadline; to serve until something ends the block, sleep forever in it. If the supervisor fails or ends by
    itself, the block is cancelled.

    Args:
        spec: the specification, in place of its fields: ``strategy``, ``intensity``, ``auto_shutdown``, ``children``.
        name: the first part of the paths of all that is below.
        random: source of jitter, to be seeded in tests.
        on_unstopped: called at once when a child anywhere in the tree does not stop in its time; since a task cannot
            be killed, ``os._exit`` there is the last resort. It must not raise.

    *Cancellation:* the block is cancelled first, then the children are stopped as above; nothing is left behind.

    Raises:
        TypeError: a specification and fields are given.
        ExceptionGroup: as of a nursery, with what the block raised, the error of a child that crashed before it was
            ready at the start, ``RestartIntensityExceeded``, or ``UnstoppedChild``.
    """
    fields = SupervisorSpec(strategy=strategy, intensity=intensity, auto_shutdown=auto_shutdown, children=children)
    if spec is not None and fields != SupervisorSpec():
        raise TypeError("give a SupervisorSpec or its fields, not both")
    return Supervisor(spec or fields, _root(name, random, on_unstopped)).opened()


def open_dynamic_supervisor(
    spec: DynamicSupervisorSpec | None = None,
    *,
    name: str = "supervisor",
    max_children: int | None = None,
    intensity: Intensity = Intensity(),  # noqa: B008  (an immutable value)
    children: Sequence[ChildSpec] = (),
    random: Random | None = None,
    on_unstopped: Callable[[UnstoppedChild], None] | None = None,
) -> AbstractAsyncContextManager[DynamicSupervisor]:
    """Open a supervisor for any number of independent children, at most ``max_children`` at a time.

    The block is entered when all ``children``, which are started at the same time, are ready. Leaving it stops all
    that there are then, again at the same time. Else it is as ``open_supervisor``, and raises the same.

    Args:
        spec: the specification, in place of its fields: ``max_children``, ``intensity``, ``children``.
        name: the first part of the paths of all that is below.
        random: source of jitter, to be seeded in tests.
        on_unstopped: as of ``open_supervisor``.
    """
    fields = DynamicSupervisorSpec(max_children=max_children, intensity=intensity, children=children)
    if spec is not None and fields != DynamicSupervisorSpec():
        raise TypeError("give a DynamicSupervisorSpec or its fields, not both")
    return DynamicSupervisor(spec or fields, _root(name, random, on_unstopped)).opened()


async def run_supervisor(
    spec: SupervisorSpec | DynamicSupervisorSpec,
    *,
    name: str = "supervisor",
    random: Random | None = None,
    on_unstopped: Callable[[UnstoppedChild], None] | None = None,
    task_status: trio.TaskStatus[Supervisor | DynamicSupervisor] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a supervisor until it ends by itself or is cancelled; ``started()`` gets it when its children are ready.

    It returns when significant children have ended it, or its ``stop()`` was called, and raises what
    ``open_supervisor`` does. The arguments are those of ``open_supervisor`` as well.

    *Cancellation:* stops the children in order, then passes it on.
    """
    if isinstance(spec, SupervisorSpec):
        async with open_supervisor(spec, name=name, random=random, on_unstopped=on_unstopped) as supervisor:
            task_status.started(supervisor)
            await trio.sleep_forever()
    else:
        async with open_dynamic_supervisor(spec, name=name, random=random, on_unstopped=on_unstopped) as dynamic:
            task_status.started(dynamic)
            await trio.sleep_forever()


def _root(name: str, random: Random | None, on_unstopped: Callable[[UnstoppedChild], None] | None) -> Surroundings:
    return Surroundings(
        name=name,
        parent=None,
        random=random or Random(),
        on_unstopped=on_unstopped,
        mailboxes=Mailboxes(),
        make_node=_make_node,
    )


def _make_node(spec: SupervisorSpec | DynamicSupervisorSpec, surroundings: Surroundings) -> Node:
    if isinstance(spec, DynamicSupervisorSpec):
        return DynamicSupervisor(spec, surroundings)
    return Supervisor(spec, surroundings)
