"""The two workflows: what a user of the library writes.

Both are ordinary ``async def``. Each step's outcome is committed before the next line runs, so that a process which
dies anywhere in here goes on at that line in the next process, with the same local variables.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, Literal
from urllib.parse import quote

import attrs

from demo_parts import outside
from demo_parts.places import source_tree
from durable_trio import Context, Retry, current_step, workflow

CHUNK_BYTES: Final = 4 * 1024

# The shop is in trouble for a moment now and then; it is asked again, with the same idempotency key.
PATIENTLY: Final = Retry.exponential(20, 0.05, max_delay=0.5, jitter=0.3)


# ---- mirroring a file --------------------------------------------------------------------------------------------


@attrs.frozen
class SourceFile:
    """A file of the tree. ``path`` is relative, with slashes."""

    path: str
    size_bytes: int

    @property
    def chunk_count(self) -> int:
        """How many chunks it has; an empty file has one, which is empty."""
        return max(1, -(-self.size_bytes // CHUNK_BYTES))


@workflow
async def mirror_file(ctx: Context, file: SourceFile) -> str:
    """Copy a file to the object store, a step per chunk; return the SHA-256 of all its chunks' hashes."""
    whole = hashlib.sha256()
    for number in range(file.chunk_count):
        digest = await ctx.step("chunk", upload_chunk, file.path, number, retry=Retry.fixed(5, 0.2, on=OSError))
        whole.update(bytes.fromhex(digest))
    return whole.hexdigest()


async def upload_chunk(path: str, number: int) -> str:
    """Upload one chunk and return its SHA-256. Done twice it changes nothing: the store knows the chunk."""
    chunk = read_chunk(path, number)
    digest = hashlib.sha256(chunk).hexdigest()
    target = f"/objects/{quote(path)}?chunk={number}"
    response = await outside.object_store.request("PUT", target, headers={"x-chunk-sha256": digest}, body=chunk)
    if response.status not in (200, 201):
        raise OSError(f"the object store answers {response.status}: {response.body.decode()}")
    return digest


def read_chunk(path: str, number: int) -> bytes:
    """Return a chunk of a file of the tree: so little, from the page cache, is not worth a thread."""
    with open(source_tree() / path, "rb") as source:
        source.seek(number * CHUNK_BYTES)
        return source.read(CHUNK_BYTES)


# ---- a checkout --------------------------------------------------------------------------------------------------


@attrs.frozen
class Order:
    """What somebody wants to buy."""

    id: str
    item: str
    pieces: int
    cents: int


@attrs.frozen
class Payment:
    """A charge that the shop has made."""

    id: str
    order: str
    cents: int


@attrs.frozen
class Receipt:
    """What the customer gets."""

    order: str
    payment: str
    shipment: str


class OrderDeclined(Exception):
    """The order cannot be carried out; what was paid is given back."""


class ShopUnavailable(Exception):
    """The shop did not do it, or did not say whether it did."""


@workflow
async def checkout(ctx: Context, order: Order) -> Receipt:
    """Take the money, wait for what the warehouse says, ship; or give the money back."""
    await ctx.step("validate", validate, order)
    payment = await ctx.step("pay", pay, order, retry=PATIENTLY, compensate=refund, compensate_retry=PATIENTLY)
    answer = await ctx.wait_signal("warehouse", Literal["in stock", "sold out"])
    if answer == "sold out":
        raise OrderDeclined(f"{order.item} is sold out")  # the engine now runs ``refund(payment)``
    shipment = await ctx.step("ship", ship, order, retry=PATIENTLY)
    return Receipt(order.id, payment.id, shipment)


def validate(order: Order) -> None:
    """Refuse what makes no sense. A function that is not async runs in a thread."""
    if order.pieces < 1 or order.cents < 1:
        raise ValueError(f"order {order.id!r} is for {order.pieces} pieces and {order.cents} cents")


async def pay(order: Order) -> Payment:
    """Charge the customer."""
    charge = await _ask_shop("/charges", {"order": order.id, "cents": order.cents})
    return Payment(charge["id"], order.id, order.cents)


async def refund(payment: Payment) -> str:
    """Undo ``pay``."""
    done = await _ask_shop("/refunds", {"order": payment.order, "charge": payment.id, "cents": payment.cents})
    return str(done["id"])


async def ship(order: Order) -> str:
    """Send the parcel."""
    done = await _ask_shop("/shipments", {"order": order.id})
    return str(done["id"])


async def _ask_shop(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    # The key is the same in every attempt of this step, in whatever process: the shop has one effect for it.
    headers = {"idempotency-key": current_step().idempotency_key}
    try:
        response = await outside.shop.request("POST", path, headers=headers, body=json.dumps(fields).encode())
    except OSError as error:
        raise ShopUnavailable(f"{path}: {error}") from error
    if response.status not in (200, 201):
        raise ShopUnavailable(f"{path}: status {response.status}, {response.body.decode()}")
    answer: dict[str, Any] = json.loads(response.body)
    return answer
