"""Pages of results: one HTML file that needs no other file and no network."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from worldsim.runtime.files import write_bytes

PALETTE = """
:root { --back: #fbfbfa; --card: #fff; --ink: #1c1d20; --soft: #63666d; --line: #dfe0e3; }
@media (prefers-color-scheme: dark) { :root { --back: #15161a; --card: #1d1f24; --ink: #e8e9ec;
  --soft: #a0a4ac; --line: #33363d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); }
"""
"""Colours of all pages, in a light and a dark theme."""


def write_page(path: Path, title: str, style: str, body: str) -> None:
    """Write a page, atomically.

    title: as plain text. style: CSS beside :data:`PALETTE`. body: HTML.
    """
    write_bytes(
        path,
        (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{html.escape(title)}</title><style>{PALETTE}{style}</style></head>"
            f"<body><main>{body}</main></body></html>\n"
        ).encode(),
    )


def image(content: bytes, kind: str, text: str) -> str:
    """Return an image that the page itself holds.

    content: of a file of the media type ``image/KIND``. text: what it shows, for those who do not
    see it.
    """
    coded = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/{kind};base64,{coded}">'
