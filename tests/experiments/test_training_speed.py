"""The script that measures how fast training is: it runs on two processes, and tells when it has
too little time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tyro

from experiments.training_speed import Config, main, table
from tests.helpers.launching import run
from tests.helpers.recordings import recording
from worldsim.errors import InvalidInputError

SCRIPT = Path(__file__).parents[2] / "experiments" / "training_speed.py"


def settings(data: Path, out: Path, **changes: str) -> list[str]:
    values = {
        "data": str(data),
        "json": str(out),
        "batch-size": "2",
        "steps": "3",
        "warmup": "1",
        "seconds": "800",
        "mixed-precision": "no",
        "memory-capacity": "1024",
        "peak-tflops": "0.1",
    } | changes
    return [
        "--presets",
        "debug",
        "--quick",
        *(x for name, value in values.items() for x in (f"--{name}", value)),
    ]


@pytest.mark.slow
def test_measures_one_and_two_processes(tmp_path: Path) -> None:
    """The same arithmetic a window, figures that agree with one another, and a table of both."""
    data, results = recording(tmp_path / "rooms"), []
    files = (tmp_path / "one.json", tmp_path / "two.json")
    options = ["--own", "0.5", "--kernels", "5"], ["--checkpointing"]
    for count, (out, more) in enumerate(zip(files, options, strict=True), start=1):
        run(SCRIPT, *settings(data, out), *more, ranks=count)
        (result,) = json.loads(out.read_text())["results"]
        results.append(result)
    one, two = results
    assert (one["processes"], two["processes"], two["checkpointing"], one["parameters"]) == (
        1,
        2,
        True,
        two["parameters"],
    )
    # What is computed twice to save memory is no part of the model's arithmetic.
    assert two["model_flop_per_step"] == 2 * one["model_flop_per_step"] > 1e9
    for r in results:
        seconds = r["ms_per_step"] / 1e3
        assert r["windows_per_s"] == pytest.approx(2 * r["processes"] / seconds)
        assert r["frames_per_s"] == pytest.approx(24 * r["windows_per_s"])
        rate = r["model_flop_per_s_of_a_device"]
        assert rate == pytest.approx(r["model_flop_per_step"] / r["processes"] / seconds)
        assert r["utilisation_of_nominal"] == pytest.approx(rate / 1e11)
        assert r["utilisation_of_measured"] == pytest.approx(
            rate / r["bfloat16_flop_per_s_of_a_device"]
        )
        assert 0.0 < r["data_share"] < 1.0 and r["timed_steps"] == 3 and not r["compile"]
    assert one["dreamed"]["frames"] == 128 and "dreamed" not in two
    times = [kernel["ms"] for kernel in one["kernels"]]
    assert (
        len(times) == 5
        and times == sorted(times, reverse=True)
        and times[-1] > 0
        and "kernels" not in two
    )
    assert 0.0 < sum(kernel["share"] for kernel in one["kernels"]) <= 1.0
    rows = table(files).splitlines()
    assert len(rows) == 4 and rows[2].startswith("| debug | 1 |") and rows[2].endswith("| 1.00 |")
    assert rows[3].endswith(f"| {two['windows_per_s'] / (2 * one['windows_per_s']):.2f} |")


@pytest.mark.slow
def test_too_little_time_is_told(tmp_path: Path) -> None:
    arguments = settings(recording(tmp_path / "rooms"), tmp_path / "out.json", seconds="0.1")
    with pytest.raises(InvalidInputError, match=r"debug: 0.1 s are too few:.*give more --seconds"):
        main(tyro.cli(Config, args=arguments))
    with pytest.raises(InvalidInputError, match="give --data RECORDING to measure"):
        main(Config(presets=("debug",)))
