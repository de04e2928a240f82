"""The binary framing of AWS event streams, as far as Bedrock's answers need it.

A message is: total length, headers length, CRC of these two; headers; payload; CRC of everything before. A header
is: length of its name, the name, 7 (a string follows), length of the value, the value. Numbers are big-endian.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping

from actguard.testing._wire import dumps

PRELUDE = struct.Struct(">II")
CHECKSUM = struct.Struct(">I")
STRING_HEADER = 7


def encode_message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message of an event stream."""
    packed = b"".join(
        bytes((len(name),)) + name.encode() + struct.pack(">BH", STRING_HEADER, len(value)) + value.encode()
        for name, value in headers.items()
    )
    total = PRELUDE.size + len(packed) + len(payload) + 2 * CHECKSUM.size
    prelude = PRELUDE.pack(total, len(packed))
    message = prelude + CHECKSUM.pack(zlib.crc32(prelude)) + packed + payload
    return message + CHECKSUM.pack(zlib.crc32(message))


def bedrock_chunk(payload: Mapping[str, object]) -> bytes:
    """One event of a Bedrock stream: the model's JSON in base64, inside JSON, inside a message."""
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    return encode_message(headers, dumps({"bytes": base64.b64encode(dumps(payload)).decode()}))
