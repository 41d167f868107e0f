"""The barrier on SQLite, through aiosqlite."""

import asyncio
import sqlite3
from os import PathLike
from typing import Any

import aiosqlite

from .barrier import Database, Transaction

SCHEMA = """
CREATE TABLE IF NOT EXISTS saga_barrier (
    saga_id         TEXT    NOT NULL,
    step            TEXT    NOT NULL,
    direction       INTEGER NOT NULL,
    outcome         INTEGER NOT NULL,
    payload         BLOB    NOT NULL,
    recorded_millis INTEGER NOT NULL,
    PRIMARY KEY (saga_id, step, direction)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS saga_barrier_by_age ON saga_barrier (recorded_millis);
"""
BUSY_SECONDS = 5.0


class SqliteDatabase(Database):
    """A database file. It has one writer at a time, so there is one connection, and transactions take turns."""

    errors = (sqlite3.Error,)

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.connection = connection
        self.turn = asyncio.Lock()

    @classmethod
    async def open(cls, path: str | PathLike[str]) -> "SqliteDatabase":
        """Opens the file, and creates it and the barrier's table when they are not there."""
        # No isolation level: transactions begin where this file says, not where the driver thinks.
        connection = await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = FULL")
        database = cls(connection)
        await database.create_table()
        return database

    async def close(self) -> None:
        """Closes the file, after the transaction that is under way."""
        async with self.turn:
            await self.connection.close()

    async def create_table(self) -> None:
        await self.connection.executescript(SCHEMA)

    async def begin(self) -> Transaction:
        await self.turn.acquire()
        transaction = SqliteTransaction(self)
        try:
            # At once as a writer: who has read first cannot wait for the writer before.
            await self.connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            await transaction.close()
            raise
        return transaction


class SqliteTransaction(Transaction):
    def __init__(self, database: SqliteDatabase) -> None:
        self.connection = database.connection
        self.turn = database.turn

    async def execute(self, statement: str, *values: Any) -> int:
        async with self.connection.execute(statement, values) as cursor:
            return cursor.rowcount

    async def rows(self, statement: str, *values: Any) -> list[Any]:
        return list(await self.connection.execute_fetchall(statement, values))

    async def commit(self) -> None:
        await self.connection.commit()

    async def close(self) -> None:
        # A handler may be cancelled anywhere. Statements run one after the other in the driver's thread, so this one comes after whatever was
        # under way, and only then it is the next one's turn.
        await asyncio.shield(asyncio.ensure_future(self.end()))

    async def end(self) -> None:
        try:
            await self.connection.rollback()
        finally:
            self.turn.release()
