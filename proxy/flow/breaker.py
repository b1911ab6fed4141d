"""A circuit breaker: after so many failures in a row an upstream is left alone for a while."""


class Breaker:
    """Closed, open, or half-open with one probe out. `open_for` is in seconds."""

    __slots__ = ("_failures", "_limit", "_open_for", "_open_until", "_probing", "opened")

    def __init__(self, failures: int, open_for: float) -> None:
        self._limit, self._open_for = failures, open_for
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False
        self.opened = 0  # times it opened, for the counters

    def change(self, failures: int, open_for: float) -> None:
        """Go by other numbers from now on; what has opened stays open for as long as it was to."""
        self._limit, self._open_for = failures, open_for

    @property
    def open(self) -> bool:
        """Whether calls are held back. One that is admitted all the same is the probe."""
        return self._open_until is not None

    def would_admit(self, now: float) -> bool:
        """Whether a call could go, without one."""
        return self._open_until is None or (now >= self._open_until and not self._probing)

    def admits(self, now: float) -> bool:
        """Whether a call may go; when the time is up one is let through to see."""
        if not self.would_admit(now):
            return False
        self._probing = self._open_until is not None
        return True

    def succeeded(self) -> None:
        """The upstream answered, whatever the status."""
        self._failures, self._open_until, self._probing = 0, None, False

    def failed(self, now: float, *, probe: bool) -> None:
        """The upstream could not be reached or did not answer. While open only the probe's failure counts."""
        self._failures += 1
        if probe or (self._open_until is None and self._failures >= self._limit):
            self.opened += self._open_until is None
            self._open_until = now + self._open_for
        if probe:
            self._probing = False

    def abandoned(self, *, probe: bool) -> None:
        """The call ended without a verdict; if it was the probe, the next one is."""
        if probe:
            self._probing = False
