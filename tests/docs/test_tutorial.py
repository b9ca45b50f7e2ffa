"""The tutorial quotes its script, and shows pictures that exist and are small."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "what_the_world_remembers.md").read_text()
SCRIPT = (DOCS / "what_the_world_remembers.py").read_text()
QUOTED = re.findall(r"<!-- quoted -->\n```python\n(.*?)```", PAGE, re.DOTALL)
PICTURES = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", PAGE)


def one_blank_line(text: str) -> str:
    """The text with runs of blank lines as one: inside a function, two are one."""
    return re.sub(r"\n{3,}", "\n\n", text)


def test_quoted_code_is_what_the_script_runs():
    assert len(QUOTED) >= 7
    position = 0
    for block in QUOTED:
        block = one_blank_line(block)
        forms = block, textwrap.indent(block, "    ")
        found = max(one_blank_line(SCRIPT).find(text, position) for text in forms)
        assert found >= 0, f"not in the script, or in another order:\n{block}"
        position = found


def test_all_python_of_the_page_is_quoted():
    assert PAGE.count("```python") == len(QUOTED)


def test_pictures_exist_and_are_small():
    sizes = {name: (DOCS / name).stat().st_size for name in PICTURES}
    assert len(sizes) == 8
    assert max(sizes.values()) < 150_000
    assert sum(sizes.values()) < 700_000
