"""Write the tables of README.md and pages in docs/ from measured files.

``python experiments/tables.py``; ``--check`` fails if a table is not what the files say.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. Its figures come from the
cards of shipped worlds and agents and from JSON files in experiments/. Measured figures without a
file are in experiments/quoted.json, with where they come from.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/benchmarks.md",
    "docs/experiments/painter.md",
    "docs/experiments/adapters.md",
    "docs/how_to/pretrained.md",
)
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Rows = list[list[str]]
Results = dict[str, Any]


def load(path: str) -> Any:
    return json.loads((ROOT / path).read_text())


def experiment(path: str) -> Any:
    return load(f"experiments/{path}")


def card(world: str) -> Results:
    return load(f"worldsim/worlds/{world}/world.json")["card"]["results"]


def agent(name: str) -> Results:
    return load(f"worldsim/agents_shipped/{name}/agent.json")["results"]


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def figure(results: Results, key: str, digits: int = 2, times: float = 1, unit: str = "") -> str:
    """A figure and its interval: ``psnr_at.8`` is that of entry ``8`` in ``psnr_at``."""
    value, interval = results, results["ci95"].get(key)
    for part in key.split("."):
        value = value[part]
    text = number(value * times, digits) + unit
    if interval is None:
        return text
    return f"{text} [{', '.join(number(x * times, digits) + unit for x in interval)}]"


def mean(results: Results, key: str) -> str:
    """The mean of an agent's episodes and its interval."""
    low, high = results[f"{key}_ci95"]
    return f"{number(results[f'{key}_mean'], 0)} [{number(low, 0)}, {number(high, 0)}]"


def bench(path: str, batch: int = 1) -> float:
    """Steps per second of all environments of a batch."""
    (found,) = (r for r in experiment(path)["results"] if r["batch"] == batch)
    return found["steps_per_s"]


def speed(path: str) -> tuple[int, str, dict[str, float], float]:
    """Batch, DIAMOND's setting, steps per second of both, and how many times as fast ours is."""
    report = experiment(path)["results"][-1]
    batch = report["batch"]
    rates = {who: 1000 * batch / ms for who, ms in report["ms_per_step"].items()}
    return batch, report["their_setting"], rates, 1 / report["ratio"]


class Compared(NamedTuple):
    """Steps per second of ours and of DIAMOND's denoiser on one machine."""

    machine: str
    setting: str
    """DIAMOND's fastest setting there."""
    ours: float
    theirs: float
    times: float


def speed_cpu() -> list[Compared]:
    """Return the comparisons on two cores.

    Those of experiments/speed.py on CPUs without and with matrix units for bfloat16, and a quoted
    one.
    """
    found = []
    for machine, file in (("AVX2", "speed_cpu_compiled"), ("AMX", "speed_cpu_amx")):
        _, setting, rates, times = speed(f"freedoom_tiny/{file}.json")
        found.append(Compared(machine, setting, rates["ours"], rates["theirs"], times))
    quoted = experiment("quoted.json")["diamond_cpu_bfloat16"]
    ours, theirs = (quoted[f"{who}_steps_per_s"] for who in ("ours", "theirs"))
    return [*found, Compared("bfloat16", quoted["their_setting"], ours, theirs, ours / theirs)]


