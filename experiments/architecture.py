"""Draw docs/images/architecture.svg from the imports of the packages: ``python
experiments/architecture.py``; ``--check`` fails if the picture on disk is another one.

Above: the way of one frame, from the engine that it is recorded from to the evaluation. Below: the
packages and top-level modules of worldsim. A module stands one row above the highest one that it
imports, and a line leads to each that it imports and does not reach through another.
"""

from __future__ import annotations

import ast
import itertools
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
WINGS = ("envs", "agents", "scenes")
LEFT_OUT = {"__init__", "__main__", "errors"}
"""The package itself, its command, and the errors, which all of them import."""

LABELS = {
    "agents": "policies, planners, learners",
    "app": "command line, demo, viewer",
    "camera": "poses, rays, projection",
    "data": "recordings on disk",
    "diffusion": "the network and its sampler",
    "envs": "Gymnasium environments",
    "evaluation": "figures against the real twin",
    "io": "pictures, video, meshes",
    "memory": "what was seen, in 3D",
    "painting": "completes partial views",
    "planning": "objectives, ground, places",
    "play": "the page to walk on",
    "pretrained": "video models of diffusers",
    "protocols": "interfaces of the parts",
    "runtime": "files, processes, devices",
    "scenes": "what a reset starts from",
    "sessions": "worlds over the network",
    "shipped": "policies by name",
    "state": "records passed between parts",
    "testing": "executable contracts",
    "training": "from recordings to weights",
    "world": "one step; files, snapshots",
}

WAY = (
    ("real twin", "envs/doom.py", "ViZDoom renders it"),
    ("recording", "worldsim/data/record.py", "stored with its action"),
    ("training", "worldsim/training/trainer.py", "the network learns it"),
    ("memory view", "worldsim/memory/points.py", "what is known is drawn"),
    ("dynamics", "worldsim/diffusion/dynamics.py", "the next one is sampled"),
    ("world step", "worldsim/world/step.py", "joins the memory"),
    ("environment", "envs/world_env.py", "the agent observes it"),
    ("evaluation", "worldsim/evaluation/measure.py", "compared with the twin"),
)
"""Stations of a frame: name, the file that does it, what happens there."""

WIDTH, MARGIN, ROW, BOX = 800, 16, 62, (184, 38)
STATION = (180, 62)
STYLE = """
  .ground { fill: #ffffff; } .box { fill: #eef2f7; stroke: #8a99ad; } .wing { fill: #e6f4ea; }
  .line { stroke: #9aa7b8; fill: none; } text { fill: #1d2733; } .quiet { fill: #55606e; }
  .station { fill: #fff3dc; stroke: #c98a1b; } .way { stroke: #c98a1b; fill: none; }
  .badge { fill: #c98a1b; } .number { fill: #ffffff; font-weight: bold; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #161b22; } .box { fill: #263140; stroke: #66788f; } .wing { fill: #1f3a2b; }
    .line { stroke: #5d6b7d; } text { fill: #e8edf3; } .quiet { fill: #aab5c2; }
    .station { fill: #43351a; stroke: #d9a441; } .way { stroke: #d9a441; }
    .badge { fill: #d9a441; } .number { fill: #161b22; }
  }
"""


def room_of(parts: tuple[str, ...]) -> str:
    """The package or top-level module that a path or a dotted name of worldsim leads to."""
    inside = parts[1:] if parts[0] == "worldsim" else parts
    return Path(inside[0]).stem if inside else "__init__"


