"""What becomes of a handler that does not end well, as far as that is Python's own."""

import asyncio
import logging
import unittest

from google.protobuf import duration_pb2

from saga.v1 import participant_pb2
from saga_participant import Outcome, StepCommand
from saga_participant.attempt import attempt


def command(**fields):
    return StepCommand.of(participant_pb2.Command(action="work", **fields), lambda _: None)


def run(handler):
    return attempt(command(), handler, lambda: None)


class Attempt(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)

    async def test_a_task_that_somebody_else_cancelled_is_a_failure_of_the_handler(self):
        async def handler(_):
            subtask = asyncio.create_task(asyncio.sleep(3600))
            asyncio.get_running_loop().call_soon(subtask.cancel)
            await subtask

        outcome = await asyncio.create_task(run(handler))
        self.assertEqual((outcome.kind, outcome.failure.reason), ("unknown", "HANDLER_PANICKED"))

    async def test_an_attempt_that_is_cancelled_has_no_outcome(self):
        started = asyncio.Event()

        async def handler(_):
            started.set()
            await asyncio.sleep(3600)

        running = asyncio.create_task(run(handler))
        await started.wait()
        running.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await running

    async def test_a_handler_that_was_cut_short_timed_out(self):
        async def handler(_):
            await asyncio.sleep(3600)

        limited = command(timeout=duration_pb2.Duration(nanos=10_000_000))
        outcome = await attempt(limited, handler, lambda: None)
        self.assertEqual(outcome.failure.reason, "HANDLER_TIMED_OUT")

    async def test_what_a_handler_returns_is_the_outcome(self):
        async def handler(_):
            return Outcome.text("done")

        self.assertEqual((await run(handler)).output.text, "done")


if __name__ == "__main__":
    unittest.main()
