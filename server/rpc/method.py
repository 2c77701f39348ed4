"""The RPCs of the contract as they are served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from signalbox.v1 import options_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

    from server.sharing.loop_time import LoopTime


class RequestParser(Protocol):
    """Parses the requests of one method. Its methods raise MalformedRequest and UnstorableText."""

    def parse(self, data: bytes) -> Any:
        """Parse a request into a message, or into the value that its servicer takes in place of one."""
        ...

    async def parse_in_slices(self, data: bytes, loop_time: LoopTime, key: object) -> Message:
        """Parse a large request, as `parse` does, so that the event loop serves others in between."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """An RPC of the contract as it is served: the method of its servicer, and the scope that it needs."""

    descriptor: MethodDescriptor
    scope: str
    call: Callable[..., Any]

    @property
    def streams(self) -> bool:
        """Whether a call has a stream of responses."""
        return bool(self.descriptor.server_streaming)

    @property
    def name(self) -> str:
        """The name in the log, such as `EventIngest/SendEvent`."""
        return f"{self.descriptor.containing_service.name}/{self.descriptor.name}"

    @property
    def changes(self) -> bool:
        """Whether a call changes what operators keep, and so has an entry in the audit log."""
        effect: int = self.descriptor.GetOptions().Extensions[options_pb2.effect]
        return effect == options_pb2.EFFECT_AUDITED

    @property
    def writes(self) -> bool:
        """Whether a call with one response changes the database, and does not wait for others to change it."""
        effect: int = self.descriptor.GetOptions().Extensions[options_pb2.effect]
        return effect != options_pb2.EFFECT_READS and not self.waits

    @property
    def waits(self) -> bool:
        """Whether a call may wait as long as its caller asked it to."""
        return self.streams or "wait" in self.descriptor.input_type.fields_by_name


def served_methods(service: ServiceDescriptor, servicer: object) -> Iterator[Method]:
    """Yield the methods of a service that its servicer has. Raise ValueError for one without a scope or an effect."""
    for descriptor in service.methods:
        if hasattr(servicer, descriptor.name):
            scope: str = descriptor.GetOptions().Extensions[options_pb2.required_scope]
            if not scope:
                raise ValueError(f"{descriptor.full_name} has no required_scope")
            if not descriptor.GetOptions().Extensions[options_pb2.effect]:
                raise ValueError(f"{descriptor.full_name} has no effect")
            yield Method(descriptor, scope, getattr(servicer, descriptor.name))
