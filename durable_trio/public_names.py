"""The public names. ``durable_trio`` itself gives them, and imports this module when the first of them is asked for.

A new name is imported here and stands in ``__all__``, in the order of the alphabet; nobody else imports from here.
"""

from durable_trio.calls.current_step import CurrentStep, current_step
from durable_trio.clock import Clock
from durable_trio.context.child_run import ChildRun
from durable_trio.context.context import Context
from durable_trio.context.nursery import DurableNursery
from durable_trio.engine.engine import Engine, open_engine
from durable_trio.engine.observers import Event, Observer
from durable_trio.engine.run import Run
from durable_trio.errors import (
    CodecError,
    CompensationFailed,
    Detached,
    DurableError,
    MailboxFull,
    NonDeterminismError,
    NotADatabase,
    OwnershipLost,
    PayloadTooLarge,
    RunCancelled,
    RunConflict,
    RunExpired,
    RunFailed,
    RunFinished,
    RunNotFound,
    SchemaTooNew,
    SignalTimeout,
    StepFailed,
    StepInterrupted,
    StepTimeout,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreReadOnly,
    StoreRewound,
    UnknownWorkflow,
    WorkerFailed,
)
from durable_trio.policies import Retry
from durable_trio.records import (
    EarlierError,
    EngineStatus,
    FailureRecord,
    Page,
    Problem,
    ProcessReport,
    RunRecord,
    RunStatus,
    StepInHand,
    StepKind,
    StepRecord,
    StepStatus,
    UnreadRecord,
    WaitRecord,
)
from durable_trio.stores.contract import Store
from durable_trio.stores.sqlite import sqlite3
from durable_trio.turns.deadlines import DeadlineScope
from durable_trio.workflows import Workflow, workflow

__all__ = [
    "ChildRun",
    "Clock",
    "CodecError",
    "CompensationFailed",
    "Context",
    "CurrentStep",
    "DeadlineScope",
    "Detached",
    "DurableError",
    "DurableNursery",
    "EarlierError",
    "Engine",
    "EngineStatus",
    "Event",
    "FailureRecord",
    "MailboxFull",
    "NonDeterminismError",
    "NotADatabase",
    "Observer",
    "OwnershipLost",
    "Page",
    "PayloadTooLarge",
    "Problem",
    "ProcessReport",
    "Retry",
    "Run",
    "RunCancelled",
    "RunConflict",
    "RunExpired",
    "RunFailed",
    "RunFinished",
    "RunNotFound",
    "RunRecord",
    "RunStatus",
    "SchemaTooNew",
    "SignalTimeout",
    "StepFailed",
    "StepInHand",
    "StepInterrupted",
    "StepKind",
    "StepRecord",
    "StepStatus",
    "StepTimeout",
    "Store",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreInUse",
    "StoreReadOnly",
    "StoreRewound",
    "UnknownWorkflow",
    "UnreadRecord",
    "WaitRecord",
    "WorkerFailed",
    "Workflow",
    "current_step",
    "open_engine",
    "sqlite3",
    "workflow",
]
