"""Scripts, and what is sent to run them."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from proxy.edges.redis_script import Call, Prepared, Script
from proxy.edges.redis_wire import Word, pack, unpack

WORDS = st.lists(st.text() | st.binary() | st.integers(), max_size=4).map(tuple)
SCRIPT = Script("return 1")


@given(st.lists(st.text(), min_size=1, max_size=3), WORDS, WORDS)
def test_a_prepared_call_is_the_same_as_one_that_is_packed_at_once(
    keys: list[str], first: tuple[Word, ...], last: tuple[Word, ...]
) -> None:
    prepared = Prepared(SCRIPT, keys, first)
    assert prepared.packed(last) == pack(SCRIPT.call(keys, [*first, *last]))
    assert prepared.key == keys[0]


@given(WORDS.filter(bool))
def test_what_is_packed_can_be_taken_apart_to_be_said_another_way(words: tuple[Word, ...]) -> None:
    said = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    assert unpack(pack(words)) == said


def test_a_script_is_called_by_its_hash_and_where_it_cannot_be_repeated_by_its_text() -> None:
    sha = hashlib.sha1(b"return 1", usedforsecurity=False).hexdigest()
    assert SCRIPT.call(["a", "b"], [3]) == ("EVALSHA", sha, 2, "a", "b", 3)
    assert Call.script(SCRIPT, ["a", "b"], [3]).words == ("EVAL", "return 1", 2, "a", "b", 3)


def test_the_scripts_in_lua_are_loaded_by_name() -> None:
    assert Script.load("claim").source.startswith("#!lua")
