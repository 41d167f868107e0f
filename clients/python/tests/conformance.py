"""Runs the cases of clients/conformance against the Python library: on SQLite, and on PostgreSQL when a server's URL is given.

    python conformance.py [POSTGRES_URL] [--only CASE]
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import pathlib
import tempfile
import traceback
from typing import Any

# Connections break here on purpose; gRPC would tell of each.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import grpc.aio
from google.protobuf import json_format

from saga.v1 import event_pb2, participant_pb2, participant_pb2_grpc
from saga_participant import Database, Outcome, Participant, StepCommand
from saga_participant.sqlite import SqliteDatabase

CASES = pathlib.Path(__file__).parents[2] / "conformance" / "cases"
PATIENCE = 10.0


class Mismatch(Exception):
    """Something else happened than the script says."""


def contains(actual: Any, expected: Any) -> bool:
    """Whether what came has all that is expected; lists are compared without their order."""
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(key in actual and contains(actual[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return isinstance(actual, list) and sorted(map(str, actual)) == sorted(map(str, expected))
    return actual == expected


class Stream:
    """One stream of the participant's, as the coordinator sees it."""

    def __init__(self, requests: Any, hello: Any) -> None:
        self.hello = hello
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.outbox: asyncio.Queue[Any] = asyncio.Queue()
        self.reader = asyncio.create_task(self.read(requests))

    async def read(self, requests: Any) -> None:
        with contextlib.suppress(Exception):
            async for request in requests:
                self.inbox.put_nowait(in_json(request))
        self.inbox.put_nowait(None)

    async def next(self) -> Any:
        return await self.inbox.get()

    async def until(self, expected: list[Any]) -> None:
        """Reads until all of these have come. None stands for the stream's end."""
        left = list(expected)
        while left:
            message = await self.next()
            found = next((one for one in left if one is message is None or (one is not None and contains(message, one))), ...)
            if found is not ...:
                left.remove(found)
            elif message is None or not message.keys() & {"credit", "heartbeat"}:
                raise Mismatch(f"expected {left}, got {message}")


def in_json(message: Any) -> Any:
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


class Coordinator(participant_pb2_grpc.ParticipantServiceServicer):
    """Does what the script says, and nothing else."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.server = grpc.aio.server()
        participant_pb2_grpc.add_ParticipantServiceServicer_to_server(self, self.server)
        self.url = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    @classmethod
    async def start(cls) -> "Coordinator":
        coordinator = cls()
        await coordinator.server.start()
        return coordinator

    async def Participate(self, requests: Any, context: Any) -> Any:
        first = await anext(requests)
        stream = Stream(requests, in_json(first)["hello"])
        self.streams.put_nowait(stream)
        while (response := await stream.outbox.get()) is not None:
            if isinstance(response, grpc.StatusCode):
                await context.abort(response, "as the script says")
            yield response


def in_full(line: Any, replicas: list[Coordinator]) -> str:
    """A line with the replicas' addresses in it, and without the replica that it is about."""
    text = json.dumps({what: value for what, value in line.items() if what != "at"})
    for number, replica in enumerate(replicas, 1):
        text = text.replace(f'"$URL{number}"', json.dumps(replica.url))
    return text


class Process:
    """One process of the participant under test."""

    def __init__(self, case: "Case") -> None:
        grace = case.script.get("drainGraceMillis", 5000) / 1000
        concurrency = case.script.get("concurrency", 4)
        self.participant = Participant("conformance", case.url, concurrency=concurrency, drain_grace=grace)
        self.participant.action("work")(case.work)
        self.participant.compensation("undo")(case.work)
        self.running = asyncio.create_task(self.participant.run())


