"""The barrier: what makes every command safe to repeat. docs/barrier.md says why it is as it is.

It lives in the participant's own transaction and makes three anomalies impossible: a duplicate (the recorded outcome is replayed), an empty
compensation (undoing an action that never arrived is recorded and does nothing) and a late action (one that arrives after its
compensation is refused). The table is the one of the Rust library: a service may change its language and keep its rows.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from saga.v1 import event_pb2, participant_pb2

from .outcome import Outcome

log = logging.getLogger(__name__)

ACTION = 1
COMPENSATION = 2

# The outcome of a row. A claimed one belongs to a transaction that is under way: nobody else ever sees it.
CLAIMED, SUCCESS, REJECTED, VOID = range(4)

CLAIM = """INSERT INTO saga_barrier (saga_id, step, direction, outcome, payload, recorded_millis)
    VALUES ($1, $2, $3, 0, $4, $5) ON CONFLICT DO NOTHING"""
READ = "SELECT direction, outcome, payload FROM saga_barrier WHERE saga_id = $1 AND step = $2"
WRITE = """INSERT INTO saga_barrier (saga_id, step, direction, outcome, payload, recorded_millis)
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (saga_id, step, direction)
    DO UPDATE SET outcome = excluded.outcome, payload = excluded.payload"""
# Of a claim of this transaction: without it the transaction has ended (SQLite ends one that meets a full disk).
CONFIRM = """UPDATE saga_barrier SET outcome = $1, payload = $2, recorded_millis = $3
    WHERE saga_id = $4 AND step = $5 AND direction = $6 AND outcome = 0"""
UNCLAIM = "DELETE FROM saga_barrier WHERE saga_id = $1 AND step = $2 AND outcome = 0"
FORGET = """DELETE FROM saga_barrier WHERE (saga_id, step, direction) IN
    (SELECT saga_id, step, direction FROM saga_barrier WHERE recorded_millis < $1 ORDER BY recorded_millis LIMIT $2)"""


@dataclass(frozen=True)
class Key:
    """What the barrier needs to know of a command: whose it is, and until when it may take effect (Unix milliseconds)."""

    saga_id: str
    step: str
    direction: int
    not_after: int | None = None

    @property
    def column(self) -> int:
        """The direction as it is stored."""
        return COMPENSATION if self.direction == event_pb2.DIRECTION_COMPENSATION else ACTION

    def is_late(self, now_millis: int) -> bool:
        """Whether it is too late to take effect. Compensations are never too late."""
        return self.column == ACTION and self.not_after is not None and now_millis > self.not_after

    def idempotency_key(self) -> str:
        """The key for effects outside: the same for every attempt of this step in this direction."""
        return f"{self.saga_id}/{self.step}/{'action' if self.column == ACTION else 'compensation'}"


class Verdict(Enum):
    """What to do with a command."""

    PROCEED = "do it, and record its outcome in the same transaction"
    REPLAY = "it was done before: answer as then"
    NO_OP = "there is nothing to undo: record that, and that the action is refused from now on"
    REFUSE = "its compensation was here first: refuse it, for good"


def rule(column: int, action: int | None, compensation: int | None) -> Verdict:
    """Decides by the outcomes on record for the two directions of the same saga and step (None: no row)."""
    if column == COMPENSATION:
        if compensation is not None:
            return Verdict.REPLAY
        return Verdict.PROCEED if action == SUCCESS else Verdict.NO_OP
    if compensation is not None or action == VOID:
        return Verdict.REFUSE
    return Verdict.PROCEED if action is None else Verdict.REPLAY


def to_row(column: int, outcome: Outcome) -> tuple[int, bytes] | None:
    """The row of an outcome that is final: a success always, a rejection of an action; nothing else is recorded."""
    if outcome.kind == "success":
        return SUCCESS, participant_pb2.Success(output=outcome.output).SerializeToString()
    if outcome.kind == "rejected" and column == ACTION and outcome.failure is not None:
        return REJECTED, outcome.failure.SerializeToString()
    return None


def from_row(outcome: int, payload: bytes) -> Outcome:
    """The outcome that a row holds."""
    if outcome == SUCCESS:
        success = participant_pb2.Success.FromString(payload)
        return Outcome("success", success.output if success.HasField("output") else None)
    if outcome == REJECTED:
        return Outcome("rejected", failure=event_pb2.Failure.FromString(payload))
    if outcome == VOID:
        return Outcome.done()
    raise ValueError(f"a barrier row has outcome {outcome}, which this version cannot read: was it written by a newer one?")


def now_millis() -> int:
    """The clock: Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Transaction(ABC):
    """A transaction of a database that has the barrier's table."""

    connection: Any
    """What the work is given: an aiosqlite or asyncpg connection, in this transaction."""

    @abstractmethod
    async def execute(self, statement: str, *values: Any) -> int:
        """Runs a statement and returns how many rows it changed."""

    @abstractmethod
    async def rows(self, statement: str, *values: Any) -> list[Any]:
        """Runs a query."""

    @abstractmethod
    async def commit(self) -> None:
        """Makes it durable."""

    @abstractmethod
    async def close(self) -> None:
        """Rolls back what was not committed, and gives the connection back."""


