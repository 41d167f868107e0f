"""One link: a stream to one coordinator, opened again whenever it breaks, and the handlers that its commands started."""

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from saga.v1 import participant_pb2, participant_pb2_grpc

from .attempt import attempt
from .attempts import Attempts
from .command import StepCommand, positive
from .outcome import Outcome

if TYPE_CHECKING:
    from .participant import Participant

log = logging.getLogger(__name__)

WELCOME_SECONDS = 10.0
DEFAULT_HEARTBEAT = 5.0
# An interval of silence times this: the stream is given up.
SILENCES = 3
FIRST_BACKOFF, LONGEST_BACKOFF = 0.025, 2.0
# A stream that lived this long was a good one: the next failure starts from the beginning.
GOOD_SECONDS = 5.0
# A result may be larger than gRPC's default of 4 MiB allows for; so may a command.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
DEFAULT_PAYLOAD_BYTES = 1024 * 1024
# Versions of the protocol that this library speaks.
OLDEST_VERSION, NEWEST_VERSION = 1, 1
# Somebody has to change something before these pass. It is tried again all the same: the one to change may be the coordinator.
REFUSED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
}


class StreamOver(Exception):
    """Why a stream has ended although it should not have."""


class StreamClosed(StreamOver):
    """The coordinator has closed it, without an error."""


class Misunderstood(StreamOver):
    """The coordinator and this participant do not understand each other: connecting again may not help."""


class Stream:
    """A stream that was welcomed. What goes out waits in `outbox`; what comes in goes to the link's events."""

    def __init__(self, call: Any, outbox: asyncio.Queue, heartbeat: float) -> None:
        self.call = call
        self.outbox = outbox
        self.heartbeat = heartbeat
        self.heard = time.monotonic()
        self.draining = False
        self.coordinator_draining = False

    def send(self, **message: Any) -> None:
        # If the stream is gone the inbound side says so; what matters is sent again on the next one.
        self.outbox.put_nowait(participant_pb2.ParticipateRequest(**message))


