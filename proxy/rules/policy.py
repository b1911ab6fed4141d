"""What the operator wants of one route's cache, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class KeyRule:
    """What of a request is in its key beside scheme, host and target.

    `ignore_query` holds parameter names, a trailing * matching any rest; `headers` holds
    lower-case request field names.
    """

    ignore_query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """One route's cache rules. Durations in seconds, sizes in bytes, `jitter` a fraction.

    `stale_if_error` None leaves it to the response, and to RFC 9111 section 4.2.4 where that is silent:
    only an upstream that cannot be reached is bridged, not one that answers with an error.
    """

    enabled: bool = True
    default_ttl: float | None = None
    override_ttl: float | None = None
    jitter: float = 0.1
    stale_while_revalidate: float = 0.0
    stale_if_error: float | None = None
    early_refresh: float = 0.0
    negative_ttl: Mapping[int, float] = field(default_factory=dict)
    respect_request: bool = True
    unsafe_invalidates: bool = True
    store_set_cookie: bool = False
    share_credentials: bool = False
    key: KeyRule = KeyRule()
    tags: tuple[str, ...] = ()
    forward_tags: bool = False
    max_object_size: int = 8 << 20

    @property
    def operator_freshness(self) -> bool:
        """Whether the lifetime of a good answer may come from here and not from the upstream."""
        return self.default_ttl is not None or self.override_ttl is not None

    def fingerprint(self) -> str:
        """Short digest: an entry stored under another policy is a miss. It is left out how large entries may be: that
        says whether something is stored, not what it is, and instances may differ in it.
        """
        text = repr(
            [
                (f.name, sorted(v.items()) if isinstance(v := getattr(self, f.name), Mapping) else v)
                for f in fields(self)
                if f.name != "max_object_size"
            ]
        )
        return blake2b(text.encode(), digest_size=8).hexdigest()
