"""Durations as the configuration writes them."""

import pytest

from proxy.admin.durations import seconds
from proxy.config.kinds import Wrong
from proxy.config.vocabulary import duration

WRITTEN = ["250ms", "2s", "5m", "2h", "1d", "0", "0s", "1.5h", "0.0004s", "1.000001s", "30000ms"]
NONE = ["", "2", "2 s", "s", "-1s", "1e3s", "2S", "٢s", "2s\n", "1.s", ".5s", "1h30m", "00", "9" * 16 + "s"]


@pytest.mark.parametrize("text", WRITTEN)
def test_it_is_what_the_configuration_makes_of_it(text: str) -> None:
    assert seconds(text) == duration().parse(text)


@pytest.mark.parametrize("text", NONE)
def test_what_the_configuration_refuses_is_none(text: str) -> None:
    assert seconds(text) is None
    with pytest.raises(Wrong):
        duration().parse(text)