def summary() -> Rows:
    tiny, quoted = card("freedoom-tiny"), experiment("quoted.json")
    trips, tics = experiment("freedoom_tiny/return_trips.json"), agent("takecover")
    here, quick, _ = speed_cpu()
    batch, _, gpu, gpu_times = speed("freedoom_tiny/speed_h100.json")
    explored = quoted["explored_frontier"]
    low, high = explored["ratio_ci95"]
    return [
        ["measure", "worldsim", "baselines"],
        [
            "next frame, PSNR in dB",
            figure(tiny, "next_frame_psnr"),
            f"last frame {figure(tiny, 'copy_last_psnr')}; "
            f"last frame warped {figure(tiny, 'warp_last_psnr')}",
        ],
        [
            "seen places, up to 48 dreamed steps, dB",
            figure(tiny, "seen_psnr"),
            f"memory off {figure(tiny, 'seen_psnr_no_memory')}; "
            f"splatted history {figure(tiny, 'seen_splat_psnr')}",
        ],
        [
            "dreamed frame 48, dB",
            figure(tiny, "psnr_at.48"),
            f"memory off {figure(tiny, 'psnr_at_no_memory.48')}",
        ],
        [
            "way back after 125 steps, dB",
            figure(trips, "return_real_psnr.125"),
            f"memory off {figure(trips, 'return_real_psnr_no_memory.125')}; "
            f"nearest past frame {figure(trips, 'return_real_psnr_retrieval.125')}",
        ],
        [
            "dreams nearest to the true frame of their own action, of 7",
            figure(tiny, "action_accuracy", 0, 100, "%"),
            "chance: 1 in 7",
        ],
        [
            "CarRacing, return in the real twin, learned in dreams alone",
            mean(agent("carracing"), "real_return"),
            f"random {number(quoted['carracing_random']['value'], 0)}",
        ],
        [
            "TakeCover, return in the real twin (1 per tic), learned in dreams alone",
            mean(tics, "real_return"),
            f"random {quoted['takecover_random']['value']}",
        ],
        [
            "area seen in 500 steps, frontiers of the memory, m²",
            f"{number(explored['value'], 0)}, {explored['ratio']} times [{low}, {high}]",
            f"forward-biased walks {number(quoted['explored_persistent']['value'], 0)}",
        ],
        [
            "steps per second, two cores of an AVX2 CPU; of an AMX one",
            f"{number(here.ours, 0)}; {number(quick.ours, 0)}",
            f"DIAMOND's denoiser {number(here.theirs, 0)}: {number(here.times, 1)} times; "
            f"{number(quick.theirs, 0)}: {number(quick.times, 1)} times",
        ],
        [
            f"steps per second, {batch} environments, H100",
            number(gpu["ours"], 0),
            f"DIAMOND's denoiser {number(gpu['theirs'], 0)}: {number(gpu_times, 1)} times",
        ],
    ]


WALKS = (
    ("next frame from true history", "next_frame_psnr", ("last frame", "copy_last_psnr")),
    ("- the same frames", None, ("last frame warped", "warp_last_psnr")),
    ("- above the last frame", "gaps.next_minus_copy", None),
    ("- above the warped last frame", "gaps.next_minus_warp", None),
    ("seen places, dreamed", "seen_psnr", ("nearest history frame", "seen_nearest_psnr")),
    ("- the same frames", None, ("splat of the history", "seen_splat_psnr")),
    ("- above the better of the two", "gaps.seen_minus_best_baseline", None),
    ("- same weights, memory off", "seen_psnr_no_memory", ("last frame", "seen_copy_last_psnr")),
    ("- what the memory brings", "gaps.seen_minus_no_memory", None),
    ("unseen places, dreamed", "unseen_psnr", None),
    *(
        (
            f"dreamed frame {t}, poses given",
            f"psnr_at.{t}",
            ("memory off", f"psnr_at_no_memory.{t}"),
        )
        for t in (1, 8, 24, 48)
    ),
    *((f"dreamed frame {t}, own poses", f"free_running_psnr_at.{t}", None) for t in (1, 8, 24, 48)),
    ("action gap", "action_gap_psnr", None),
)
"""Name, key, and name and key of a baseline on the same frames; all in dB."""

HEADS = (
    ("position error after 48 steps, % of the path, median", "position_error_pct"),
    ("- 90th percentile", "position_error_pct_p90"),
    ("- median of all long walks", "position_error_pct_all"),
    ("- their 90th percentile", "position_error_pct_all_p90"),
    ("heading error after 48 steps, degrees, median", "heading_error_deg"),
    ("- median of all long walks", "heading_error_deg_all"),
)


def walks(results: Results, reduced: Results | None = None) -> Rows:
    """The protocol of walks, every figure; reduced: the same of frames of 64x64 pixels."""
    table = [["measure", "world", "baseline on the same frames"]]
    columns = [results] if reduced is None else [results, reduced]
    for name, key, baseline in WALKS:
        cells = [" / ".join(figure(r, key) for r in columns) if key else ""]
        cells += [
            f"{baseline[0]} {' / '.join(figure(r, baseline[1]) for r in columns)}"
            if baseline
            else ""
        ]
        table.append([name, *cells])
    accuracy = figure(results, "action_accuracy", 0, 100, "%")
    table.append(
        [f"action accuracy, {results['action_dreams']} dreams", accuracy, "chance: 1 in 7"]
    )
    return table + [[name, figure(results, key), ""] for name, key in HEADS]


