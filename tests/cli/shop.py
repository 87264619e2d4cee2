"""A small shop whose runs come to rest in every status there is; run as a program, it fills and serves a database."""

from __future__ import annotations

import sys
from typing import Any

import trio

from durable_trio import Context, Engine, Retry, RunStatus, Workflow, current_step, open_engine, workflow

PATIENCE_SECONDS = 60


async def pay(amount: int) -> int:
    if current_step().attempt < 3:
        raise ConnectionError("the bank did not answer")
    return amount


async def reserve(item: str) -> dict[str, str]:
    return {"item": item}


async def undo(_result: Any) -> None:
    await trio.sleep(0.01)


async def ship() -> None:
    raise RuntimeError("out of stock\nthe supplier says: next week")


async def hang(*_args: Any) -> None:
    await trio.sleep_forever()


@workflow
async def order(ctx: Context, amount: int, options: dict[str, Any] | None = None) -> dict[str, Any]:
    await ctx.step("pay", pay, amount, retry=Retry.fixed(3, 0.02), compensate=undo)
    await ctx.step("reserve", reserve, "chair", compensate=undo)
    await ctx.sleep(0.05)
    approval = await ctx.wait_signal("approval", timeout=3 * 86_400)
    if approval == "refused":
        await ctx.step("ship", ship)
    return {"approved": approval, "名前": "椅子"}


@workflow
async def branches(ctx: Context, count: int) -> Any:
    async def leg(branch: Context, number: int) -> None:
        await branch.step("load", reserve, str(number))
        await branch.step("unload", reserve, str(number))

    async with ctx.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(leg, number)
    await ctx.map("weigh", reserve, ["a", "b"])
    await ctx.publish("progress", 0.75)
    return await ctx.run_child(packing, "chair", id=f"{ctx.run_id}-child")


@workflow
async def packing(ctx: Context, item: str) -> Any:
    return await ctx.step("pack", reserve, item)


@workflow
async def slow(ctx: Context) -> None:
    await ctx.step("begin", reserve, "x")
    await ctx.step("work", hang, at_most_once=True)


@workflow
async def stuck(ctx: Context) -> None:
    await ctx.step("reserve", reserve, "x", compensate=hang)
    await ctx.step("ship", ship)


def payroll(step_name: str) -> Workflow[[], None]:
    """Return a workflow whose code is one that does not fit the history of the other."""

    @workflow(name="payroll")
    async def body(ctx: Context) -> None:
        await ctx.step(step_name, reserve, "x")
        await ctx.wait_signal("paid out")

    return body


KNOWN = (order, branches, packing, slow, stuck)


async def reach(engine: Engine, run_id: str, *statuses: RunStatus, is_parked: bool = False, steps: int = 0) -> None:
    """Return once a run has one of the statuses, is parked if that is asked for, and has so many steps."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:  # polled: a watch merges states, and steps are none
            run = engine.get(run_id)
            record = await run.record()
            is_there = record.status in statuses and (record.problem is not None) == is_parked
            if is_there and len(await run.steps()) >= steps:
                return
            await trio.sleep(0.01)


async def fill(path: str) -> None:
    """Fill a database with a run in each status, but for those that need a process."""
    async with open_engine(path, workflows=[*KNOWN, payroll("charge card")]) as engine:
        await engine.start(payroll("charge card"), id="payroll-12")
        # One after the other, so that their changes have an order.
        for number, options in ((7, {"gift": True}), (8, None), (9, None), (10, None)):
            tags = {"customer": "anna", "region": "eu"} if number == 7 else None
            await engine.start(order, 30 + number, options, id=f"order-{number}", tags=tags)
            await reach(engine, f"order-{number}", RunStatus.SUSPENDED, steps=3)
        await engine.start(branches, 2, id="branches-1")
        await engine.start(order, 5, None, id="注文-11")
        await reach(engine, "注文-11", RunStatus.SUSPENDED, steps=3)
        await engine.send_signal("order-7", "approval", True)
        await reach(engine, "order-7", RunStatus.COMPLETED)
        await engine.send_signal("order-8", "approval", "refused")
        await reach(engine, "order-8", RunStatus.FAILED)
        await engine.cancel("order-9", reason="it rains")
        await reach(engine, "order-9", RunStatus.CANCELLED)
        await reach(engine, "branches-1", RunStatus.COMPLETED)
        await reach(engine, "payroll-12", RunStatus.SUSPENDED, steps=1)


async def serve(path: str) -> None:
    """Serve a database with other code of payroll, and say so once all is at rest."""
    async with open_engine(path, workflows=[*KNOWN, payroll("charge account")], grace_seconds=0) as engine:
        await engine.start("landing", 1, id="pending-1", delay=86_400)
        await engine.start(slow, id="slow-1")
        await engine.start(stuck, id="stuck-1")
        await engine.send_signal("payroll-12", "paid out")
        await reach(engine, "payroll-12", RunStatus.SUSPENDED, is_parked=True)
        await reach(engine, "slow-1", RunStatus.RUNNING, steps=1)
        await reach(engine, "stuck-1", RunStatus.COMPENSATING, steps=2)
        while not await engine.get("slow-1").waits():  # noqa: ASYNC110  # the intent of the second step
            await trio.sleep(0.01)
        print("ready", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    if sys.argv[2:] == ["again"]:
        trio.run(Engine(sys.argv[1], workflows=KNOWN).serve)
    else:
        trio.run(fill, sys.argv[1])
        trio.run(serve, sys.argv[1])
