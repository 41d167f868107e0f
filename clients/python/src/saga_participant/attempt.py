"""One attempt: the handler with its timeout and its heartbeats."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from .command import InputInvalid, StepCommand
from .outcome import Outcome

log = logging.getLogger(__name__)


async def attempt(
    command: StepCommand, handler: Callable[[StepCommand], Awaitable[Outcome]], repeat: Callable[[], None]
) -> Outcome:
    """Runs the handler to its end, to its timeout or to its failure: there is always an outcome. `repeat` sends a heartbeat."""
    beats = asyncio.create_task(heartbeats(command.heartbeat_timeout, repeat))
    limit = asyncio.timeout(command.timeout)
    try:
        async with limit:
            outcome = await handler(command)
        if isinstance(outcome, Outcome):
            return outcome
        log.error("the handler of %s returned %r, which is no Outcome", command.action, outcome)
    except InputInvalid as invalid:
        return invalid.outcome
    except asyncio.CancelledError:
        # Nobody waits for an outcome of an attempt that is itself cancelled. Otherwise it was a task that the handler waited for.
        if asyncio.current_task().cancelling():
            raise
        log.exception("the handler of %s waited for a task that was cancelled", command.action)
    except Exception:
        if limit.expired():
            return Outcome.unknown("HANDLER_TIMED_OUT", f"the handler took longer than {command.timeout} s")
        log.exception("the handler of %s failed", command.action)
    finally:
        beats.cancel()
    return Outcome.unknown("HANDLER_PANICKED", "the handler failed; its log says where")


async def heartbeats(timeout: float | None, repeat: Callable[[], None]) -> None:
    """A heartbeat at every third of the time that the coordinator bears without one."""
    while timeout is not None:
        await asyncio.sleep(max(timeout / 3, 0.001))
        repeat()