TRIPS = (
    ("true return", "return_real_psnr"),
    ("- memory off", "return_real_psnr_no_memory"),
    ("- nearest past frame instead", "return_real_psnr_retrieval"),
    ("- above memory off", "return_real_gain_over_no_memory"),
    ("- above nearest past frame", "return_real_gain_over_retrieval"),
    ("dream return", "return_psnr"),
    ("- memory off", "return_psnr_no_memory"),
    ("sharpness, dream over twin", "sharpness_ratio"),
    ("novelty, dream over twin", "novelty"),
)


def trips(results: Results) -> Rows:
    lengths = list(results["return_real_psnr"])
    return [["steps out and back", *lengths]] + [
        [name, *(figure(results, f"{key}.{n}") for n in lengths)] for name, key in TRIPS
    ]


SPANS = ("1-12", "13-24", "25-36", "37-48", "49-96")
DREAMS = (
    ("sharpness, dream over twin", "sharpness"),
    ("- on pixels that the memory knew", "sharpness_known"),
    ("- on pixels that it did not know", "sharpness_unknown"),
    ("- of the mean of a frame and its warped predecessor", "sharpness_steady"),
    ("temporal warping error, dream over twin", "warping_error"),
    ("PSNR, dB", "psnr"),
)


def dreams() -> Rows:
    """The protocol ``dreams`` of freedoom-tiny, by spans of dreamed frames, and its distances."""
    results = experiment("freedoom_tiny/dreams.json")
    table = [["dreamed frames", *SPANS]] + [
        [name, *(figure(results, f"{key}.{span}") for span in SPANS)] for name, key in DREAMS
    ]
    for name, key in (("FD of frames 25-48; 49-96", "fd"), ("- of real walks", "fd_real")):
        first, second = (figure(results, f"{key}.{span}", 0) for span in ("25-48", "49-96"))
        table.append([name, "-", "-", first, "-", second])
    return table


def agents() -> Rows:
    quoted, tics = experiment("quoted.json"), agent("takecover")
    agreement = experiment("takecover/agreement.json")
    health, ppo = quoted["healthgathering_dream"], quoted["healthgathering_ppo"]
    explored, goals = quoted["explored_frontier"], quoted["image_goals"]
    low, high = agreement["ci95"]
    return [
        ["measured in the real twin", "baseline", "worldsim"],
        [
            "CarRacing-v3, return of 100 episodes: learned in dreams alone "
            "(`worldsim watch carracing --out drive.mp4`)",
            f"random {number(quoted['carracing_random']['value'], 0)}",
            mean(agent("carracing"), "real_return"),
        ],
        [
            "ViZDoom TakeCover, return of 100 episodes (1 per tic survived, at most 2,100): "
            "learned in dreams alone "
            "(`worldsim watch takecover --out dodge.mp4`)",
            f"random {quoted['takecover_random']['value']}; 750 counts as solved",
            mean(tics, "real_return"),
        ],
        [
            "agreement of returns in dreams of TakeCover with those in the real twin: Pearson's r "
            f"over {len(agreement['policies'])} policies (`worldsim agreement`)",
            "",
            f"{agreement['pearson']:.3f} [{low:.3f}, {high:.3f}]",
        ],
        [
            "ViZDoom HealthGathering, return of 100 episodes: learned in dreams of a world that "
            "saw 105,000 real frames",
            f"random {number(quoted['healthgathering_random']['value'], 0)}; "
            f"PPO on 100,000 real frames {number(ppo['value'], 0)}",
            f"{number(health['value'], 0)} (standard error {number(health['standard_error'], 0)})",
        ],
        [
            "area of Freedoom's test maps seen in 500 steps, m²: frontiers of the memory",
            f"forward-biased walks {number(quoted['explored_persistent']['value'], 0)}",
            f"{number(explored['value'], 0)}, {explored['ratio']} times {explored['ratio_ci95']}",
        ],
        [
            f"walks to a place known by its picture, {goals['tasks']} on test maps: planned in the "
            "dream (iCEM or MPPI)",
            f"the same walker told the place, with the game's own map {goals['with_game_map']}",
            f"{goals['reached']}",
        ],
    ]


