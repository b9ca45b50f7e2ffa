"""The page of ``worldsim fit``: one HTML file that needs no other file and no network."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from worldsim.app import pages
from worldsim.app.fit.charts import diagonal_chart, line_chart
from worldsim.app.fit.config import FitConfig
from worldsim.app.fit.plan import Plan, recording_of, round_folder
from worldsim.app.fit.verdict import Figures, Verdict
from worldsim.evaluation.statistics import interval_text
from worldsim.io.video import read_video
from worldsim.runtime.progress import span

FRAME_MS = 80
"""Milliseconds of a frame of the film on the page: slow enough to look at."""
MOST_FRAMES = 220
LOSSES = {
    "rgb_mse": "error of pictures (mean squared, of colours in [-1, 1])",
    "termination_loss": "loss of ends",
    "reward_loss": "loss of rewards",
}
"""Entries of the training's history that are drawn."""
STYLE = """
:root { --c0: #2563c9; --c1: #c2571a; --c2: #2f8a4c; --good: #1d7a43; --bad: #b3382c;
  --code: #f1f2f4; }
@media (prefers-color-scheme: dark) { :root { --c0: #7aa9f7; --c1: #f0a06a; --c2: #74cf94;
  --good: #6fd195; --bad: #f2897c; --code: #26292f; } }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 8px; }
h2 { font-size: 1.2rem; margin: 40px 0 12px; }
p { margin: 0 0 12px; max-width: 72ch; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 14px;
  margin: 22px 0 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; min-width: 0; }
.card h3 { margin: 0 0 4px; font-size: 1rem; display: flex; justify-content: space-between; }
.card p { margin: 0; font-size: .92rem; }
.yes { color: var(--good); } .no { color: var(--bad); } .open { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); }
td.number, th.number { text-align: right; white-space: nowrap; }
figure { margin: 0; min-width: 0; }
figure img { max-width: 100%; height: auto; border-radius: 6px; display: block;
  image-rendering: pixelated; }
figcaption { margin-top: 6px; }
.checks table { min-width: 640px; }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr));
  gap: 20px; align-items: start; }
pre { background: var(--code); border-radius: 8px; padding: 10px 12px; overflow-x: auto;
  margin: 4px 0 14px; font-size: .88rem; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--soft); } .mid { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--line); } .line { fill: none; stroke-width: 2; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); }
.diagonal { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; }
.point { fill: var(--c0); fill-opacity: .8; }
.legend { font-size: .88rem; display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 4px 0 0; }
.legend i { display: inline-block; width: 18px; height: 3px; margin-right: 6px;
  vertical-align: middle; }
i.c0 { background: var(--c0); } i.c1 { background: var(--c1); } i.c2 { background: var(--c2); }
ul { padding-left: 20px; margin: 0 0 12px; max-width: 76ch; }
"""


def write_page(
    config: FitConfig,
    plan: Plan,
    verdict: Verdict,
    figures: Mapping[int, Figures],
    seconds: Mapping[str, float | None],
    path: Path,
) -> None:
    """Write the page of the newest round, atomically.

    figures: by round.
    seconds: by stage, such as ``train-1``.
    """
    number = max(figures)
    folder, found = round_folder(config.out, number), figures[number]
    parts = [
        _head(config, plan, verdict, number, seconds),
        _pictures(folder, found),
        _checks(verdict),
        _next(verdict),
        _policies(found),
        _rounds(figures),
        _curves(found),
        _calibration(found),
        _recording(found, verdict),
        _made(config, plan, number, seconds),
    ]
    pages.write_page(path, f"{config.env_id}: worldsim fit", STYLE, "".join(parts))


