"""The contract of ``durable_trio.stores.contract.Store`` as pytest tests, for every store, also one that you write.

Subclass ``StoreContract`` in a test module and say how to make a store::

    from durable_trio.testing.store_contract import StoreContract

    class TestMyStore(StoreContract):
        def make_store(self, tmp_path):
            return MyStore(tmp_path / "runs.db")

        def reopen(self, tmp_path):        # only if the data outlives the instance
            return MyStore(tmp_path / "runs.db")

One that can be away, as a server in a network, keeps the contract of outages as well, and says how to cut it off::

    class TestMyStore(OutageContract, StoreContract):
        def cut_off(self, store, *, loses_reply):
            return my_proxy.cut(loses_reply=loses_reply)

Each test gets a new, empty, open store; afterwards it is closed. The name of a test is what must hold.
"""

import pytest

for _part in (
    "abandoning",
    "claims",
    "codes",
    "dead_codes",
    "examination",
    "executors",
    "generations",
    "history",
    "kit",
    "large",
    "life",
    "messages",
    "open_steps",
    "outages",
    "reads",
    "removals",
    "resuming",
    "runs",
    "transactions",
    "unfinished",
    "versions",
):
    pytest.register_assert_rewrite(f"{__name__}.{_part}")

from durable_trio.testing.store_contract.abandoning import AbandonContract  # noqa: E402
from durable_trio.testing.store_contract.claims import ClaimContract  # noqa: E402
from durable_trio.testing.store_contract.codes import CodeContract  # noqa: E402
from durable_trio.testing.store_contract.dead_codes import DeadCodeContract  # noqa: E402
from durable_trio.testing.store_contract.examination import ExaminationContract  # noqa: E402
from durable_trio.testing.store_contract.executors import ExecutorContract  # noqa: E402
from durable_trio.testing.store_contract.generations import GenerationContract  # noqa: E402
from durable_trio.testing.store_contract.history import HistoryContract  # noqa: E402
from durable_trio.testing.store_contract.large import LargeContract  # noqa: E402
from durable_trio.testing.store_contract.life import LifeContract  # noqa: E402
from durable_trio.testing.store_contract.messages import MessageContract  # noqa: E402
from durable_trio.testing.store_contract.open_steps import OpenStepContract  # noqa: E402
from durable_trio.testing.store_contract.outages import OutageContract  # noqa: E402
from durable_trio.testing.store_contract.reads import ReadContract  # noqa: E402
from durable_trio.testing.store_contract.removals import RemovalContract  # noqa: E402
from durable_trio.testing.store_contract.resuming import ResumingContract  # noqa: E402
from durable_trio.testing.store_contract.runs import RunContract  # noqa: E402
from durable_trio.testing.store_contract.transactions import TransactionContract  # noqa: E402
from durable_trio.testing.store_contract.unfinished import UnfinishedContract  # noqa: E402
from durable_trio.testing.store_contract.versions import VersionContract  # noqa: E402

__all__ = ["OutageContract", "StoreContract"]


class StoreContract(
    RunContract,
    LifeContract,
    ClaimContract,
    CodeContract,
    DeadCodeContract,
    HistoryContract,
    GenerationContract,
    MessageContract,
    ResumingContract,
    AbandonContract,
    RemovalContract,
    LargeContract,
    ExecutorContract,
    OpenStepContract,
    TransactionContract,
    ReadContract,
    UnfinishedContract,
    VersionContract,
    ExaminationContract,
):
    """Every verb of a store (module docstring)."""
