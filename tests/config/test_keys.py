"""Every key that there is, as its schema and its documentation tell it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from proxy.config.keys import json_schema

ROOT: Final = Path(__file__).resolve().parent.parent.parent


def keys(schema: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that the schema knows, with its default."""
    for name, child in schema.get("properties", {}).items():
        place = f"{at}.{name}" if at else name
        yield place, child.get("default")
        yield from keys(child, place)
    for child in (
        *schema.get("anyOf", ()),
        *schema.get("patternProperties", {}).values(),
        *([schema["items"]] if "items" in schema else []),
    ):
        yield from keys(child, at)


def test_every_key_is_documented_with_its_default() -> None:
    rows = [line for line in (ROOT / "docs" / "configuration.md").read_text().splitlines() if line.startswith("| `")]
    documented = {row.split("`")[1]: row.split(" | ")[1] for row in rows}
    known = {
        place.removeprefix("defaults.cache.").removeprefix("routes.cache."): default
        for place, default in keys(json_schema())
        if place not in ("defaults.cache", "defaults", "memory", "upstreams", "routes")
    }
    assert documented.keys() == known.keys()
    shown = {str(place): json.dumps(default).strip('"') for place, default in known.items() if default is not None}
    assert {place: documented[place].strip("`") for place in shown} == shown
