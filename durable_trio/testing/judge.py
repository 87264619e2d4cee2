"""Holds what a file contains at one instant against what was told to the outside world (see ``checker``)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from durable_trio.engine.runs.suspects import SET_ASIDE
from durable_trio.testing.snapshots import FINAL, Line, Snapshot, Violation

__all__ = ["Judge", "reference_key"]

#: Keys of a result that begin with this may differ between a run with faults and one without.
VARIES: Final = "~"


def reference_key(workflow: str, args: str) -> str:
    """Return where the reference keeps the result of a workflow with these arguments (JSON text)."""
    return f"{workflow} {args}"


class Judge:
    """Holds one snapshot against the logs. Each method yields the violations of one or two points."""

    def __init__(
        self, now: Snapshot, acks: Sequence[Line], ledger: Sequence[Line], effects: Counter[tuple[str, str]] | None
    ) -> None:
        self.now = now
        self.counters: Counter[str] = Counter()
        self._effects = effects
        self._resumed = {line["run"] for line in acks if line["kind"] == "resume"}
        self._deleted = {line["run"] for line in acks if line["kind"] == "delete"}
        self._acks = [line for line in acks if line["run"] not in self._deleted]
        self._ledger = [line for line in ledger if line["run"] not in self._deleted]
        self._rows = {(run, row["text"]): row for run, rows in now.history.items() for row in rows}
        self._asks: dict[tuple[str, str], Line] = {}
        for line in self._acks:
            if line["kind"] == "ask":
                self._asks[line["run"], line["key"]] = line

    def all(self, reference: Mapping[str, Any] | None, *, all_ended: bool) -> Iterator[Violation]:
        """Yield the violations of all points that one instant can show."""
        yield from self._acknowledged()
        yield from self._whole()
        yield from self._history()
        yield from self._effects_of_steps()
        yield from self._effects_of_transactions()
        yield from self._signals()
        yield from self._timers()
        yield from self._compensations()
        yield from self._children()
        if reference is not None:
            yield from self._results(reference)
        for run in self.now.runs.values():
            self.counters[f"runs {run['status']}"] += 1
            if all_ended and run["status"] not in FINAL:
                yield Violation(14, f"run {run['id']!r} has not ended: it is {run['status']}, wake_at {run['wake_at']}")

    # ---- point 1 -----------------------------------------------------------------------------------------------

    def _acknowledged(self) -> Iterator[Violation]:
        for line in self._acks:
            kind, run = line["kind"], self.now.runs.get(line["run"])
            if kind in ("ask", "resume"):
                continue
            self.counters[f"acknowledged {kind}"] += 1
            if run is None:
                yield Violation(1, f"{kind} of run {line['run']!r} was acknowledged, but the run is not stored")
            elif kind == "start":
                if run["workflow"] != line["workflow"] or json.loads(run["args"]) != line["args"]:
                    yield Violation(1, f"run {line['run']!r} was acknowledged with other arguments")
            elif kind == "outcome":
                yield from self._outcome(line)
            elif kind == "send":
                if not any(entry["signal_id"] == line["id"] for entry in self.now.mailbox.get(line["run"], ())):
                    yield Violation(1, f"signal {line['id']!r} to run {line['run']!r} was acknowledged and is lost")
            elif kind == "cancel":
                yield from self._cancel(line, run)
            elif kind == "publish":
                if line["key"] not in self.now.published.get(line["run"], {}):
                    yield Violation(1, f"value {line['key']!r} of run {line['run']!r} was published and is lost")
            elif kind == "ended" and line["run"] not in self._resumed:
                yield from self._ending(line, run)

    def _outcome(self, line: Line) -> Iterator[Violation]:
        row = self._rows.get((line["run"], line["key"]))
        name = f"{line['key']!r} of run {line['run']!r}"
        if row is None:
            if line["run"] not in self._resumed:
                yield Violation(1, f"the outcome of {name} was acknowledged, but is not stored")
        elif "error" in line:
            if row["error"] is None:
                if line["run"] not in self._resumed:
                    yield Violation(1, f"{name} had failed with {line['error']!r}, stored is {row['result']!r}")
            elif json.loads(row["error"]).get("message") != line["error"]:
                yield Violation(3, f"{name} had failed with {line['error']!r}, stored is {row['error'][:200]!r}")
        elif row["error"] is not None or json.loads(row["result"] or "null") != line["value"]:
            stored = row["result"] if row["error"] is None else row["error"][:200]
            yield Violation(3, f"{name} had given {line['value']!r}, stored is {stored!r}")

    def _cancel(self, line: Line, run: Line) -> Iterator[Violation]:
        if not line["requested"]:
            return
        entries = [entry for entry in self.now.mailbox.get(line["run"], ()) if entry["kind"] == "cancel"]
        if not entries and run["status"] != "cancelled":
            yield Violation(1, f"the request to cancel run {line['run']!r} was acknowledged and is lost")
        elif run["status"] == "completed":
            yield Violation(9, f"the request to cancel run {line['run']!r} was acknowledged, and it is completed")

    def _ending(self, line: Line, run: Line) -> Iterator[Violation]:
        if run["status"] != line["status"]:
            yield Violation(9, f"run {line['run']!r} had ended as {line['status']} and is {run['status']} now")
        elif run["status"] == "completed" and json.loads(run["result"] or "null") != line["result"]:
            yield Violation(9, f"run {line['run']!r} had given {line['result']!r}, stored is {run['result']!r}")

    # ---- points 2 and 3 ----------------------------------------------------------------------------------------

    def _whole(self) -> Iterator[Violation]:
        # The end of a child wakes its parent.
        parents = {run["parent_id"] for run in self.now.runs.values() if run["status"] not in FINAL}
        for name, run in self.now.runs.items():
            is_final = run["status"] in FINAL
            keys = {row["text"] for row in self.now.history.get(name, ())}
            waits = self.now.waits.get(name, ())
            for wait in waits:
                if wait["text"] in keys:
                    yield Violation(2, f"{wait['text']!r} of run {name!r} has an outcome and still a wait")
            if is_final != (run["finished_at"] is not None):
                yield Violation(2, f"run {name!r} is {run['status']} with finished_at {run['finished_at']}")
            if is_final and (waits or run["owner"] is not None or run["wake_at"] is not None):
                yield Violation(2, f"run {name!r} has ended and still has an owner, a wake_at or waits")
            if run["owner"] is not None and run["owner"] not in self.now.living:
                yield Violation(8, f"run {name!r} belongs to executor {run['owner']}, which has ended")
            is_free = run["owner"] is None and not is_final and run["problem"] is None and name not in parents
            if is_free and run["wake_at"] is None and run["waits_for"] in (None, "[]"):
                yield Violation(14, f"run {name!r} is {run['status']}, and nothing will ever wake it")
            seqs = {row["seq"]: row for row in self.now.history.get(name, ())}
            for entry in self.now.mailbox.get(name, ()):
                if entry["kind"] == "child":
                    continue  # only noted: the row of the child's end is written by the call that waits for it
                row = seqs.get(entry["seq"])
                if entry["seq"] is not None and (row is None or row["kind"] != entry["kind"]):
                    yield Violation(2, f"{entry['kind']} {entry['name']!r} of run {name!r} was consumed by no row")

    def _history(self) -> Iterator[Violation]:
        for name, rows in self.now.history.items():
            self.counters["history rows"] += len(rows)
            keys = Counter(row["text"] for row in rows)
            for key, count in keys.items():
                if count > 1:
                    yield Violation(3, f"{key!r} of run {name!r} has {count} outcomes")
            seqs = [row["seq"] for row in rows]
            if any(later <= earlier for earlier, later in pairwise(seqs)):
                yield Violation(3, f"the rows of run {name!r} do not rise: {seqs}")
            for row in rows:
                if row["error"] is not None and "StepInterrupted" in row["error"]:
                    self.counters["at-most-once interrupted"] += 1

    # ---- point 4 -----------------------------------------------------------------------------------------------

    def _effects_of_steps(self) -> Iterator[Violation]:
        executions: dict[tuple[str, str], list[Line]] = defaultdict(list)
        for line in self._ledger:
            executions[line["run"], line["key"]].append(line)
        self.counters["effects"] += len(self._ledger)
        for (run, key), lines in executions.items():
            name = f"{key!r} of run {run!r}"
            row = self._rows.get((run, key))
            if len({line["idempotency_key"] for line in lines}) > 1:
                yield Violation(4, f"{name} was executed with several idempotency keys")
            if len(lines) > 1 and any(line.get("at_most_once") for line in lines):
                yield Violation(4, f"{name} is at-most-once and was executed {len(lines)} times")
            attempts = [line["attempt"] for line in lines]
            if run not in self._resumed and not _is_counting(attempts):
                yield Violation(4, f"{name} was executed with the attempts {attempts}: the count was lost")
            late = [] if row is None else [line for line in lines if line["at"] > row["finished_at"]]
            if late and run not in self._resumed:
                yield Violation(4, f"{name} was executed again after its outcome was recorded")
            self.counters["executed again"] += len(lines) - len(set(attempts))
        witnessed = {run for run, _ in executions}
        for (run, key), row in self._rows.items():
            if row["kind"] not in ("step", "compensation") or run not in witnessed:
                continue
            if "StepInterrupted" in (row["error"] or ""):
                continue
            found = [line for line in executions.get((run, key), ()) if line["attempt"] == row["attempt"]]
            if not found:
                yield Violation(4, f"{key!r} of run {run!r} has an outcome of attempt {row['attempt']}, never executed")

    def _effects_of_transactions(self) -> Iterator[Violation]:
        if self._effects is None:
            return
        for (run, key), row in self._rows.items():
            if row["kind"] == "transaction" and run not in self._deleted:
                expected = 1 if row["status"] == "completed" else 0
                count = self._effects[run, key]
                self.counters["transactions"] += 1
                if count != expected:
                    yield Violation(4, f"transaction {key!r} of run {run!r} ({row['status']}) has {count} effects")
        for run, key in self._effects:
            if (run, key) not in self._rows and run in self.now.runs:
                yield Violation(4, f"transaction {key!r} of run {run!r} has effects and no outcome")

    # ---- point 5 -----------------------------------------------------------------------------------------------

    def _signals(self) -> Iterator[Violation]:
        for name in self.now.runs:
            entries = [entry for entry in self.now.mailbox.get(name, ()) if entry["kind"] == "signal"]
            takers = Counter(entry["seq"] for entry in entries if entry["seq"] is not None)
            rows = {row["seq"]: row for row in self.now.history.get(name, ()) if row["kind"] == "signal"}
            for count in takers.values():
                if count > 1:
                    yield Violation(5, f"{count} signals of run {name!r} were consumed by one row")
            for seq, row in rows.items():
                taken = [entry for entry in entries if entry["seq"] == seq]
                if row["status"] == "completed" and len(taken) != 1:
                    yield Violation(5, f"{row['text']!r} of run {name!r} has consumed {len(taken)} signals")
                for entry in taken:
                    self.counters["signals consumed"] += 1
                    if (entry["name"], entry["payload"]) != (row["name"], row["result"]):
                        yield Violation(5, f"{row['text']!r} of run {name!r} has not the signal's payload")
            yield from self._order(name, entries)
        yield from self._arrival()

    def _order(self, run: str, entries: Sequence[Line]) -> Iterator[Violation]:
        by_name: dict[str, list[Any]] = defaultdict(list)
        for entry in entries:
            by_name[entry["name"]].append(entry["seq"])
        for name, seqs in by_name.items():
            consumed = [seq for seq in seqs if seq is not None]
            if consumed != sorted(consumed) or None in seqs[: len(consumed)]:
                yield Violation(5, f"signals {name!r} of run {run!r} were consumed out of order: {seqs}")

    def _arrival(self) -> Iterator[Violation]:
        """What one sender has sent one after the other has arrived in that order."""
        sent: dict[tuple[Any, ...], list[str]] = defaultdict(list)
        for line in self._acks:
            if line["kind"] == "send" and line["id"] not in sent[line["run"], line["name"], line["sender"]]:
                sent[line["run"], line["name"], line["sender"]].append(line["id"])
        for (run, name, _), ids in sent.items():
            places = {entry["signal_id"]: entry["id"] for entry in self.now.mailbox.get(run, ())}
            order = [places[item] for item in ids if item in places]
            if order != sorted(order):
                yield Violation(5, f"signals {name!r} of run {run!r} did not arrive in the order of sending")

    # ---- point 6 -----------------------------------------------------------------------------------------------

    def _timers(self) -> Iterator[Violation]:
        sends = {(line["run"], line["id"]): line["at"] for line in reversed(self._acks) if line["kind"] == "send"}
        for (run, key), ask in self._asks.items():
            row = self._rows.get((run, key))
            if row is None or ask.get("seconds") is None:
                continue
            due_at = row["started_at"] + round(ask["seconds"] * 1_000_000)
            if row["kind"] == "sleep" or row["status"] == "timed_out":
                self.counters["timers"] += 1
                if row["finished_at"] < due_at:
                    early = due_at - row["finished_at"]
                    yield Violation(6, f"{row['kind']} {key!r} of run {run!r} has ended {early} µs before its time")
            if row["kind"] == "signal" and row["status"] == "timed_out":
                for entry in self.now.mailbox.get(run, ()):
                    is_later = entry["seq"] is None or entry["seq"] > row["seq"]
                    sent_at = sends.get((run, entry["signal_id"]))
                    if entry["name"] == row["name"] and is_later and sent_at is not None and sent_at <= due_at:
                        yield Violation(5, f"{key!r} of run {run!r} timed out, though a signal had come in time")

    # ---- point 7 -----------------------------------------------------------------------------------------------

    def _compensations(self) -> Iterator[Violation]:
        arguments = {(line["run"], line["key"]): line["argument"] for line in self._ledger if "argument" in line}
        for name, run in self.now.runs.items():
            rows = self.now.history.get(name, ())
            done = [row for row in rows if row["kind"] == "compensation"]
            steps = [row for row in rows if row["compensates"]]
            for row in rows:
                ask = self._asks.get((name, row["text"]))
                is_due = ask is not None and ask.get("compensate") and row["status"] == "completed"
                if is_due and not row["compensates"] and name not in self._resumed:
                    yield Violation(7, f"the compensation of {row['text']!r} of run {name!r} was not registered")
            expected = [f"compensate/{row['text']}" for row in reversed(steps)]
            found = [row["text"] for row in done]
            self.counters["compensations"] += len(found)
            if found != expected[: len(found)]:
                yield Violation(7, f"run {name!r} has compensated {found}, the reverse of its steps is {expected}")
            is_due = run["status"] in ("failed", "cancelled") and SET_ASIDE not in (run["error"] or "")
            if is_due and len(found) < len(expected):
                yield Violation(7, f"run {name!r} is {run['status']} and has compensated only {found} of {expected}")
            if run["status"] == "completed" and found:
                yield Violation(7, f"run {name!r} is completed and has compensated {found}")
            failed = sum(row["status"] != "completed" for row in done)
            if run["status"] in FINAL and len(json.loads(run["compensation_errors"])) != failed:
                yield Violation(7, f"{failed} compensations of run {name!r} have failed, not all are kept")
            for step in steps:
                given = arguments.get((name, f"compensate/{step['text']}"), _NOTHING)
                if given is not _NOTHING and given != json.loads(step["result"] or "null"):
                    yield Violation(7, f"the compensation of {step['text']!r} of run {name!r} was given {given!r}")

    # ---- point 10 ----------------------------------------------------------------------------------------------

    def _children(self) -> Iterator[Violation]:
        """Each row of a started child has its run, and each child the row."""
        started = Counter(run["parent_id"] for run in self.now.runs.values() if run["parent_id"] is not None)
        for name, run in self.now.runs.items():
            rows = sum(row["kind"] == "child" for row in self.now.history.get(name, ()))
            self.counters["children"] += rows
            if run["generation"] == 0 and name not in self._resumed and rows != started[name]:
                yield Violation(10, f"run {name!r} has recorded {rows} children, {started[name]} are stored")
        for name in started.keys() - self.now.runs.keys() - self._deleted:
            yield Violation(10, f"run {name!r} has children and is not stored")

    # ---- point 13 ----------------------------------------------------------------------------------------------

    def _results(self, reference: Mapping[str, Any]) -> Iterator[Violation]:
        for name, run in self.now.runs.items():
            expected = reference.get(reference_key(run["workflow"], run["args"]))
            if expected is None or run["status"] not in FINAL:
                continue
            self.counters["results compared"] += 1
            found = [run["status"], _steady(json.loads(run["result"] or "null"))]
            if found != [expected[0], _steady(expected[1])]:
                yield Violation(
                    13, f"run {name!r} of {run['workflow']!r} gave {found}, without faults it is {expected}"
                )


_NOTHING: Final = object()


def _steady(result: Any) -> Any:
    if isinstance(result, dict):
        return {key: value for key, value in result.items() if not key.startswith(VARIES)}
    return result


def _is_counting(attempts: Sequence[int]) -> bool:
    """Whether attempts begin at 1 and each is the one before, repeated after a crash, or the next."""
    last = 0
    for attempt in attempts:
        if attempt not in (last, last + 1) or attempt == 0:
            return False
        last = attempt
    return True
