"""The recordings that a world is trained on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from worldsim.training.recordings import frames_to_hold


def recording(frames: int, report: dict[str, int]) -> Any:
    """A recording of two shards."""
    shards = [SimpleNamespace(frames=frames // 2), SimpleNamespace(frames=frames - frames // 2)]
    return SimpleNamespace(info=SimpleNamespace(report=report), shards=shards)


def test_complete_recordings_take_no_more_of_a_gpu_than_they_need() -> None:
    """Reproduces: five trainings on 50,000 frames each did not fit a GPU of 139 GB."""
    done, going_on = recording(301, {"frames": 301}), recording(301, {})
    assert frames_to_hold([done, done], 10_000) == 4 * 301
    assert frames_to_hold([done, done], 1000) == 1000
    assert frames_to_hold([done, going_on], 10_000) == 10_000
