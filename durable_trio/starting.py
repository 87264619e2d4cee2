"""What ``engine.start`` was given, checked and made into an operation."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict, cast

from durable_trio.clock import Clock, due_after, from_datetime, seconds_of
from durable_trio.codec import UNANNOTATED, Codec
from durable_trio.errors import CodecError
from durable_trio.limits import check_name
from durable_trio.looks import exact_number, is_a, short
from durable_trio.options import check_options
from durable_trio.rows import NO_VERSION
from durable_trio.stores.contract import StartRun
from durable_trio.workflows import Registry, Workflow, check_tags

# Of a run's seed, from which all that looks random in it is made.
SEED_BYTES: Final = 16


class SignalStartOptions(TypedDict, total=False):
    """The keyword options of ``engine.signal_with_start``: those of ``engine.start`` but the id."""

    queue: str | None
    priority: int
    delay: float | timedelta | None
    at: datetime | None
    ttl: float | timedelta | None
    tags: Mapping[str, str] | None


class StartOptions(SignalStartOptions, total=False):
    """The keyword options of ``engine.start`` and ``engine.run``.

    ``id``: the run's id, default a new UUID; the same id again is the same run. ``queue``: a name to list runs by.
    ``priority``: higher ones are taken first. ``delay`` (seconds) or ``at``: when to begin. ``ttl``: seconds from now
    after which the run fails with ``RunExpired``, default the workflow's. ``tags``: to list and watch by.
    """

    id: str | None


def start_operation(
    workflow: Workflow[Any, Any] | str,
    args: tuple[object, ...],
    options: StartOptions,
    *,
    registry: Registry,
    codec: Codec,
    clock: Clock,
) -> StartRun:
    """Return the operation that stores the run.

    Raises:
        TypeError, ValueError: wrong arguments or options, or names that cannot be stored.
        CodecError, PayloadTooLarge: an argument cannot be stored.
    """
    if options:
        check_options("starting a run", options, StartOptions.__annotations__, arguments="arguments of the workflow")
    if issubclass(type(workflow), Workflow):  # as ``is_a`` does
        known = cast("Workflow[Any, Any] | None", workflow)
        name = cast("Workflow[Any, Any]", workflow).name
    else:
        name = _name_of(workflow)
        known = registry.get(name)
    given_id = options.get("id")
    run_id = str(uuid.uuid4()) if given_id is None else check_name("run id", given_id)
    queue = options.get("queue")
    if queue is not None:
        queue = check_name("queue name", queue)
    where = f"the arguments of run {run_id!r}"
    tags: Mapping[str, str] = {}
    if known is None:
        ttl_seconds = None
        text, digest = codec.encode_arguments(args, (UNANNOTATED,) * len(args), where=where)
    else:
        tags, ttl_seconds = known.tags, known.ttl
        text, digest = encode_bound(known, args, codec=codec, where=where)
    priority, now = 0, clock.stamp()
    due_at = now
    if options:
        priority = _priority(options.get("priority", 0))
        due_at = _due_at(now, options.get("delay"), options.get("at"))
        tags = {**tags, **check_tags(options.get("tags"))}
        ttl = options.get("ttl")
        ttl_seconds = ttl_seconds if ttl is None else seconds_of(ttl, what="ttl")
    return StartRun(
        id=run_id,
        workflow=name,
        args=text,
        args_digest=digest,
        queue=queue,
        priority=priority,
        tags=codec.encode(tags, dict[str, str], where="tags").text if tags else "{}",
        seed=secrets.token_bytes(SEED_BYTES),
        created_at=now,
        due_at=due_at,
        ttl_at=None if ttl_seconds is None else due_after(now, ttl_seconds),
        version=NO_VERSION if known is None else known.version,
    )


def encode_bound(
    workflow: Workflow[Any, Any], args: tuple[Any, ...], *, codec: Codec, where: str, is_digest_of_all: bool = False
) -> tuple[str, bytes]:
    """Return the text of arguments with the defaults of those that are left out, and the digest of those given.

    So a run keeps the defaults that its workflow had when it was started; a default that cannot be stored is left to
    the code, with those behind it. Who starts a run twice in the same words starts it once, whatever the defaults are
    by then. ``is_digest_of_all``: the digest is that of the text.

    Raises:
        TypeError: too few or too many arguments.
        CodecError, PayloadTooLarge: an argument cannot be stored.
    """
    bound = workflow.completed(args)
    digest_count = None if is_digest_of_all else len(args)
    while True:
        try:
            annotations = workflow.argument_types
            if len(bound) != len(annotations):
                annotations = workflow.annotations_for(len(bound))
            return codec.encode_arguments(
                bound, annotations, where=where, digest_count=digest_count, names=workflow.argument_names
            )
        except CodecError:
            if len(bound) == len(args):
                raise
            bound = bound[:-1]


def is_same_start(workflow: Workflow[Any, Any] | None, stored: str, args: tuple[Any, ...], *, codec: Codec) -> bool:
    """Return whether a run was started with these arguments, as the code of now sees both.

    What it does not find in the text, such as a field that a class did not have then, it takes as its default.
    """
    if workflow is None:
        return False
    where = "arguments"
    try:
        decoded = codec.decode_arguments(stored, workflow.annotations_for, where=where)
        known, asked = (
            encode_bound(workflow, each, codec=codec, where=where, is_digest_of_all=True)[1] for each in (decoded, args)
        )
    except (CodecError, TypeError):
        return False
    return known == asked


def _name_of(workflow: object) -> str:
    """Return the name that was given in place of a workflow."""
    if not is_a(workflow, str):
        raise TypeError(
            f"start takes a workflow or its name, not {short(workflow)}; decorate the function with @workflow"
        )
    return check_name("workflow name", workflow)


def _priority(priority: object) -> int:
    number = exact_number(priority)
    if type(number) is not int or not -(2**31) <= number < 2**31:
        raise ValueError(f"priority must be an int of at most 32 bits, not {short(priority)}")
    return number


def _due_at(now: int, delay: float | timedelta | None, at: datetime | None) -> int:
    if delay is not None and at is not None:
        raise ValueError("give either delay or at, not both")
    if delay is not None:
        return due_after(now, seconds_of(delay, what="delay"))
    return now if at is None else max(now, from_datetime(at, what="at"))
