"""How an attempt ended."""

import datetime
import json
from dataclasses import dataclass
from typing import Any, Literal, Self

from saga.v1 import event_pb2, participant_pb2

MAX_REASON = 63
MAX_MESSAGE = 1_000
REASON_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. Which of the four kinds it is decides what the saga does next, so the difference matters."""

    kind: Literal["success", "rejected", "transient", "unknown"]
    output: event_pb2.Value | None = None
    failure: event_pb2.Failure | None = None

    @classmethod
    def done(cls) -> Self:
        """A success without output."""
        return cls("success")

    @classmethod
    def text(cls, output: str) -> Self:
        """A success whose output goes to later steps and to the compensation."""
        return cls("success", event_pb2.Value(text=output))

    @classmethod
    def json(cls, output: Any) -> Self:
        """A success whose output is JSON text."""
        return cls.text(json.dumps(output))

    @classmethod
    def rejected(cls, reason: str, message: str) -> Self:
        """A business "no": it did nothing and never will. `reason` is UPPER_SNAKE_CASE, `message` holds nothing secret."""
        return cls("rejected", failure=event_pb2.Failure(reason=reason, message=message))

    @classmethod
    def transient(cls, reason: str, message: str, after: datetime.timedelta | None = None) -> Self:
        """It certainly did nothing this time; another attempt may work, not before `after`."""
        return cls("transient", failure=event_pb2.Failure(reason=reason, message=message, retry_after=after))

    @classmethod
    def unknown(cls, reason: str, message: str) -> Self:
        """It may or may not have happened: tried again, and compensated if the saga aborts."""
        return cls("unknown", failure=event_pb2.Failure(reason=reason, message=message))

    def to_wire(self, max_payload_bytes: int) -> dict[str, Any]:
        """As the field of a Result. An output that cannot be passed on makes the outcome unknown, so that the saga undoes it."""
        if self.kind == "success":
            output = self.output or event_pb2.Value()
            size = len(output.text.encode()) + len(output.binary)
            if 0 < max_payload_bytes < size:
                message = f"the output has {size} bytes, the coordinator takes at most {max_payload_bytes}"
                return Outcome.unknown("OUTPUT_TOO_LARGE", message).to_wire(0)
            return {"success": participant_pb2.Success(output=self.output)}
        field = "rejection" if self.kind == "rejected" else self.kind
        return {field: within_limits(self.failure or event_pb2.Failure())}


def within_limits(failure: event_pb2.Failure) -> event_pb2.Failure:
    """A coordinator refuses failures that break the limits; a refused result would leave the attempt to its timeout."""
    reason = failure.reason or "UNSPECIFIED"
    if not REASON_LETTERS.issuperset(reason):
        reason = "".join(letter if letter in REASON_LETTERS else "_" for letter in reason.upper())
    limited = event_pb2.Failure()
    limited.CopyFrom(failure)
    limited.reason = reason[:MAX_REASON]
    limited.message = failure.message[:MAX_MESSAGE]
    return limited
