"""A service that takes part in sagas beside the shop's own: customers have points, and pay with them.

    SAGAMESH_COORDINATOR  address of the coordinator, http://host:port
    POINTS_DATABASE       database file [default: points.db]

It makes itself known, registers two definitions, and serves until Ctrl-C:

    give-points      adds points, which a compensation takes back
    pay-with-points  inventory reserves, the points are taken (the point of no return), inventory commits
"""

import asyncio
import logging
import os
import signal

import grpc.aio
from google.protobuf import json_format

from saga.v1 import definition_pb2, definition_pb2_grpc, operator_pb2, operator_pb2_grpc
from saga_participant import Outcome, Participant, StepCommand
from saga_participant.sqlite import SqliteDatabase

CALL_SECONDS = 10

GIVE_POINTS = {
    "name": "give-points",
    "description": "Gives a customer points.",
    "steps": [
        {
            "name": "add-points",
            "phase": "PHASE_COMPENSATABLE",
            "call": {
                "participant": "points",
                "action": "points.Add",
                "compensation": "points.Remove",
                "inputFields": ["customer_id", "points"],
            },
        }
    ],
}

PAY_WITH_POINTS = {
    "name": "pay-with-points",
    "description": "Hands out stock for points.",
    "steps": [
        {
            "name": "reserve-stock",
            "phase": "PHASE_COMPENSATABLE",
            "call": {
                "participant": "inventory",
                "action": "inventory.ReserveStock",
                "compensation": "inventory.ReleaseStock",
                "inputFields": ["lines"],
            },
        },
        {
            "name": "spend-points",
            "phase": "PHASE_PIVOT",
            "after": ["reserve-stock"],
            "call": {"participant": "points", "action": "points.Spend", "inputFields": ["customer_id", "points"]},
        },
        {
            "name": "commit-stock",
            "phase": "PHASE_RETRIABLE",
            "after": ["spend-points"],
            "call": {"participant": "inventory", "action": "inventory.CommitStock", "inputFields": ["lines"]},
        },
    ],
}


async def introduce(coordinator: str) -> None:
    """Makes the participant known, and the two definitions the ones that new sagas run. Doing it again changes nothing."""
    async with grpc.aio.insecure_channel(coordinator.removeprefix("http://")) as channel:
        operators = operator_pb2_grpc.OperatorServiceStub(channel)
        await operators.PutParticipant(operator_pb2.PutParticipantRequest(name="points"), timeout=CALL_SECONDS)
        definitions = definition_pb2_grpc.DefinitionServiceStub(channel)
        for content in (GIVE_POINTS, PAY_WITH_POINTS):
            definition = json_format.ParseDict(content, definition_pb2.Definition())
            register = definition_pb2.RegisterDefinitionRequest(definition=definition)
            version = (await definitions.RegisterDefinition(register, timeout=CALL_SECONDS)).version
            if version.active:
                continue
            listing = definition_pb2.ListDefinitionsRequest(name=definition.name)
            versions = (await definitions.ListDefinitions(listing, timeout=CALL_SECONDS)).versions
            active = next((known.hash for known in versions if known.active), "")
            activate = definition_pb2.ActivateDefinitionRequest(
                name=definition.name, hash=version.hash, expected_active_hash=active
            )
            await definitions.ActivateDefinition(activate, timeout=CALL_SECONDS)


def participant(database: SqliteDatabase, coordinator: str) -> Participant:
    """The participant `points`, ready to run."""
    points = Participant("points", coordinator, concurrency=16)

    def wanted(command: StepCommand) -> tuple[str, int]:
        amount = command.json("points")
        return command.required("customer_id"), amount if isinstance(amount, int) else 0

    @points.action("points.Add")
    async def add(command: StepCommand) -> Outcome:
        customer, amount = wanted(command)
        if amount <= 0:
            return Outcome.rejected("POINTS_INVALID", "`points` must be a whole number above 0")

        async def work(connection):
            upsert = """INSERT INTO points (customer_id, balance) VALUES (?, ?)
                ON CONFLICT (customer_id) DO UPDATE SET balance = balance + excluded.balance RETURNING balance"""
            [(balance,)] = await connection.execute_fetchall(upsert, (customer, amount))
            return Outcome.text(str(balance))

        return await database.guarded(command.key(), work)

    async def take(command: StepCommand) -> Outcome:
        customer, amount = wanted(command)
        if amount <= 0:
            return Outcome.rejected("POINTS_INVALID", "`points` must be a whole number above 0")

        async def work(connection):
            update = "UPDATE points SET balance = balance - ?2 WHERE customer_id = ?1 AND balance >= ?2 RETURNING balance"
            rows = list(await connection.execute_fetchall(update, (customer, amount)))
            return Outcome.text(str(rows[0][0])) if rows else Outcome.rejected("TOO_FEW_POINTS", "the customer has fewer points")

        return await database.guarded(command.key(), work)

    points.action("points.Spend")(take)
    # It runs only if the points were given, so too few means that they were spent meanwhile: an operator decides.
    points.compensation("points.Remove")(take)
    return points


async def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    coordinator = os.environ.get("SAGAMESH_COORDINATOR", "http://127.0.0.1:50051")
    database = await SqliteDatabase.open(os.environ.get("POINTS_DATABASE", "points.db"))
    try:
        await serve(database, coordinator)
    finally:
        await database.close()


async def serve(database: SqliteDatabase, coordinator: str) -> None:
    """Serves until a signal comes, and then until what is under way has ended."""
    async with database.transaction() as connection:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS points (customer_id TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0))"
        )
    await introduce(coordinator)
    points = participant(database, coordinator)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, points.stop)
    running = asyncio.create_task(points.run())
    connected = asyncio.create_task(points.connected())
    await asyncio.wait([running, connected], return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        print("points: connected", flush=True)
    await running
    connected.cancel()


asyncio.run(main())