def imported_rooms() -> dict[str, set[str]]:
    """For each package and top-level module, those that any of its files imports."""
    found: dict[str, set[str]] = {}
    for folder in ("worldsim", *WINGS):
        for path in sorted((ROOT / folder).rglob("*.py")):
            room = room_of(path.relative_to(ROOT).parts)
            imports = found.setdefault(room, set())
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module == "worldsim":
                    names = [f"worldsim.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module]
                imports |= {
                    room_of(tuple(name.split("."))) for name in names if name[:9] == "worldsim."
                }
    rooms = set(found) - LEFT_OUT
    return {room: (found[room] & rooms) - {room} for room in sorted(rooms)}


def reached(rooms: dict[str, set[str]], room: str) -> set[str]:
    """All that a room imports, directly or through others."""
    return rooms[room].union(*(reached(rooms, other) for other in rooms[room]))


def rows_of(rooms: dict[str, set[str]]) -> list[list[str]]:
    """Rooms from the top row to the lowest; each stands above all that it imports."""
    height: dict[str, int] = {}

    def climb(room: str) -> int:
        if room not in height:
            height[room] = 1 + max((climb(other) for other in rooms[room]), default=-1)
        return height[room]

    top = max(climb(room) for room in rooms)
    return [[room for room in rooms if height[room] == level] for level in range(top, -1, -1)]


def box(x: float, y: float, size: tuple[int, int], kind: str, name: str, lines: list[str]) -> str:
    """A rectangle with a name in bold and smaller lines below it, around (x, y)."""
    width, height = size
    left, top = x - width / 2, y - height / 2
    text = [
        f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{width}" height="{height}" rx="6"/>',
        f'<text x="{x:g}" y="{top + 16:g}" font-size="13" font-weight="bold">{escape(name)}</text>',
    ]
    text += [
        f'<text class="quiet" x="{x:g}" y="{top + 31 + 16 * i:g}" font-size="11">'
        f"{escape(line)}</text>"
        for i, line in enumerate(lines)
    ]
    return "\n".join(text)


def badge(number: int, x: float, y: float) -> str:
    return (
        f'<circle class="badge" cx="{x:g}" cy="{y:g}" r="9"/>'
        f'<text class="number" x="{x:g}" y="{y + 4:g}" font-size="11">{number}</text>'
    )


def draw_way(top: float) -> tuple[list[str], float]:
    """The stations in two rows, from left to right and back, and where they end."""
    per_row = (len(WAY) + 1) // 2
    gap = (WIDTH - 2 * MARGIN - per_row * STATION[0]) / (per_row - 1)
    places = []
    for i in range(len(WAY)):
        row, column = divmod(i, per_row)
        column = column if row == 0 else per_row - 1 - column
        places.append(
            (
                MARGIN + STATION[0] / 2 + column * (STATION[0] + gap),
                top + STATION[1] / 2 + row * (STATION[1] + 26),
            )
        )
    drawn = [
        f'<path class="way" stroke-width="2" marker-end="url(#tip)" d="M{x0:g} {y0:g}'
        + (
            f"V{y1 - STATION[1] / 2 - 3:g}"
            if x0 == x1
            else f"H{x1 - (STATION[0] / 2 + 3) * (1 if x1 > x0 else -1):g}"
        )
        + '"/>'
        for (x0, y0), (x1, y1) in itertools.pairwise(places)
    ]
    for i, ((name, file, what), (x, y)) in enumerate(zip(WAY, places, strict=True)):
        if not (ROOT / file).is_file():
            raise SystemExit(f"{file} is gone: name the file of station {name!r} in WAY")
        drawn.append(box(x, y, STATION, "station", name, [file.removeprefix("worldsim/"), what]))
        drawn.append(badge(i + 1, x - STATION[0] / 2 + 12, y - STATION[1] / 2 + 12))
    return drawn, places[-1][1] + STATION[1] / 2


def draw_rooms(top: float) -> tuple[list[str], float]:
    """The rooms in their rows, lines between them, and where they end."""
    rooms = imported_rooms()
    if unknown := set(rooms) - set(LABELS):
        raise SystemExit(f"{sorted(unknown)} have no text in LABELS")
    place: dict[str, tuple[float, float]] = {}
    for level, row in enumerate(rows_of(rooms)):
        # Each room near those that import it, so that lines seldom cross.
        users = {
            room: [place[user][0] for user in place if room in rooms[user]] or [WIDTH / 2]
            for room in row
        }
        row = sorted(row, key=lambda room: (sum(users[room]) / len(users[room]), room))
        for i, room in enumerate(row):
            place[room] = (WIDTH * (i + 0.5) / len(row), top + BOX[1] / 2 + ROW * level)
    lines, boxes = [], []
    for room, (x, y) in place.items():
        direct = {o for o in rooms[room] if not any(o in reached(rooms, b) for b in rooms[room])}
        for other in sorted(direct):
            x1, y1 = place[other]
            start, stop = y + BOX[1] / 2, y1 - BOX[1] / 2
            bend = min(ROW, stop - start)
            lines.append(
                f'<path class="line" d="M{x:g} {start:g}'
                f'C{x:g} {start + bend:g} {x1:g} {stop - bend:g} {x1:g} {stop:g}"/>'
            )
        kind = "box wing" if room in WINGS else "box"
        boxes.append(box(x, y, BOX, kind, room, [LABELS[room]]))
        numbers = [i for i, (_, file, _) in enumerate(WAY, 1) if room_of(Path(file).parts) == room]
        boxes += [
            badge(number, x + BOX[0] / 2 - 12 - 20 * i, y - BOX[1] / 2 + 12)
            for i, number in enumerate(reversed(numbers))
        ]
    return lines + boxes, max(y for _, y in place.values()) + BOX[1] / 2


def draw() -> str:
    """The picture as SVG text."""
    way, end = draw_way(44)
    rooms, height = draw_rooms(end + 50)
    height += MARGIN
    heading = '<text class="quiet" x="{}" y="{:g}" font-size="13" text-anchor="start">{}</text>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
            f'width="{WIDTH}" height="{height:g}" text-anchor="middle" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
            "<title>The way of a frame through worldsim, and what imports what</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" '
            'markerHeight="6" orient="auto"><path class="badge" d="M0 0L8 4L0 8Z"/></marker>'
            "</defs>",
            f'<rect class="ground" width="{WIDTH}" height="{height:g}" rx="10"/>',
            heading.format(MARGIN, 28, "The way of a frame"),
            heading.format(
                MARGIN, end + 34, "Packages and modules; lines lead to what is imported"
            ),
            *way,
            *rooms,
            "</svg>\n",
        ]
    )


def main(arguments: list[str]) -> None:
    drawn = draw()
    if arguments == ["--check"]:
        if PICTURE.read_text() != drawn:
            raise SystemExit(f"{PICTURE} is not what the imports are: run {Path(__file__).name}")
    elif arguments:
        raise SystemExit(__doc__)
    else:
        PICTURE.write_text(drawn)


if __name__ == "__main__":
    main(sys.argv[1:])
