"""The barrier's clock."""

import asyncio
import pathlib
import tempfile
import unittest

from saga.v1 import event_pb2
from saga_participant import Outcome
from saga_participant.barrier import Key
from saga_participant.sqlite import SqliteDatabase

NOW = 1_000


class Barrier(unittest.IsolatedAsyncioTestCase):
    async def test_an_action_that_waited_beyond_its_last_moment_is_too_late(self):
        key = Key("saga", "step", event_pb2.DIRECTION_ACTION, NOW)
        time = NOW

        async def ran(_):
            return Outcome.text("ran")

        with tempfile.TemporaryDirectory() as folder:
            database = await SqliteDatabase.open(pathlib.Path(folder, "test.db"))
            try:
                async with database.transaction():
                    waiting = asyncio.create_task(database.guarded(key, ran, lambda: time))
                    # It has come as far as it can.
                    for _ in range(10):
                        await asyncio.sleep(0)
                    self.assertFalse(waiting.done())
                    time = NOW + 1
                outcome = await waiting
                self.assertEqual((outcome.kind, outcome.failure.reason), ("transient", "TOO_LATE"))
                time = NOW
                self.assertEqual((await database.guarded(key, ran, lambda: time)).output.text, "ran")
            finally:
                await database.close()


if __name__ == "__main__":
    unittest.main()