def speeds() -> Rows:
    batch, gpu_setting, gpu, gpu_times = speed("freedoom_tiny/speed_h100.json")
    plain, compiled = (bench(f"freedoom_tiny/bench_cpu{name}.json") for name in ("", "_compiled"))
    small = bench("freedoom_small/bench_cpu_compiled.json")
    return [
        ["", "steps per second"],
        [
            "one environment, two CPU cores",
            f'{plain:.0f}; `engine="compiled"` {compiled:.0f} (`freedoom-small`: {small:.0f})',
        ],
        *(
            [
                f"the same beside DIAMOND's denoiser ({one.setting}), which draws frames alone; "
                f"CPU with {one.machine}",
                f"{one.ours:.1f} against {one.theirs:.1f}: {one.times:.1f} times",
            ]
            for one in speed_cpu()
        ),
        *(
            [f"{n} environment{'s' if n > 1 else ''}, one H200, `compiled`", number(rate, 0)]
            for n in (1, 32, 256)
            for rate in [bench("freedoom_tiny/bench_h200.json", n)]
        ),
        [
            f"{batch} environments, one H100, beside DIAMOND's denoiser ({gpu_setting})",
            f"{number(gpu['ours'], 0)} against {number(gpu['theirs'], 0)}: {gpu_times:.2f} times",
        ],
    ]


def small() -> Rows:
    results = card("freedoom-small")
    return walks(results, results["at_64x64"])


PAINTER = (
    ("new places, FD", "", "new.fd", 1, "real train places {new.floor_fd:.1f}"),
    ("- in floors, FD over that of real train places", "≤ 1.5", "new.floors", 2, ""),
    ("- pairs of neighbouring headings, in floors", "≤ 1.5", "new.floors_pairs", 2, ""),
    (
        "- over `cv2.inpaint` of the splat",
        "≤ 1/3",
        "new.over_inpaint",
        3,
        "its FD {new.inpaint_fd:.0f}",
    ),
    (
        "- over `freedoom-tiny` (third network) turning round",
        "≤ 1/3",
        "new.over_world",
        3,
        "its FD {new.world_fd:.0f}",
    ),
    ("- KD", "", "new.kd", 0, "real train places {new.floor_kd:,.0f}"),
    (
        "- neighbouring headings agree, dB",
        "≥ 24",
        "new.overlap_psnr",
        1,
        "real {new.real_overlap_psnr:.1f}",
    ),
    ("- sharpness over real", "≥ 0.85", "new.sharpness_ratio", 3, ""),
    (
        "completion of a memory, FD",
        "",
        "completion.fd",
        1,
        "`cv2.inpaint` {completion.inpaint_fd:.0f}",
    ),
    ("- PSNR, dB", "", "completion.psnr", 1, "`cv2.inpaint` {completion.inpaint_psnr:.1f}"),
    (
        "- sharpness over real",
        "",
        "completion.sharpness_ratio",
        2,
        "`cv2.inpaint` {completion.inpaint_sharpness_ratio:.2f}",
    ),
    (
        "memorisation: distance to the nearest train frame, over that of real views",
        "≥ 0.9",
        "memorisation.ratio",
        2,
        "{memorisation.train_frames:,} train frames",
    ),
    (
        "five views painted jointly: gain in agreement, dB",
        "≥ 3",
        "joint.overlap_gain",
        1,
        "one by one {joint.single_overlap_psnr:.1f}",
    ),
    ("- gain in PSNR, dB", "≥ 0", "joint.psnr_gain", 2, "one by one {joint.single_psnr:.1f}"),
    ("- gain in sharpness", "≥ 0", "joint.sharpness_gain", 3, ""),
    (
        "depth of one picture, AbsRel",
        "",
        "depth.abs_rel",
        2,
        "median map {depth.abs_rel_median_map:.2f}",
    ),
    ("- over the better guess", "≤ 0.5", "depth.ratio", 2, ""),
)
"""Name, requirement, key, digits, and what stands beside it."""


class Group(dict[str, Any]):
    """A group of figures, whose entries a format string reads as attributes."""

    __getattr__ = dict.__getitem__


def painter() -> Rows:
    """The protocol of painters, and words and time, which are measured by themselves."""
    results = experiment("painter/evaluation.json")
    words = experiment("painter/words_best.json")
    groups = {key: Group(x) for key, x in results.items() if isinstance(x, dict)}
    rows = [["measure", "required", "painter", "beside"]]
    for name, required, key, digits, beside in PAINTER:
        group, entry = key.split(".")
        if entry not in results.get(group, {}):
            continue  # A part that was not measured.
        rows.append([name, required, figure(results, key, digits), beside.format(**groups)])
    default, real = words["12 steps"], words["real"]["accuracy"]
    low, high = default["ratio_interval"]
    rows.append(
        [
            "words: a probe's accuracy, over that on real places",
            "≥ 0.95",
            f"{default['ratio']:.2f} [{low:.2f}, {high:.2f}]",
            f"real {real:.2f}",
        ]
    )
    for where, file, most in (
        ("H200", "evaluation_time", "≤ 0.3"),
        ("two cores beside other jobs", "evaluation_cpu", "≤ 30"),
    ):
        seconds = experiment(f"painter/{file}.json")["time"]["seconds_per_place"]
        rows.append([f"seconds per new place of 8 headings, {where}", most, f"{seconds:.2f}", ""])
    return rows


