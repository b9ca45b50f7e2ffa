"""Hooks of the documentation site: sources for the API pages, the command line's own help, and
links that lead out of ``docs/``."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "build" / "site-source"
WINGS = ("envs", "agents", "scenes")
PROJECT = {
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
}
"""Files at the repository's top that are pages of the site, where they exist."""
COMMAND_LINE = "reference/command_line.md"
MARK = "<!-- commands -->"
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")

log = logging.getLogger("mkdocs.hooks.worldsim")


def on_startup(**_: Any) -> None:
    """Copy the package with its wings inside it, as the wheel has it, for mkdocstrings to read."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "worlds", "agents_shipped", "*.safetensors")
    shutil.copytree(ROOT / "worldsim", SOURCE / "worldsim", ignore=ignore)
    for wing in WINGS:
        shutil.copytree(ROOT / wing, SOURCE / "worldsim" / wing, ignore=ignore)
    # app/worlds.py is a module, and "worlds" above is the folder of data.
    shutil.copytree(ROOT / "worldsim/app", SOURCE / "worldsim/app", dirs_exist_ok=True)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are kept at the repository's top."""
    for name, page in PROJECT.items():
        if (ROOT / name).exists():
            files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in the commands; resolve links that lead out of ``docs/``."""
    here = page.file.src_uri
    if here == COMMAND_LINE:
        markdown = markdown.replace(MARK, commands())
    top = next((name for name, made in PROJECT.items() if made == here), None)
    base = "" if top is not None else posixpath.join("docs", posixpath.dirname(here))

    def resolve(match: re.Match[str]) -> str:
        text, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return match.group(0)
        inside = posixpath.normpath(posixpath.join(base, path))
        if (ROOT / inside / "index.md").exists():
            inside = f"{inside}/index.md"
        if inside in PROJECT:
            found = PROJECT[inside]
        elif inside == "README.md":
            found = "index.md"
        elif inside.startswith("docs/"):
            found = inside.removeprefix("docs/")
        else:
            if not (ROOT / inside).exists():
                log.warning("%s links to %s, which does not exist", here, target)
            if config.repo_url:
                return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{inside})"
            return text if "`" in text else f"{text} (`{inside}`)"
        relative = posixpath.relpath(found, posixpath.dirname(here) or ".")
        return f"[{text}]({relative}{'#' + anchor if anchor else ''})"

    return outside_code(markdown, lambda part: LINK.sub(resolve, part))


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Warn, and so fail a strict build, where a page would load something from another host."""
    loaded = re.findall(r"<(?:script|img|iframe|source)[^>]+src=\"?(https?:[^\"\s>]+)", output)
    loaded += re.findall(r"<link[^>]+rel=\"?stylesheet[^>]+href=\"?(https?:[^\"\s>]+)", output)
    for address in loaded:
        log.warning("%s loads %s", page.file.src_uri, address)
    return output


def outside_code(markdown: str, change: Any) -> str:
    """``change`` of everything that is not in a fenced block."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def commands() -> str:
    """One section a command, from what ``worldsim COMMAND --help`` prints."""
    from worldsim.app.cli import COMMANDS, FOR_PAINTERS

    found = []
    for name in COMMANDS:
        found.append(section(name))
        if name in FOR_PAINTERS:
            found.append(section(name, "freedoom-painter"))
    return "\n".join(found)


def section(name: str, *arguments: str) -> str:
    """One command's help, with these arguments before ``--help``, as Markdown."""
    lines = [line.strip("│|").rstrip() for line in help_of(name, *arguments).splitlines()]
    blank = lines.index("")
    usage = " ".join(" ".join(lines[:blank]).removeprefix("usage: ").replace("{None}|", "").split())
    rest = lines[blank + 1 :]
    end = rest.index("")
    title = " ".join([name, *arguments])
    parts = [f"## {title}\n", " ".join(rest[:end]) + "\n", f"```\n{usage}\n```\n"]
    for line in rest[end:]:
        text = line.strip("╭╮╰╯─- ")
        option = re.match(r" {1,2}(-{1,2}\w.*?|[A-Z_]+)(?:  +(\S.*))?$", line)
        if not text:
            continue
        if option is not None:
            flag, text = option.group(1).replace("{None}|", ""), prose(option.group(2) or "")
            if not flag.startswith("-h,"):
                parts += [f"\n`{flag}`", f":   {text}"]
        elif line.startswith("   ") and parts[-1] == ":   ":
            parts[-1] += prose(text)
        elif line.startswith("   "):
            parts.append(f"    {prose(text)}")
        elif text.endswith(" options"):
            parts.append(f"\n### {name}: {text}\n")
        elif text not in ("options", "positional arguments"):
            parts.append(prose(text) + "\n")
    return "\n".join(parts) + "\n"


def prose(text: str) -> str:
    """Docstring text as Markdown, with nothing in it taken for HTML or a link."""
    text = re.sub(r":(?:class|meth|func|mod):`~?([^`]+)`", r"`\1`", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([<>\[\]*_|])", r"\\\1", p) for p in pieces)


def help_of(name: str, *arguments: str) -> str:
    """What the command prints, in one column of options."""
    from worldsim.app.cli import parse

    out = io.StringIO()
    before = {key: os.environ.get(key) for key in ("COLUMNS", "NO_COLOR", "TERM")}
    os.environ.update(COLUMNS="110", NO_COLOR="1", TERM="dumb")
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            parse(name, [*arguments, "--help"])
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
    return out.getvalue()
