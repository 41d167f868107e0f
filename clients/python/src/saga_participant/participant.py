"""Registering steps, and running."""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable

from saga.v1 import event_pb2, participant_pb2

from .command import StepCommand
from .link import Link
from .outcome import Outcome

Handler = Callable[[StepCommand], Awaitable[Outcome]]

MAX_ACTIONS = 256


class Participant:
    """A participant called `name` that serves the coordinators at these addresses (`http://host:port`, several with commas between them).

    `concurrency` is the most commands that run at a time, for each coordinator; `drain_grace` how many seconds running ones may take to
    finish on `stop()`; `instance` the identity of this process: a new stream of the same instance replaces the old one. With `sidecar`
    (host:port) coordinators are reached through the mesh, by their names in it.

    Handlers are coroutines from a StepCommand to an Outcome. The same command may come more than once, also at the same time: use a database's
    `guarded`. A handler that outlives the command's timeout is cancelled; one that raises has an unknown outcome.
    """

    def __init__(
        self,
        name: str,
        coordinator: str,
        *,
        instance: str | None = None,
        concurrency: int = 64,
        drain_grace: float = 5.0,
        sidecar: str | None = None,
    ) -> None:
        self.name = name
        self.instance = str(uuid.uuid4()) if instance is None else instance
        self.concurrency = concurrency
        self.drain_grace = drain_grace
        self.sidecar = sidecar
        self.handlers: dict[tuple[str, int], Handler] = {}
        self.addresses = [address.strip() for address in coordinator.split(",")]
        self.stopping = asyncio.Event()
        self.connections: list[Link] = []
        self.changed = asyncio.Event()
        # Results whose own link has no stream: any other replica takes them too.
        self.orphans: list[participant_pb2.Result] = []
        # Addresses that one of the coordinator's replicas named last; none until then.
        self.named: set[str] = set()
        self.links: dict[str, asyncio.Task[None]] = {}
        if not re.fullmatch("[a-z0-9-]{1,63}", name):
            raise ValueError(f"participant name `{name}` must be 1 to 63 characters of [a-z0-9-]")
        if not 1 <= len(self.instance.encode()) <= 128:
            raise ValueError(f"instance `{self.instance}` must be 1 to 128 characters")
        if not 1 <= concurrency <= 100_000:
            raise ValueError(f"concurrency {concurrency} must be from 1 to 100000")
        for address in self.addresses:
            if not re.fullmatch(r"http://[^/\s:]+:\d+/?", address):
                raise ValueError(f"coordinator `{address}` is no address: give it as http://HOST:PORT, several with commas between them")

    def action(self, name: str) -> Callable[[Handler], Handler]:
        """Registers what follows as the handler of an action."""
        return self.register(name, event_pb2.DIRECTION_ACTION)

    def compensation(self, name: str) -> Callable[[Handler], Handler]:
        """Registers what follows as the handler of a compensation."""
        return self.register(name, event_pb2.DIRECTION_COMPENSATION)

    def register(self, name: str, direction: int) -> Callable[[Handler], Handler]:
        if not re.fullmatch("[A-Za-z0-9._/-]{1,127}", name):
            raise ValueError(f"action `{name}` must be 1 to 127 characters of [A-Za-z0-9._/-]")
        if (name, direction) in self.handlers:
            raise ValueError(f"`{name}` was registered twice")

        def keep(handler: Handler) -> Handler:
            self.handlers[name, direction] = handler
            return handler

        return keep

    def actions(self) -> list[str]:
        """Names of all actions and compensations."""
        return sorted({name for name, _ in self.handlers})

    async def run(self) -> None:
        """Connects, and keeps connected until `stop()` and the drain after it. Does not need a coordinator to be there."""
        if not 1 <= len(self.actions()) <= MAX_ACTIONS:
            raise ValueError(f"a participant handles 1 to 256 actions, this one has {len(self.actions())}")
        for address in self.addresses:
            self.dial(address)
        try:
            while self.links:
                done, _ = await asyncio.wait(self.links.values(), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                self.links = {address: task for address, task in self.links.items() if not task.done()}
        finally:
            tasks = list(self.links.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def dial(self, address: str) -> None:
        """Holds a link to `address`, unless there is one."""
        if address not in self.links:
            self.links[address] = asyncio.create_task(Link(self, address).run())

    def stop(self) -> None:
        """Drains: no new commands; running ones have the grace to finish. Then `run()` returns."""
        self.stopping.set()

    def meet(self, addresses: list[str]) -> None:
        """These are the coordinator's replicas now: there is a link to each, and links to others end once they have no stream."""
        self.named = set(addresses)
        for address in addresses:
            self.dial(address)

    def leave(self, address: str) -> bool:
        """Whether a link without a stream is to end, because its replica is gone. If so, it counts as gone."""
        gone = bool(self.named) and address not in self.named and address not in self.addresses
        if gone:
            self.links.pop(address, None)
        return gone

    @property
    def streams(self) -> int:
        """How many coordinators it is connected to."""
        return len(self.connections)

    def entered(self, link: Link) -> None:
        """A link has a stream."""
        self.connections.append(link)
        self.changed.set()

    def left(self, link: Link) -> None:
        """A link's stream has ended."""
        self.connections.remove(link)
        # What was left to it and not taken is for another one.
        self.orphan([])
        if not self.connections:
            self.changed.clear()

    def orphan(self, results: list[participant_pb2.Result]) -> None:
        """Leaves results to a link that has a stream."""
        self.orphans += results
        if self.orphans and self.connections:
            self.connections[0].events.put_nowait(("orphans", None, None))

    def adopt(self) -> list[participant_pb2.Result]:
        """Takes the results that other links have left."""
        adopted, self.orphans = self.orphans, []
        return adopted

    def share_beat(self, sender: Link, token: int, details: str) -> None:
        """A sign of life whose own link has no stream: one of the other replicas may wait for it."""
        for link in self.connections:
            if link is not sender:
                link.events.put_nowait(("beat", token, details))

    async def connected(self) -> None:
        """Waits until it is connected to at least one coordinator."""
        await self.changed.wait()
