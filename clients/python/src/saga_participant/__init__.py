"""Taking part in sagas: register steps, connect to the coordinator, and let the barrier make every command safe to repeat.

    points = await SqliteDatabase.open("points.db")
    participant = Participant("points", "http://127.0.0.1:50051")

    @participant.action("points.Add")
    async def add(command):
        async def work(connection):
            await connection.execute("UPDATE points SET balance = balance + 1")
            return Outcome.done()
        return await points.guarded(command.key(), work)

    await participant.run()

What the library does: one stream to each coordinator, connecting again with jittered backoff; never more commands at a time than there
are credits; each result sent again until it was acknowledged; heartbeats for the stream and for each attempt; a drain on `stop()`. What
the handler must do: be safe to repeat. The barrier (`guarded`) does that in the participant's own transaction.
"""

from .barrier import Database, Key, Verdict, rule
from .command import StepCommand
from .outcome import Outcome
from .participant import Participant

__all__ = ["Database", "Key", "Outcome", "Participant", "StepCommand", "Verdict", "rule"]
