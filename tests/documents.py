"""What the documentation lists, for tests that hold it to the code."""

import re
from pathlib import Path
from typing import Final

_DOCS: Final = Path(__file__).parents[1] / "docs"


def listed(page: str, section: str) -> list[str]:
    """What stands in backquotes at the beginning of the rows of a section's tables, in order."""
    _, found, rest = (_DOCS / page).read_text("utf-8").partition(f"\n## {section}\n")
    assert found, f"{page} has no section called {section}"
    return re.findall(r"^\| `([^`]+)` \|", rest.partition("\n## ")[0], re.MULTILINE)
