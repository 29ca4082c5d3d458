"""The wire that daemon and clients share: frames, headers, the table of operations, and a `Connection` without I/O.

`PROTOCOL.md` beside this file is the specification. The package needs msgpack and the standard library, imports
nothing else of vaultd, opens nothing and reads no clock.
"""

from __future__ import annotations

from vaultd.protocol.codec import MAX_REQUEST_HEADER
from vaultd.protocol.connection import MAX_OUTSTANDING, Connection, Role
from vaultd.protocol.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from vaultd.protocol.framing import MAX_FRAME, MAX_HEADER, Frame, FrameDecoder, encode_frame, wipe
from vaultd.protocol.messages import VERSION, Malformed, Push, Reply, Request
from vaultd.protocol.operations import COMMON_CODES, EVENTS, MAX_TAIL, MAX_VALUE, OPERATIONS, Event, Operation

__all__ = [
    "COMMON_CODES",
    "EVENTS",
    "MAX_FRAME",
    "MAX_HEADER",
    "MAX_OUTSTANDING",
    "MAX_REQUEST_HEADER",
    "MAX_TAIL",
    "MAX_VALUE",
    "OPERATIONS",
    "VERSION",
    "Connection",
    "Event",
    "Frame",
    "FrameDecoder",
    "LocalProtocolError",
    "Malformed",
    "Operation",
    "ProtocolError",
    "Push",
    "RemoteProtocolError",
    "Reply",
    "Request",
    "Role",
    "encode_frame",
    "wipe",
]