class Database(ABC):
    """A database that keeps the service's own tables and the barrier's. Every transaction has a connection of its own, or its turn."""

    errors: tuple[type[Exception], ...]
    """What its driver raises when the database cannot do something."""

    @abstractmethod
    async def begin(self) -> Transaction:
        """Begins a transaction, at READ COMMITTED where there are levels."""

    @abstractmethod
    async def create_table(self) -> None:
        """Creates the barrier's table if it is not there."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A transaction around a block: committed at its end, rolled back when it raises. Yields the driver's connection."""
        transaction = await self.begin()
        try:
            yield transaction.connection
            await transaction.commit()
        finally:
            await transaction.close()

    async def guarded(self, key: Key, work: Callable[[Any], Awaitable[Outcome]], clock: Callable[[], int] = now_millis) -> Outcome:
        """Runs `work(connection)` behind the barrier in one transaction, and turns every way to fail into the right outcome: nothing
        durable happened unless the commit may have taken. What `work` raises otherwise is raised here, after a rollback. `clock` says the
        Unix time in milliseconds, also after the wait for whoever is at the same step."""
        try:
            transaction = await self.begin()
        except self.errors as error:
            return unavailable(error)
        try:
            try:
                answer = await enter(transaction, key, clock)
                if answer is None:
                    answer = await work(transaction.connection)
                    row = to_row(key.column, answer)
                    if row is None:
                        # Closing rolls back: an outcome that is not final leaves nothing behind.
                        return answer
                    if await transaction.execute(CONFIRM, *row, clock(), key.saga_id, key.step, key.column) != 1:
                        log.error("a step's transaction had ended before its outcome was recorded: its work passed over an error")
                        return Outcome.unknown("TRANSACTION_ENDED", "the work must not pass over an error of its database")
            except self.errors as error:
                return unavailable(error)
            try:
                await transaction.commit()
            except self.errors as error:
                log.warning("a commit behind the barrier was not confirmed: %s", error)
                return Outcome.unknown("COMMIT_UNCONFIRMED", "the database did not confirm the commit")
            return answer
        finally:
            await transaction.close()

    async def forget(self, before_millis: int, limit: int = 1_000) -> int:
        """Forgets rows older than `before_millis`, at most `limit` of them, and returns how many. Keep rows for longer than any saga can
        still send the step again: an action whose row is gone counts as never done, and is not undone."""
        transaction = await self.begin()
        try:
            forgotten = await transaction.execute(FORGET, before_millis, limit)
            await transaction.commit()
            return forgotten
        finally:
            await transaction.close()


async def enter(transaction: Transaction, key: Key, clock: Callable[[], int]) -> Outcome | None:
    """Asks the barrier, as the first statement of the transaction: None to proceed, or what to answer."""
    # Both directions claim the ACTION's row first: whoever comes second waits here for the first one's transaction.
    claimed = await claim(transaction, key, ACTION, clock())
    rows = {} if claimed else await recorded(transaction, key)
    if not claimed and key.column == COMPENSATION and COMPENSATION not in rows:
        # The action's row exists, so the lock of two compensations is the compensation's own row.
        if not await claim(transaction, key, COMPENSATION, clock()):
            rows = await recorded(transaction, key)
    now = clock()
    outcomes = {column: outcome for column, (outcome, _) in rows.items()}
    match rule(key.column, outcomes.get(ACTION), outcomes.get(COMPENSATION)):
        case Verdict.PROCEED if key.is_late(now):
            await transaction.execute(UNCLAIM, key.saga_id, key.step)
            where = f"the command for step `{key.step}` of saga `{key.saga_id}`"
            return Outcome.transient("TOO_LATE", f"{where} came after its last moment; nothing was done")
        case Verdict.PROCEED:
            return None
        case Verdict.REPLAY:
            return from_row(*rows[key.column])
        case Verdict.REFUSE:
            message = f"step `{key.step}` of saga `{key.saga_id}` was already undone: its action is refused for good"
            return Outcome.rejected("COMPENSATED_BEFORE", message)
        case Verdict.NO_OP:
            if claimed:
                await write(transaction, key, ACTION, (VOID, b""), now)
            await write(transaction, key, COMPENSATION, (SUCCESS, b""), now)
            return Outcome.done()


async def claim(transaction: Transaction, key: Key, column: int, now: int) -> bool:
    return await transaction.execute(CLAIM, key.saga_id, key.step, column, b"", now) == 1


async def recorded(transaction: Transaction, key: Key) -> dict[int, tuple[int, bytes]]:
    rows = await transaction.rows(READ, key.saga_id, key.step)
    return {column: (outcome, bytes(payload)) for column, outcome, payload in rows if outcome != CLAIMED}


async def write(transaction: Transaction, key: Key, column: int, row: tuple[int, bytes], now: int) -> None:
    await transaction.execute(WRITE, key.saga_id, key.step, column, *row, now)


def unavailable(error: Exception) -> Outcome:
    """The database failed before anything was committed."""
    log.warning("a step's transaction was rolled back: %s", error)
    return Outcome.transient("DATABASE_UNAVAILABLE", "the participant's database could not do it; nothing was done")