def _head(
    config: FitConfig,
    plan: Plan,
    verdict: Verdict,
    number: int,
    seconds: Mapping[str, float | None],
) -> str:
    height, width = plan.size
    rounds = "" if number == 1 else f", {number} rounds"
    total = sum(one or 0.0 for one in seconds.values())
    about = (
        f"{config.env_id}, images of {height}x{width} pixels, preset {plan.preset}{rounds}, "
        f"{span(total)} on a {'GPU' if plan.device == 'cuda' else 'CPU'}"
    )
    cards = "".join(
        f'<div class="card"><h3><span>To {html.escape(use)}</span>'
        f'<span class="{"yes" if fine else "no"}">{"yes" if fine else "no"}</span></h3>'
        f"<p>{html.escape(verdict.reasons[use])}</p></div>"
        for use, fine in verdict.good.items()
    )
    return (
        f'<p class="soft">{html.escape(about)}</p><h1>{html.escape(verdict.headline)}</h1>'
        f'<div class="cards">{cards}</div>'
    )


def _pictures(folder: Path, found: Figures) -> str:
    who = "persistent actions" if found.agreement is None else "the agent"
    same = found.same_actions
    strip = pages.image((folder / "strip.png").read_bytes(), "png", "True and dreamed frames")
    return (
        '<h2>Dream and real twin</h2><div class="pair">'
        f"<figure>{_film(folder / 'film.mp4')}<figcaption>The same first frame and {who} in both. "
        "Each goes its own way. Numbers are returns; what has ended is dark.</figcaption></figure>"
        f'<figure><div class="wide">{strip}</div><figcaption>The same '
        f"actions in both, from one true frame: {same['psnr']:.1f} dB over {same['steps']} steps, "
        f"a still picture of the start {same['still_psnr']:.1f} dB.</figcaption></figure></div>"
    )


def _film(path: Path) -> str:
    """Return the film as an animated picture, which every browser plays."""
    frames = [Image.fromarray(frame) for _, frame in read_video(path)][:MOST_FRAMES]
    stream = io.BytesIO()
    frames[0].save(
        stream, "WEBP", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0,
        quality=85, method=2,
    )  # fmt: skip
    return pages.image(stream.getvalue(), "webp", "A dream beside the real twin, moving")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """Return a table of escaped cells; the last ``numbers`` columns are numbers."""
    kinds = [""] * (len(head) - numbers) + [' class="number"'] * numbers
    top = "".join(f"<th{k}>{c}</th>" for k, c in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{k}>{c}</td>" for k, c in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _checks(verdict: Verdict) -> str:
    marks = {
        True: '<span class="yes">yes</span>',
        False: '<span class="no">no</span>',
        None: '<span class="open">not measured</span>',
    }
    rows = [
        [
            html.escape(check.name),
            marks[check.passed],
            html.escape(check.value),
            html.escape(check.limit),
            html.escape(", ".join(f"to {use.value}" for use in check.uses)),
        ]
        for check in verdict.checks
    ]
    head = ["", "enough", "measured, on new episodes", "needed", "for a world"]
    return f'<h2>What decides</h2><div class="checks">{_table(head, rows)}</div>'


def _next(verdict: Verdict) -> str:
    steps = "".join(
        f"<p>{html.escape(step.why)}:</p><pre><code>{html.escape(step.command)}</code></pre>"
        for step in verdict.steps
    )
    return f"<h2>What to do next</h2>{steps}"


def _policies(found: Figures) -> str:
    told = found.agreement
    if told is None:
        return ""
    rows = [
        [
            html.escape(_short(row["name"])),
            f"{row['real_return_mean']:.4g} {interval_text(row['real_return_ci95'])}",
            f"{row['dream_return_mean']:.4g} {interval_text(row['dream_return_ci95'])}",
        ]
        for row in sorted(told["policies"], key=lambda row: -row["real_return_mean"])
    ]
    points = {
        _short(row["name"]): (row["real_return_mean"], row["dream_return_mean"])
        for row in told["policies"]
    }
    note = (
        f"{told['episodes']} episodes of at most {told['max_steps']} steps each, from the same "
        f"first frames; 95% intervals. Correlation (Pearson) {_number(told['pearson'])}."
    )
    return (
        "<h2>Policies in the dream and in the real twin</h2>"
        f'<div class="pair"><div>{_table(["", "real twin", "dream"], rows, 2)}'
        f'<p class="soft">{note}</p></div>'
        f"<figure>{diagonal_chart(points, 'return in the real twin', 'return in the dream')}"
        "<figcaption>On the dashed line, dream and real twin pay the same.</figcaption>"
        "</figure></div>"
    )


def _short(name: str) -> str:
    """Return a policy's name with the folder's name in the place of its path."""
    path, _, rest = name.partition(" with ")
    return f"{Path(path).name} with {rest}" if rest else Path(path).name


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}"