class Link:
    """Its handlers and its unacknowledged results outlive any one stream."""

    def __init__(self, participant: "Participant", address: str) -> None:
        self.participant = participant
        self.address = address
        self.target = address.removeprefix("http://").rstrip("/")
        self.attempts = Attempts(participant.concurrency)
        self.tasks: set[asyncio.Task[None]] = set()
        # Everything that happens, in order: (what, about which stream or attempt, details).
        self.events: asyncio.Queue[tuple[str, Any, Any]] = asyncio.Queue()
        self.max_payload_bytes = DEFAULT_PAYLOAD_BYTES
        self.stop_at: float | None = None

    async def run(self) -> None:
        """Serves until the participant has drained. Handlers that still run then are cancelled."""
        backoff = FIRST_BACKOFF
        stopping = asyncio.create_task(self.tell_stop())
        try:
            while True:
                opened = time.monotonic()
                try:
                    if await self.session():
                        return log.info("participant has drained from %s", self.address)
                    log.info("the coordinator at %s is stopping", self.address)
                except Misunderstood as error:
                    log.warning("the coordinator at %s and this participant do not understand each other: %s", self.address, error)
                except StreamOver as error:
                    log.info("no stream to the coordinator at %s: %s", self.address, error)
                if time.monotonic() - opened >= GOOD_SECONDS:
                    backoff = FIRST_BACKOFF
                await self.wait(backoff * random.uniform(0.5, 1.0))
                backoff = min(backoff * 2, LONGEST_BACKOFF)
                if self.stop_at is not None and (self.attempts.is_settled() or time.monotonic() >= self.stop_at):
                    return
                if self.attempts.is_settled() and self.participant.leave(self.address):
                    return log.info("the replica at %s is gone; it is not called any more", self.address)
        finally:
            stopping.cancel()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(stopping, *self.tasks, return_exceptions=True)

    async def tell_stop(self) -> None:
        await self.participant.stopping.wait()
        self.stop_at = time.monotonic() + self.participant.drain_grace
        self.events.put_nowait(("stop", None, None))

    async def wait(self, seconds: float) -> None:
        """Waits before connecting again; what ends meanwhile goes on through other links, and a stop ends the wait."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.give_away()
            try:
                what, about, details = await asyncio.wait_for(self.events.get(), left)
            except TimeoutError:
                return
            if what == "stop":
                return
            self.between(what, about, details)

    def between(self, what: str, about: Any, details: Any) -> None:
        """Something happened while there is no stream. Heartbeats that no stream of this link can carry are of no use later; other
        replicas may have taken over who waits for them."""
        if what == "ended":
            self.result_of(about, details)
        elif what == "beat":
            self.participant.share_beat(self, about, details)

    def give_away(self) -> None:
        """Results do not wait for this replica while there is a stream to another one."""
        if self.participant.streams > 0:
            self.participant.orphan(self.attempts.give_away())

    async def session(self) -> bool:
        """Opens a stream and serves it to its end. Whether the participant has drained."""
        options = [
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            # Every stream dials anew: this file decides how long to wait, not gRPC's own backoff.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        target, metadata = self.target, []
        if self.participant.sidecar is not None:
            target = self.participant.sidecar
            options.append(("grpc.default_authority", self.target))
            metadata.append(("l5d-dst-override", self.target))
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            outbox: asyncio.Queue[participant_pb2.ParticipateRequest] = asyncio.Queue()
            stub = participant_pb2_grpc.ParticipantServiceStub(channel)
            call = stub.Participate(metadata=metadata)
            writer = asyncio.create_task(write(call, outbox))
            try:
                return await self.opened(call, outbox)
            finally:
                writer.cancel()
                call.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    async def opened(self, call: Any, outbox: asyncio.Queue) -> bool:
        while not self.events.empty():
            self.between(*self.events.get_nowait())
        hello = participant_pb2.Hello(
            participant=self.participant.name,
            instance=self.participant.instance,
            actions=self.participant.actions(),
            credits=self.attempts.open(),
            attempts_in_progress=self.attempts.in_progress(),
            protocol_version=NEWEST_VERSION,
            minimum_protocol_version=OLDEST_VERSION,
        )
        outbox.put_nowait(participant_pb2.ParticipateRequest(hello=hello))
        welcome = await self.welcome(call)
        if welcome is None:
            return True
        # A coordinator from before versions had numbers says none, and speaks the first.
        version = welcome.protocol_version or 1
        if not OLDEST_VERSION <= version <= NEWEST_VERSION:
            raise Misunderstood(
                f"it speaks version {version} of the protocol, and this library {OLDEST_VERSION} to {NEWEST_VERSION}: update one of them"
            )
        self.max_payload_bytes = welcome.max_payload_bytes or self.max_payload_bytes
        stream = Stream(call, outbox, positive(welcome.heartbeat_interval) or DEFAULT_HEARTBEAT)
        log.info("connected to coordinator %s at %s", welcome.coordinator, self.address)
        self.meet(list(welcome.peers))
        for result in self.participant.adopt():
            self.attempts.unacknowledged[result.lease_token] = result
        for result in self.attempts.unacknowledged.values():
            stream.send(result=result)
        helpers = [asyncio.create_task(self.read(stream)), asyncio.create_task(self.tick(stream))]
        self.participant.entered(self)
        try:
            return await self.serve(stream)
        finally:
            self.participant.left(self)
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def welcome(self, call: Any) -> participant_pb2.Welcome | None:
        """The answer to Hello; None when the participant stops first and has nothing left to settle."""
        reading = asyncio.ensure_future(call.read())
        stopping = asyncio.ensure_future(self.participant.stopping.wait())
        # With unfinished business a stream is still worth opening: the grace goes on in the session.
        waits = {reading, stopping} if self.attempts.is_settled() else {reading}
        limit = WELCOME_SECONDS if self.stop_at is None else max(self.stop_at - time.monotonic(), 0)
        try:
            done, _ = await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not reading.done():
                reading.cancel()
        if stopping in done:
            if reading in done:
                reading.exception()
            return None
        if reading not in done:
            raise StreamOver(f"no Welcome within {limit:.1f} s")
        first = received(reading)
        if first.WhichOneof("message") != "welcome":
            raise Misunderstood("the first message was not Welcome")
        return first.welcome

    def meet(self, peers: list[str]) -> None:
        """Holds a stream to each replica. A coordinator that does not list the address that was dialled is behind an address of several:
        then peers are left to the configuration, since a second stream of this instance would replace this one."""
        if self.address in peers:
            self.participant.meet(peers)
        elif len(peers) > 1:
            log.warning("the replicas of the coordinator at %s are known by other addresses; configure one of theirs", self.address)

    async def read(self, stream: Stream) -> None:
        """Hands on what comes in."""
        while True:
            reading = asyncio.ensure_future(stream.call.read())
            await asyncio.wait([reading])
            try:
                message = received(reading)
            except StreamOver as error:
                return self.events.put_nowait(("over", stream, error))
            self.events.put_nowait(("message", stream, message))

    async def tick(self, stream: Stream) -> None:
        while True:
            await asyncio.sleep(stream.heartbeat)
            self.events.put_nowait(("tick", stream, None))

    async def serve(self, stream: Stream) -> bool:
        if self.stop_at is not None:
            self.drain(stream)
        while True:
            if stream.draining and self.attempts.is_settled():
                return True
            if stream.coordinator_draining and self.attempts.is_settled():
                return False
            left = None if self.stop_at is None else max(self.stop_at - time.monotonic(), 0)
            try:
                what, about, details = await asyncio.wait_for(self.events.get(), left)
            except TimeoutError:
                log.warning("the grace is over; what still runs is cancelled, the coordinator at %s sends it again", self.address)
                return True
            match what:
                case "ended":
                    stream.send(result=self.result_of(about, details))
                case "beat":
                    stream.send(heartbeat=participant_pb2.Heartbeat(lease_token=about, details=details))
                case "stop":
                    self.drain(stream)
                case "orphans":
                    for result in self.participant.adopt():
                        self.attempts.unacknowledged[result.lease_token] = result
                        stream.send(result=result)
                case _ if about is not stream:
                    pass
                case "over" if stream.coordinator_draining and isinstance(details, StreamClosed):
                    return False
                case "over":
                    raise details
                case "tick":
                    if time.monotonic() - stream.heard >= SILENCES * stream.heartbeat:
                        raise StreamOver(f"nothing was heard for {SILENCES * stream.heartbeat} s")
                    stream.send(heartbeat=participant_pb2.Heartbeat())
                    self.give_credits(stream, self.attempts.all_credits_to_return)
                case "message":
                    stream.heard = time.monotonic()
                    self.receive(stream, details)
            self.give_credits(stream, self.attempts.credits_to_return)

    def drain(self, stream: Stream) -> None:
        if not stream.draining:
            stream.draining = True
            drain = participant_pb2.Drain()
            drain.grace.FromMilliseconds(int(self.participant.drain_grace * 1000))
            stream.send(drain=drain)

    def give_credits(self, stream: Stream, owed: Any) -> None:
        if not stream.draining and not stream.coordinator_draining and (commands := owed()):
            stream.send(credit=participant_pb2.Credit(commands=commands))

    def receive(self, stream: Stream, message: participant_pb2.ParticipateResponse) -> None:
        match message.WhichOneof("message"):
            case "command":
                self.command(stream, message.command)
            case "result_ack":
                self.acknowledged(message.result_ack)
            case "drain":
                stream.coordinator_draining = True
            case "peers":
                self.meet(list(message.peers.addresses))
            case "welcome":
                raise Misunderstood("a second Welcome")
            case _:
                # A heartbeat, or a kind of message that a newer coordinator knows.
                pass

    def command(self, stream: Stream, command: participant_pb2.Command) -> None:
        paid, token = self.attempts.spend(), command.lease_token
        if token in self.attempts.running or token in self.attempts.unacknowledged:
            # It runs already, or has ended: the same attempt is never run twice.
            if token in self.attempts.unacknowledged:
                stream.send(result=self.attempts.unacknowledged[token])
            if paid:
                self.attempts.refund()
            return
        handler = self.participant.handlers.get((command.action, command.direction))
        declined = None
        if not paid:
            declined = "NO_CREDIT", "the participant had given no credit for this command"
        elif stream.draining:
            declined = "DRAINING", "the participant is about to stop"
        elif handler is None:
            declined = "ACTION_NOT_REGISTERED", "this version of the participant has no handler for it; is a rollout under way?"
        elif not self.attempts.has_room():
            declined = "NO_ROOM", "the participant is busy with earlier commands"
        if declined is not None:
            # It certainly did nothing.
            if paid:
                self.attempts.refund()
            return stream.send(result=self.result_of(command, Outcome.transient(*declined)))
        self.attempts.started(token)
        task = asyncio.create_task(self.work(command, handler))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def work(self, command: participant_pb2.Command, handler: Any) -> None:
        latest = ""

        def beat(details: str) -> None:
            nonlocal latest
            latest = details
            self.events.put_nowait(("beat", command.lease_token, details))

        outcome = await attempt(StepCommand.of(command, beat), handler, lambda: beat(latest))
        self.events.put_nowait(("ended", command, outcome))

    def result_of(self, command: participant_pb2.Command, outcome: Outcome) -> participant_pb2.Result:
        """The result of an attempt, kept until it is acknowledged."""
        result = participant_pb2.Result(
            lease_token=command.lease_token,
            saga_id=command.saga_id,
            step=command.step,
            direction=command.direction,
            **outcome.to_wire(self.max_payload_bytes),
        )
        self.attempts.ended(result)
        return result

    def acknowledged(self, ack: participant_pb2.ResultAck) -> None:
        known = self.attempts.acknowledged(ack.lease_token)
        if known and ack.status == participant_pb2.RESULT_STATUS_INVALID:
            log.warning("the coordinator refused a result: %s", ack.message)


def received(reading: asyncio.Future) -> participant_pb2.ParticipateResponse:
    """What was read; raises when that is the stream's end."""
    if reading.cancelled():
        raise StreamOver("the stream was cancelled")
    error = reading.exception()
    if isinstance(error, grpc.RpcError):
        words = f"{error.code().name}: {error.details()}"
        raise Misunderstood(words) if error.code() in REFUSED else StreamOver(words)
    if error is not None:
        raise StreamOver(str(error))
    if reading.result() is grpc.aio.EOF:
        raise StreamClosed("the coordinator closed the stream")
    return reading.result()


async def write(call: Any, outbox: asyncio.Queue) -> None:
    """The outgoing side of a stream. When that is over, the reading side says why."""
    with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
        while True:
            await call.write(await outbox.get())
