"""What a handler receives."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from saga.v1 import event_pb2, participant_pb2

from .barrier import Key
from .outcome import Outcome

MAX_DETAILS = 256
DEFAULT_TIMEOUT = 10.0


class InputInvalid(Exception):
    """A command without the input that its handler needs: the attempt is answered with this rejection."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.outcome = Outcome.rejected(reason, message)


@dataclass(frozen=True)
class StepCommand:
    """One attempt at one step: what to do, or to undo, and with what."""

    saga_id: str
    step: str
    direction: int
    """`event_pb2.DIRECTION_ACTION` or `DIRECTION_COMPENSATION`."""
    action: str
    attempt: int
    lease_token: int
    timeout: float
    """Seconds, after which the handler is cancelled."""
    not_after: int | None
    """Unix milliseconds: an action must not take effect later. The barrier checks it inside the transaction."""
    heartbeat_timeout: float | None
    input: Mapping[str, event_pb2.Value]
    outputs: Mapping[str, event_pb2.Value]
    action_output: event_pb2.Value | None
    traceparent: str
    beat: Callable[[str], None]

    @classmethod
    def of(cls, command: participant_pb2.Command, beat: Callable[[str], None]) -> "StepCommand":
        """From the coordinator's message."""
        not_after = command.not_after_time
        return cls(
            saga_id=command.saga_id,
            step=command.step,
            direction=command.direction,
            action=command.action,
            attempt=command.attempt,
            lease_token=command.lease_token,
            timeout=positive(command.timeout) or DEFAULT_TIMEOUT,
            not_after=not_after.seconds * 1000 + not_after.nanos // 1_000_000 if command.HasField("not_after_time") else None,
            heartbeat_timeout=positive(command.heartbeat_timeout),
            input=command.input,
            outputs=command.outputs,
            action_output=command.action_output if command.HasField("action_output") else None,
            traceparent=command.traceparent,
            beat=beat,
        )

    def key(self) -> Key:
        """What the barrier needs to know of this command."""
        return Key(self.saga_id, self.step, self.direction, self.not_after)

    def text(self, field: str) -> str | None:
        """An input field that is text."""
        value = self.input.get(field)
        return value.text if value is not None and value.HasField("text") else None

    def required(self, field: str) -> str:
        """An input field that must be there as text; otherwise the attempt is rejected."""
        text = self.text(field)
        if text is None:
            message = f"`{self.action}` needs the input field `{field}` as text; list it in the step's input_fields"
            raise InputInvalid("INPUT_MISSING", message)
        return text

    def json(self, field: str) -> Any:
        """An input field that must be there as JSON; otherwise the attempt is rejected."""
        try:
            return json.loads(self.required(field))
        except ValueError as error:
            raise InputInvalid("INPUT_INVALID", f"input field `{field}` of `{self.action}`: {error}") from error

    def heartbeat(self, details: str) -> None:
        """Tells the coordinator that this attempt is alive, and how far it came: at most 256 characters, the rest is cut."""
        self.beat(details[:MAX_DETAILS])


def positive(duration: Any) -> float | None:
    """Seconds of a duration above zero."""
    seconds = duration.seconds + duration.nanos / 1e9
    return seconds if seconds > 0 else None