def pretrained() -> Rows:
    """Return the generated frames per emitted frame of pretrained dynamics, by chunk length."""
    rows = experiment("pretrained.json")["generated_per_emitted"]
    columns = {
        "persistent-v1": "actions held for 2 to 9 steps",
        "changing": "another action at every step",
        "freedoom": "actions held, camera of Freedoom",
    }
    return [
        ["frames per chunk", *columns.values()],
        *([frames, *(number(row[x], 2) for x in columns)] for frames, row in rows.items()),
    ]


def pretrained_overhead() -> Rows:
    """Return what a step of pretrained dynamics costs by itself, by frame size."""
    rows = experiment("pretrained.json")["overhead"]
    return [
        ["frame", "a step", "of it, aligning the depth"],
        *(
            [size, number(x["step_ms"], 1), number(x["alignment_ms"], 1)]
            for size, x in rows.items()
        ),
    ]


def adapters() -> Rows:
    """Return the PSNR of adapted worlds, means over seeds, and the share of all weights' gain."""
    twin = experiment("adapters.json")["takecover"]
    results, figures = twin["results"], ("next_frame_psnr", "dream_psnr_16")
    arms: dict[str, list[dict[str, float]]] = {}
    for name, row in results.items():
        arms.setdefault(name.partition(", seed")[0], []).append(row)
    mean = {
        arm: [sum(row[key] for row in rows) / len(rows) for key in figures]
        for arm, rows in arms.items()
    }
    whole = [x - y for x, y in zip(mean["all weights, 50 clips"], mean["base"], strict=True)]
    table = [["trained", "next frame, dB", "share", "after 16 steps of a dream, dB", "share"]]
    for arm, values in mean.items():
        row = ["nothing" if arm == "base" else arm]
        for value, first, gain in zip(values, mean["base"], whole, strict=True):
            row += [number(value, 2), "" if arm == "base" else number((value - first) / gain, 2)]
        table.append(row)
    return table


def adapter_gradients() -> Rows:
    """Return by group of layers where the loss of a changed twin falls fastest."""
    groups = experiment("adapters.json")["takecover"]["gradients"]
    parameters = sum(row["parameters"] for row in groups.values())
    head = ["layers", "of the parameters", "of the squared gradient"]
    return [
        [*head, "of it at rank 4", "at rank 16"],
        *(
            [
                group,
                f"{row['parameters'] / parameters:.1%}",
                f"{row['share']:.1%}",
                f"{row['rank_4']:.0%}",
                f"{row['rank_16']:.0%}",
            ]
            for group, row in groups.items()
        ),
    ]


TABLES: dict[str, Callable[[], Rows]] = {
    "adapters": adapters,
    "adapter_gradients": adapter_gradients,
    "pretrained": pretrained,
    "pretrained_overhead": pretrained_overhead,
    "summary": summary,
    "tiny": lambda: walks(card("freedoom-tiny")),
    "tiny_seed1": lambda: walks(experiment("freedoom_tiny/evaluation_third_seed1.json")),
    "small": small,
    "tiny_dreams": dreams,
    "tiny_trips": lambda: trips(experiment("freedoom_tiny/return_trips.json")),
    "small_trips": lambda: trips(experiment("freedoom_small/return_trips.json")),
    "agents": agents,
    "painter": painter,
    "speed": speeds,
}


def markdown(rows: Rows) -> str:
    lines = [" | ".join(row) for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]]
    return "".join(f"| {line} |\n".replace("|  |", "| |") for line in lines)


def rewrite(text: str) -> str:
    """A page with its tables anew."""
    return MARKED.sub(lambda m: f"{m[1]}\n{markdown(TABLES[m[2]]())}\n{m[3]}", text)


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["--check"]):
        raise SystemExit(__doc__)
    for page in (ROOT / name for name in PAGES):
        text = page.read_text()
        if rewrite(text) == text:
            continue
        if arguments:
            raise SystemExit(f"{page} has tables that its files do not: run {Path(__file__).name}")
        page.write_text(rewrite(text))


if __name__ == "__main__":
    main(sys.argv[1:])