def _rounds(figures: Mapping[int, Figures]) -> str:
    if len(figures) < 2:
        return ""
    rows = []
    for number, one in figures.items():
        told, found = one.agreement, one.evaluation
        rows.append(
            [
                str(number),
                f"{one.recording['frames']:,}",
                f"{one.recording['terminations']['count']:,}",
                _number(found.get("changed_psnr")),
                "" if told is None else _number(told["pearson"]),
                "" if told is None else f"{told['policies'][0]['real_return_mean']:.4g}",
            ]
        )
    head = ["round", "frames", "ends", "next frame, changing pixels, dB", "correlation", "agent"]
    return "<h2>Rounds</h2>" + _table(head, rows, 5)


def _curves(found: Figures) -> str:
    steps = [(entry["step"], entry) for entry in found.history]
    charts = []
    for key, name in LOSSES.items():
        points = [(float(step), float(entry[key])) for step, entry in steps if key in entry]
        if chart := line_chart({name: points}, "training step", name.partition(" (")[0]):
            charts.append(f"<figure>{chart}<figcaption>{html.escape(name)}</figcaption></figure>")
    same = found.same_actions["psnr_by_step"]
    dream = [(float(t), value) for t, value in enumerate(same, 1)]
    if chart := line_chart({"dream": dream}, "dreamed step", "PSNR, dB"):
        charts.append(
            f"<figure>{chart}<figcaption>How near a dream stays to the real twin under the same "
            "actions</figcaption></figure>"
        )
    return f'<h2>Curves</h2><div class="pair">{"".join(charts)}</div>' if charts else ""


def _calibration(found: Figures) -> str:
    table = found.evaluation.get("ending_calibration")
    if not table or not found.evaluation["real_ending_share"]:
        return ""
    rows = [
        [
            f"{row['low']:g} to {row['high']:g}",
            f"{row['steps']:,}",
            f"{row['predicted']:.3f}",
            f"{row['observed']:.3f}",
        ]
        for row in table
    ]
    head = ["predicted probability of an end", "steps", "predicted", "ended"]
    return (
        "<h2>Are ends as likely as predicted?</h2>"
        "<p>In each row, the last two numbers should be about equal.</p>" + _table(head, rows, 3)
    )


def _recording(found: Figures, verdict: Verdict) -> str:
    told = found.recording
    warnings = "".join(f"<li>{html.escape(one)}</li>" for one in verdict.warnings)
    notes = "".join(f"<li>{html.escape(str(one))}</li>" for one in told.get("notes", ()))
    return (
        "<h2>The recording</h2>"
        f"<p>{told['frames']:,} frames, {told['episodes']:,} episodes of "
        f"{told['episode_steps'][0]} to {told['episode_steps'][2]} steps, "
        f"{told['terminations']['count']:,} terminations, "
        f"{told['rewards']['count']:,} steps with another reward than the usual "
        f"{told['rewards']['usual']:g}.</p>"
        + (f'<p class="no">Warnings:</p><ul>{warnings}</ul>' if warnings else "")
        + (f"<p>Notes:</p><ul>{notes}</ul>" if notes else "")
    )


def _made(config: FitConfig, plan: Plan, number: int, seconds: Mapping[str, float | None]) -> str:
    folder = round_folder(config.out, number)
    files = {
        "recording": recording_of(config.out, number),
        "world": folder / "world",
        "agent": folder / "agent",
        "film": folder / "film.mp4",
        "figures": config.out / "report.json",
    }
    rows = [
        [name, f"<code>{html.escape(str(path))}</code>"]
        for name, path in files.items()
        if path.exists()
    ]
    times = [[html.escape(name), span(one or 0.0)] for name, one in seconds.items() if one]
    return (
        "<h2>Where everything is</h2>"
        f'<div class="pair"><div>{_table(["", "path"], rows)}</div>'
        f"<div>{_table(['stage', 'time'], times, 1)}</div></div>"
    )
