"""``Context``: the first argument of every workflow, and the only way to durable calls.

Each method gives its call a key by the structure of the program, has the turns perform it, and converts what comes
back.
"""

from __future__ import annotations

from durable_trio.context.child_calls import ChildMethods
from durable_trio.context.step_calls import StepMethods
from durable_trio.context.structure_calls import StructureMethods
from durable_trio.context.wait_calls import WaitMethods


class Context(StepMethods, WaitMethods, StructureMethods, ChildMethods):
    """What a workflow's body can call. One context belongs to one task.

    *Cancellation:* every awaited method is a cancel point. A call whose outcome is recorded or being recorded gives
    that outcome back even in a cancelled scope; the next cancel point raises.
    *Durability:* when a method returns or raises its outcome, that is committed, and replay gives back the same.
    """
