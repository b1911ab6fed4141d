import gc
import resource
from collections.abc import Iterator

import pytest

from proxy.process import raise_file_limit, spare_the_collector, trouble_the_collector


@pytest.mark.parametrize(
    ("soft", "hard", "set_to", "warns"),
    [
        (256, 10_000, 420, False),
        (256, resource.RLIM_INFINITY, 420, False),
        (256, 300, 300, True),
        (420, 420, None, False),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, False),
    ],
    ids=["can be raised", "without bound", "not far enough", "is enough", "no limit"],
)
def test_the_limit_of_open_files_is_raised_or_said_to_be_too_low(
    soft: int,
    hard: int,
    set_to: int | None,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: made.append(limits))
    raise_file_limit(420)
    assert made == ([] if set_to is None else [(set_to, hard)])
    assert ("only 300 files may be open where the configured connections need 420" in caplog.text) is warns


@pytest.fixture
def collector() -> Iterator[None]:
    """As it was before, afterwards."""
    thresholds = gc.get_threshold()
    yield
    trouble_the_collector()
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_what_a_full_collection_has_looked_at_is_not_looked_at_again() -> None:
    spare_the_collector()
    gc.collect()
    before, kept = gc.get_freeze_count(), [[number] for number in range(1000)]
    gc.collect()
    assert gc.get_freeze_count() >= before + len(kept)
    trouble_the_collector()
    frozen, more = gc.get_freeze_count(), [[number] for number in range(1000)]
    gc.collect()
    assert gc.get_freeze_count() == frozen
    assert len(more) == len(kept)
