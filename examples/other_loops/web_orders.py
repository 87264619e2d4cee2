"""Web: a shop's orders over HTTP, with FastAPI. Each is a run: the server may be killed with -9, the order goes on.

uvicorn --app-dir examples/other_loops web_orders:app --timeout-graceful-shutdown 5    # --workers 2 if you like
curl -X PUT 'localhost:8000/orders/7?item=tea&cents=490'
curl -N localhost:8000/orders/7/events    # goes on until the order has ended
curl -X POST 'localhost:8000/orders/7/approval?is_approved=true'
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.sse import EventSourceResponse

from durable_trio import Context, RunConflict, RunNotFound, current_step, workflow
from durable_trio.asyncio import from_asyncio, open_engine

FOLDER = Path(os.environ.get("SHOP_FOLDER", "web_orders-data"))
HOST: Any = os.environ.get("SHOP_HOST", "guest")  # or thread: in one of its own


def write_down(text: str) -> str:  # what the shop does; look here for what was done
    with (FOLDER / "ledger.txt").open("a") as ledger:
        ledger.write(f"{current_step().run_id}: {text}\n")
    return text


async def charge(cents: int) -> str:  # a task of the server's loop
    await asyncio.sleep(0.5)
    return write_down(f"{cents} cents charged")


@workflow
async def handle(ctx: Context, item: str, cents: int) -> str:
    await ctx.publish("state", await ctx.step("reserve", write_down, f"{item} reserved"))
    if not await ctx.wait_signal("approval", bool, timeout=86_400):
        return "refused"
    await ctx.publish("state", await ctx.step("charge", from_asyncio(charge), cents))
    return await ctx.step("ship", write_down, f"{item} shipped")


@asynccontextmanager
async def serve_runs(app: FastAPI) -> AsyncIterator[None]:
    await asyncio.to_thread(FOLDER.mkdir, parents=True, exist_ok=True)
    async with open_engine(FOLDER / "app.db", workflows=[handle], host=HOST) as app.state.engine:
        yield


app = FastAPI(lifespan=serve_runs)
for kind, code in ((RunNotFound, 404), (RunConflict, 409)):
    app.add_exception_handler(kind, lambda _, error, code=code: PlainTextResponse(str(error), code))


@app.put("/orders/{number}", status_code=202)
async def place(number: str, item: str, cents: int) -> None:
    await app.state.engine.start(handle, item, cents, id=number)


@app.post("/orders/{number}/approval", status_code=202)
async def approve(number: str, is_approved: bool) -> None:
    await app.state.engine.send_signal(number, "approval", is_approved, id="approval")


@app.get("/orders/{number}")
async def look(number: str) -> dict[str, Any]:
    record = await app.state.engine.get(number).record()
    return {"status": record.status, "state": record.values.get("state"), "result": record.result}


@app.get("/orders/{number}/events", response_class=EventSourceResponse)
async def follow(number: str) -> AsyncIterator[dict[str, Any]]:
    async with app.state.engine.get(number).watch() as changes:
        async for record in changes:
            yield {"status": record.status, "state": record.values.get("state"), "result": record.result}
