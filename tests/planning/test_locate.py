"""Where a picture was taken: found again in a furnished room of exactly known geometry, refused
where the memory knows nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.helpers.worlds import make_tiny_world
from worldsim.camera import Camera
from worldsim.envs.tiny_room import textured_room
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.points import PointMemoryConfig
from worldsim.planning.ground import GroundConfig
from worldsim.planning.locate import LocateConfig, candidates, locate
from worldsim.state import WorldState
from worldsim.world import World

CONFIG = LocateConfig(ground=GroundConfig(eye=1.5, reach=8.0))


def cameras(*places: tuple[float, float, float]) -> Camera:
    """Level cameras at x, y, heading, 1.5 m over the room's floor."""
    pose = torch.eye(4).repeat(len(places), 1, 1)
    x, y, heading = torch.tensor(places).T
    pose[:, 0, 0], pose[:, 1, 0], pose[:, 2, 1] = heading.sin(), -heading.cos(), -1.0
    pose[:, 0, 2], pose[:, 1, 2] = heading.cos(), heading.sin()
    pose[:, 1, 1] = pose[:, 2, 2] = 0.0
    pose[:, 0, 3], pose[:, 1, 3], pose[:, 2, 3] = x, y, 1.5
    return Camera(pose, torch.full((len(places), 4), 16.0), 32, 32)


@pytest.fixture(scope="module")
def looked_around() -> tuple[World, WorldState]:
    """A world that has looked around in the room from two places."""
    world = make_tiny_world(memory=PointMemoryConfig(capacity=65536))
    state = world.blank(1)
    turns = [(x, 3.0, k * np.pi / 4) for x in (2.5, 5.2) for k in range(8)]
    memory = state.memory
    for step, place in enumerate(turns):
        camera = cameras(place)
        memory = world.memory.integrate(memory, textured_room(camera), camera, torch.tensor([step]))
    frame = textured_room(cameras(turns[-1]))
    return world, dataclasses.replace(state, memory=memory, frame=frame)


@pytest.mark.parametrize("place", [(3.2, 2.2, 0.6), (4.8, 1.9, 2.4), (2.0, 4.2, -1.2)])
def test_a_picture_from_a_place_not_stood_on_is_found(
    looked_around: tuple[World, WorldState], place: tuple[float, float, float]
) -> None:
    world, state = looked_around
    camera = cameras(place)
    picture = textured_room(camera).rgb[0].permute(1, 2, 0).numpy()
    found = locate(world, state, picture, CONFIG)
    assert float((found[:3, 3] - camera.pose[0, :3, 3]).norm()) < 0.4
    assert float(found[:3, 2] @ camera.pose[0, :3, 2]) > np.cos(np.radians(10))


def test_candidates_are_apart_and_hold_the_place(looked_around: tuple[World, WorldState]) -> None:
    world, state = looked_around
    camera = cameras((3.2, 2.2, 0.6))
    picture = textured_room(camera).rgb[0].permute(1, 2, 0).numpy()
    config = dataclasses.replace(CONFIG, apart=1.0)
    found = candidates(world, state, picture, 3, config)
    assert 1 <= len(found) <= 3 and found.shape[1:] == (4, 4)
    between = torch.cdist(found[:, :2, 3], found[:, :2, 3])
    assert bool((between[~torch.eye(len(found), dtype=torch.bool)] >= 1.0).all())
    assert float((found[:, :3, 3] - camera.pose[0, :3, 3]).norm(dim=1).min()) < 0.5
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert len(candidates(world, state, noise, 3, config)) >= 1
    with pytest.raises(InvalidInputError, match="count = 0"):
        candidates(world, state, picture, 0)


def test_what_the_memory_does_not_know_is_refused(looked_around: tuple[World, WorldState]) -> None:
    world, state = looked_around
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with pytest.raises(InvalidInputError, match="outside of the memory.*has been seen"):
        locate(world, state, noise, CONFIG)
    with pytest.raises(InvalidInputError, match=r"uint8 \(32, 32, 3\)"):
        locate(world, state, noise[:16], CONFIG)
    blind = world.without_memory()
    with pytest.raises(MissingGeometryError, match="point memory"):
        locate(blind, blind.blank(1), noise, CONFIG)
