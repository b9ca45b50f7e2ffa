"""What a world keeps of its start scenes: little on a CPU, and the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.helpers.worlds import make_tiny_world
from worldsim.state import SceneStart, bytes_of, flatten
from worldsim.world import World, start_states
from worldsim.world.scene_files import load_scene, scene_names


@pytest.fixture(scope="module")
def scenes(scenes_folder: Path) -> list[SceneStart]:
    return [load_scene(scenes_folder / name) for name in scene_names(scenes_folder)]


def test_kept_states_are_the_same_bits_and_smaller(scenes: list[SceneStart]) -> None:
    world = make_tiny_world()
    first = [world.initial([scene], [1]) for scene in scenes]
    kept = list(world._starts._states.values())
    assert len(kept) == len(scenes) and all(bytes_of(one) < bytes_of(first[0]) for one in kept)
    for before, scene in zip(first, scenes, strict=True):
        again = world.initial([scene], [1])
        for (name, one), other in zip(
            flatten(before).items(), flatten(again).values(), strict=True
        ):
            assert torch.equal(one, other), name


def test_a_process_does_not_grow_with_every_start(
    scenes: list[SceneStart], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a shipped world's dozens of scenes, of which five fit."""
    world = make_tiny_world()
    world.initial(scenes[:1], [0])
    one = bytes_of(next(iter(world._starts._states.values())))
    monkeypatch.setattr(start_states, "STARTS_BYTES", int(3.9 * one))
    fresh = world.with_engine("plain")
    for round_ in range(2):
        for i, scene in enumerate(scenes):
            fresh.initial([dataclasses.replace(scene, name=f"{scene.name} {round_}")], [i])
            held = sum(bytes_of(state) for state in fresh._starts._states.values())
            assert held <= start_states.STARTS_BYTES and held == fresh._starts._bytes
    assert len(fresh._starts) == 3


def test_a_state_too_large_for_all_is_kept_alone(
    tiny_world: World, scenes: list[SceneStart], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_states, "STARTS_BYTES", 1000)
    world = tiny_world.with_engine("plain")
    world.initial(scenes, list(range(len(scenes))))
    assert len(world._starts) == 1