class Case:
    """One case on one database."""

    def __init__(self, script: Any, database: Database) -> None:
        self.script = script
        self.database = database
        self.gate = asyncio.Semaphore(0)
        self.held = 0
        self.holding = asyncio.Condition()

    async def work(self, command: StepCommand) -> Outcome:
        """The handler of `work` and `undo`."""
        outcome, reason = command.text("outcome"), command.text("reason") or ""

        async def inside(connection: Any) -> Outcome:
            if progress := command.text("progress"):
                command.heartbeat(progress)
            if outcome != "rejected":
                what = "compensation" if command.direction == event_pb2.DIRECTION_COMPENSATION else "action"
                # Both drivers take values in a list or one by one, but not both of these.
                values = [(command.saga_id, what)] if isinstance(self.database, SqliteDatabase) else [command.saga_id, what]
                await connection.execute("INSERT INTO effects (saga_id, what) VALUES ($1, $2)", *values)
            if command.text("hold"):
                await self.hold()
            match outcome:
                case "rejected":
                    return Outcome.rejected(reason, "as the script says")
                case "transient":
                    return Outcome.transient(reason, "as the script says")
                case "unknown":
                    return Outcome.unknown(reason, "as the script says")
                case "crash":
                    raise AssertionError("as the script says")
            output = command.text("output")
            return Outcome.done() if output is None else Outcome.text(output)

        return await self.database.guarded(command.key(), inside)

    async def hold(self) -> None:
        async with self.holding:
            self.held += 1
            self.holding.notify_all()
        try:
            await self.gate.acquire()
        finally:
            self.held -= 1

    async def effects(self, saga: str) -> list[str]:
        query = "SELECT what FROM effects WHERE saga_id = $1"
        async with self.database.transaction() as connection:
            if isinstance(self.database, SqliteDatabase):
                rows = await connection.execute_fetchall(query, (saga,))
            else:
                rows = await connection.fetch(query, saga)
        return [row[0] for row in rows]

    async def run(self) -> None:
        replicas = [await Coordinator.start() for _ in range(2)]
        self.url = replicas[0].url
        process, streams = Process(self), {}
        try:
            for number, line in enumerate(self.script["script"], 1):
                at = line.get("at", 1)
                [(what, value)] = json.loads(in_full(line, replicas)).items()
                try:
                    match what:
                        case "accept":
                            streams[at] = await asyncio.wait_for(replicas[at - 1].streams.get(), PATIENCE)
                            if not contains(streams[at].hello, value):
                                raise Mismatch(f"the Hello is {streams[at].hello}")
                        case "down":
                            await replicas[at - 1].server.stop(None)
                        case "stop":
                            process.participant.stop()
                        case "stopped":
                            await asyncio.wait_for(process.running, PATIENCE)
                        case "start":
                            process = Process(self)
                        case "release":
                            for _ in range(value):
                                self.gate.release()
                        case "held":
                            async with self.holding:
                                await asyncio.wait_for(self.holding.wait_for(lambda: self.held >= value), PATIENCE)
                        case "effects":
                            for saga, expected in value.items():
                                if not contains(found := await self.effects(saga), expected):
                                    raise Mismatch(f"saga {saga} has the effects {found}")
                        case _:
                            # For the whole line: heartbeats alone may go on for ever.
                            async with asyncio.timeout(PATIENCE):
                                await self.act(streams[at], what, value)
                except (Mismatch, TimeoutError) as error:
                    raise Mismatch(f"line {number}, {json.dumps(line)}: {error or 'nothing came'}") from error
        finally:
            process.running.cancel()
            await asyncio.gather(process.running, return_exceptions=True)
            for replica in replicas:
                await replica.server.stop(None)

    async def act(self, stream: Stream, what: str, value: Any) -> None:
        match what:
            case "send":
                stream.outbox.put_nowait(json_format.ParseDict(value, participant_pb2.ParticipateResponse()))
            case "expect":
                await stream.until([value])
            case "expect_all":
                await stream.until(value)
            case "closed":
                await stream.until([None])
            case "fail":
                stream.outbox.put_nowait(grpc.StatusCode[value])
            case "close":
                stream.outbox.put_nowait(None)
            case _:
                raise Mismatch("this runner does not know that line")


@contextlib.asynccontextmanager
async def sqlite(_: str | None) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        database = await SqliteDatabase.open(pathlib.Path(folder, "test.db"))
        try:
            async with database.transaction() as connection:
                await connection.execute("CREATE TABLE effects (saga_id TEXT, what TEXT)")
            yield database
        finally:
            await database.close()


@contextlib.asynccontextmanager
async def postgres(url: str | None) -> Any:
    from saga_participant.postgres import PostgresDatabase

    database = await PostgresDatabase.open(url)
    try:
        async with database.transaction() as connection:
            await connection.execute("DROP TABLE IF EXISTS effects")
            await connection.execute("CREATE TABLE effects (saga_id TEXT, what TEXT)")
            await connection.execute("DELETE FROM saga_barrier")
        yield database
    finally:
        await database.close()


async def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("postgres", nargs="?", help="URL of an empty database")
    arguments.add_argument("--only", default="*", help="name of one case")
    options = arguments.parse_args()
    # What the library says of handlers that fail is as the scripts want it.
    logging.disable(logging.CRITICAL)
    databases = [sqlite, postgres] if options.postgres else [sqlite]
    passed, failed = 0, 0
    for path in sorted(CASES.glob(f"{options.only}.json")):
        for opened in databases:
            name = f"{path.stem} on {opened.__name__}"
            try:
                async with opened(options.postgres) as database:
                    await Case(json.loads(path.read_text()), database).run()
                passed += 1
                print(f"ok    {name}", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAIL  {name}: {error}", flush=True)
                if not isinstance(error, Mismatch):
                    traceback.print_exc()
    print(f"conformance: {passed} passed, {failed} failed")
    if failed or not passed:
        raise SystemExit(1)


asyncio.run(main())
