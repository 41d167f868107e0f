"""The attempts of one link, running or ended but not acknowledged, and the credits that go with them. They outlive streams."""

from saga.v1 import participant_pb2


class Attempts:
    """Credits out and attempts running never exceed the concurrency, but for the one credit that a Hello must carry."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.running: set[int] = set()
        self.unacknowledged: dict[int, participant_pb2.Result] = {}
        self.granted = 0
        """Credits that the coordinator holds."""
        self.owed = 0
        """Credits that may be given back. Negative after a stream that began with a credit too many."""

    def open(self) -> int:
        """A new stream begins: the credits for its Hello, at least one. What runs already is subtracted, now or later."""
        busy = len(self.running)
        self.granted = max(self.concurrency - busy, 1)
        self.owed = self.concurrency - busy - self.granted
        return self.granted

    def in_progress(self) -> list[int]:
        """Lease tokens for Hello: everything that must not be sent again."""
        return [*self.running, *self.unacknowledged]

    def spend(self) -> bool:
        """A command came: whether there was a credit for it."""
        if self.granted == 0:
            return False
        self.granted -= 1
        return True

    def refund(self) -> None:
        """A credit was spent on a command that needs no handler."""
        self.owed += 1

    def has_room(self) -> bool:
        """Whether one more may run: streams that began while everything was busy had to give a credit each, and only one of these
        commands runs beyond the concurrency."""
        return len(self.running) <= self.concurrency

    def started(self, token: int) -> None:
        """A handler was started."""
        self.running.add(token)

    def ended(self, result: participant_pb2.Result) -> None:
        """A handler ended; its result is kept until it is acknowledged."""
        if result.lease_token in self.running:
            self.running.remove(result.lease_token)
            self.owed += 1
        self.unacknowledged[result.lease_token] = result

    def acknowledged(self, token: int) -> bool:
        """A result was acknowledged: whether there was one."""
        return self.unacknowledged.pop(token, None) is not None

    def give_away(self) -> list[participant_pb2.Result]:
        """Results that go on through another link."""
        results, self.unacknowledged = list(self.unacknowledged.values()), {}
        return results

    def credits_to_return(self) -> int:
        """Credits to give back now: in batches of a quarter, or when the coordinator has none left, or when nothing runs."""
        if self.owed < max(self.concurrency // 4, 1) and self.granted > 0 and self.running:
            return 0
        return self.all_credits_to_return()

    def all_credits_to_return(self) -> int:
        """All that are owed, however few: for every heartbeat, so that a few long handlers do not hold the others' back. While too much
        waits for acknowledgement, none are: the coordinator is behind."""
        if self.owed <= 0 or len(self.unacknowledged) > 4 * self.concurrency + 64:
            return 0
        returned, self.owed = self.owed, 0
        self.granted += returned
        return returned

    def is_settled(self) -> bool:
        """Whether nothing runs and everything is acknowledged."""
        return not self.running and not self.unacknowledged
