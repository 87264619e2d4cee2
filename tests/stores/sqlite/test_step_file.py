"""The file in which executors note what they are executing: who has which part of it, and what may go wrong."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from pathlib import Path

import pytest

from durable_trio.stores.contract import ReapExecutor
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.stores.sqlite.step_file import StepFile
from durable_trio.stores.step_slots import PACK_NOTED, REGION_BYTES, StepSlots
from durable_trio.testing.store_contract.kit import one as apply_one
from durable_trio.testing.store_contract.kit import register

living: set[int] = set()


def file_at(path: Path) -> StepFile:
    return StepFile(str(path / "runs.db"), lambda executor: executor in living)


def begin(file: StepFile, executor: int, *names: str) -> StepSlots:
    living.add(executor)
    slots = file.begin(executor)
    assert slots is not None
    for name in names:
        slots.take(PACK_NOTED(executor, 1, 2, 3, 0) + f"step\0{name}\0".encode())
    return slots


def told(file: StepFile) -> dict[int, list[str]]:
    return {region.executor: [step.key.name for step in region.steps] for region in file.read()}


@pytest.fixture(autouse=True)
def nobody_lives() -> None:
    living.clear()


def test_everybody_sees_what_each_executor_is_at(tmp_path: Path) -> None:
    one, other = file_at(tmp_path), file_at(tmp_path)
    begin(one, 1, "a")
    begin(other, 2, "b", "c")
    assert told(file_at(tmp_path)) == {1: ["a"], 2: ["b", "c"]}
    assert [region.executor for region in one.read(2) if region.steps] == [2]
    assert stat.S_IMODE((tmp_path / "runs.db-steps").stat().st_mode) == 0o600


def test_who_leaves_takes_it_along_and_nothing_is_left_of_the_last_one(tmp_path: Path) -> None:
    one, other = file_at(tmp_path), file_at(tmp_path)
    begin(one, 1, "a")
    begin(other, 2, "b")
    one.close()
    assert told(other) == {2: ["b"]}
    other.end(2)
    other.end(2)
    assert told(one) == {}
    assert (tmp_path / "runs.db-steps").stat().st_size == 0


def test_nobody_waits_for_one_that_was_stopped_while_it_took_a_region(tmp_path: Path) -> None:
    first = file_at(tmp_path)
    begin(first, 1, "a")
    descriptor = os.open(tmp_path / "runs.db-steps", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert file_at(tmp_path).begin(2) is None
        first.end(1)
    finally:
        os.close(descriptor)
    begin(file_at(tmp_path), 3, "b")
    assert told(first) == {1: ["a"], 3: ["b"]}


def test_of_the_last_ones_that_have_died_it_is_told_what_they_were_at(tmp_path: Path) -> None:
    for executor in range(1, 21):
        begin(file_at(tmp_path), executor, f"step{executor}")
        living.clear()
    assert told(file_at(tmp_path)) == {executor: [f"step{executor}"] for executor in range(13, 21)}
    assert (tmp_path / "runs.db-steps").stat().st_size == 8 * REGION_BYTES


def test_what_one_of_many_has_left_is_not_written_over_by_the_next(tmp_path: Path) -> None:
    """However many live: what died last is looked at most."""
    for executor in range(1, 12):
        begin(file_at(tmp_path), executor, f"step{executor}")
    living.discard(5)
    begin(file_at(tmp_path), 12, "step12")
    assert told(file_at(tmp_path)) == {executor: [f"step{executor}"] for executor in range(1, 13)}


def test_one_that_was_declared_dead_by_others_and_goes_on_as_another_leaves_nothing_behind(
    store: SqliteStore, other: SqliteStore
) -> None:
    for _ in range(5):
        executor = register(store)
        assert store.note_steps(executor) is not None
        assert apply_one(other, ReapExecutor(executor=executor, now=1)) == 0
        assert apply_one(store, ReapExecutor(executor=executor, now=1)) is None
        assert not other.executor_is_alive(executor)
    assert os.stat(f"{store.path}-steps").st_size == 0


def test_what_a_living_one_writes_to_is_given_to_nobody_else_though_it_was_declared_dead(tmp_path: Path) -> None:
    """It may hang, and go on later: then it must not write into what another one tells."""
    hung = begin(file_at(tmp_path), 1, "hung")
    for executor in range(2, 20):
        begin(file_at(tmp_path), executor, "x")
        living.discard(executor)
    hung.take(PACK_NOTED(1, 1, 2, 3, 0) + b"step\0again\0")
    found = told(file_at(tmp_path))
    assert found[1] == ["hung", "again"]
    assert all(names == ["x"] for executor, names in found.items() if executor != 1)


def test_without_room_it_is_said_once_and_nothing_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory that has no disk behind it would kill the process: nothing is mapped that has not taken its room."""

    def is_full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", is_full)
    with caplog.at_level(logging.WARNING):
        assert file_at(tmp_path).begin(1) is None
    (record,) = caplog.records
    assert "not shown" in record.getMessage()
    assert "No space left" in record.getMessage()


def test_a_file_of_another_kind_in_its_place_switches_it_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"x" * REGION_BYTES)
    (tmp_path / "runs.db-steps").symlink_to(victim)
    assert file_at(tmp_path).begin(1) is None
    assert file_at(tmp_path).read() == ()
    assert victim.read_bytes() == b"x" * REGION_BYTES
    assert len(caplog.records) == 1


def test_what_another_version_has_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "runs.db-steps"
    path.write_bytes(b"dtsteps9" * (REGION_BYTES // 8))
    file = file_at(tmp_path)
    begin(file, 1, "a")
    assert told(file) == {1: ["a"]}
    file.close()
    assert path.read_bytes()[:REGION_BYTES] == b"dtsteps9" * (REGION_BYTES // 8)


@pytest.mark.parametrize("size", [0, 10, 100, REGION_BYTES - 1, REGION_BYTES + 7])
def test_a_file_that_was_cut_tells_what_is_left_of_it_and_is_used_again(tmp_path: Path, size: int) -> None:
    first = file_at(tmp_path)
    first.begin(1)
    first.begin(2)
    os.truncate(tmp_path / "runs.db-steps", size)
    assert set(told(file_at(tmp_path))) == ({1} if size > REGION_BYTES else set())
    file = file_at(tmp_path)
    begin(file, 3, "a")
    assert told(file)[3] == ["a"]


def test_a_file_that_was_removed_is_made_anew_and_nobody_frees_what_is_anothers(tmp_path: Path) -> None:
    first = file_at(tmp_path)
    slots = begin(first, 1, "a")
    (tmp_path / "runs.db-steps").unlink()
    second = file_at(tmp_path)
    begin(second, 1, "b")  # the database was removed as well, and ids begin anew
    slots.take(PACK_NOTED(1, 1, 2, 3, 0) + b"step\0c\0")
    assert told(second) == {1: ["b"]}
    first.close()
    assert told(second) == {1: ["b"]}
