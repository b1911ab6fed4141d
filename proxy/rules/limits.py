"""What a client may ask of the data listener."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds; `flight_memory` is what fetches in the air may hold in memory."""

    max_header_bytes: int = 32 << 10
    max_headers: int = 100
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    write_timeout: float = 30.0
    idle_timeout: float = 75.0
    max_connections: int = 10_000
    flight_memory: int = 128 << 20
