"""The barrier on PostgreSQL, through asyncpg."""

import asyncio
import logging
from typing import Any

import asyncpg

from .barrier import Database, Transaction

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS saga_barrier (
    saga_id         TEXT     NOT NULL,
    step            TEXT     NOT NULL,
    direction       SMALLINT NOT NULL,
    outcome         SMALLINT NOT NULL,
    payload         BYTEA    NOT NULL,
    recorded_millis BIGINT   NOT NULL,
    PRIMARY KEY (saga_id, step, direction)
);
CREATE INDEX IF NOT EXISTS saga_barrier_by_age ON saga_barrier (recorded_millis);
"""


class PostgresDatabase(Database):
    """A pool of connections to a server. Every transaction has a connection of its own."""

    errors = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool

    @classmethod
    async def open(cls, url: str, connections: int = 8) -> "PostgresDatabase":
        """Connects, and creates the barrier's table when it is not there."""
        database = cls(await asyncpg.create_pool(url, min_size=1, max_size=connections))
        await database.create_table()
        return database

    async def close(self) -> None:
        """Closes all connections."""
        await self.pool.close()

    async def create_table(self) -> None:
        await self.pool.execute(SCHEMA)

    async def begin(self) -> Transaction:
        connection = await self.pool.acquire()
        transaction = connection.transaction(isolation="read_committed")
        try:
            await transaction.start()
        except BaseException:
            await self.pool.release(connection)
            raise
        return PostgresTransaction(self.pool, connection, transaction)


class PostgresTransaction(Transaction):
    def __init__(self, pool: asyncpg.Pool, connection: Any, transaction: Any) -> None:
        self.pool = pool
        self.connection = connection
        self.transaction = transaction
        self.open = True

    async def execute(self, statement: str, *values: Any) -> int:
        # The command's tag ends with the number of rows: "INSERT 0 1", "DELETE 3".
        return int((await self.connection.execute(statement, *values)).split()[-1])

    async def rows(self, statement: str, *values: Any) -> list[Any]:
        return list(await self.connection.fetch(statement, *values))

    async def commit(self) -> None:
        self.open = False
        await self.transaction.commit()

    async def close(self) -> None:
        # A handler may be cancelled anywhere: the connection goes back to the pool all the same, and clean.
        await asyncio.shield(asyncio.ensure_future(self.end()))

    async def end(self) -> None:
        try:
            if self.open:
                await self.transaction.rollback()
        except PostgresDatabase.errors as error:
            log.warning("a rollback was not confirmed, the connection is dropped: %s", error)
            self.connection.terminate()
        finally:
            await self.pool.release(self.connection)
