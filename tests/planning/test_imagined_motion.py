"""Motion imagined without frames: maps as the memory draws them, poses as the world steps them."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.worlds import make_tiny_world
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.splat import map_around
from worldsim.planning.imagined_motion import Relief, imagine_motion
from worldsim.state import SceneStart
from worldsim.world import World


def test_a_cut_out_map_is_the_drawn_one_on_the_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    # Points in the middle of 4 cm cells and at heights that are no border of anything: nothing is
    # rounded across one.
    cell = torch.randint(-60, 60, (2, 500), generator=generator)
    z = torch.randint(-20, 20, (1, 500), generator=generator) * 0.1 + 0.033
    position = torch.cat([cell * 0.04 + 0.02, z])
    relief = Relief(position, torch.zeros(3), 6.0, 0.5)
    pose = torch.eye(4).repeat(3, 1, 1)
    pose[:, :3, 3] = torch.tensor([[0.0, 0.0, 0.0], [0.48, -0.96, 0.3], [-1.6, 0.8, -0.2]])
    expected = map_around(position.expand(3, -1, -1), torch.ones(3, 500, dtype=torch.uint8), pose)
    assert int((expected[:, 0] > 0).sum()) > 50 and torch.equal(relief.around(pose), expected)
    far = torch.eye(4)[None].clone()
    far[0, 0, 3] = 100.0
    assert not relief.around(far).any()


def test_candidates_do_not_depend_on_one_another_and_keep_the_state(
    tiny_world: World, room_scene: SceneStart
) -> None:
    state = tiny_world.initial([room_scene], [0])
    before = state.clone()
    acts = torch.randint(0, 7, (5, 4), generator=torch.Generator().manual_seed(0))
    poses = imagine_motion(tiny_world, state, acts)
    assert poses.shape == (5, 4, 4, 4)
    alone = imagine_motion(tiny_world, state, acts[2:3])
    assert torch.allclose(alone[0], poses[2], atol=1e-3)
    assert torch.equal(before.memory.position, state.memory.position) and torch.equal(
        before.motion, state.motion
    )


def test_without_memory_the_newest_frame_tells(tiny_world: World, room_scene: SceneStart) -> None:
    blind = tiny_world.without_memory()
    state = blind.initial([room_scene], [0])
    acts = torch.tensor([[1], [3]])
    poses = imagine_motion(blind, state, acts)
    stepped, _ = blind.step(state.select(torch.tensor([0, 0])), acts[:, 0])
    assert stepped.frame.pose is not None
    assert torch.allclose(poses[:, 0], stepped.frame.pose, atol=0.02)


def test_bad_input_is_named(tiny_world: World, room_scene: SceneStart) -> None:
    state = tiny_world.initial([room_scene] * 2, [0, 1])
    with pytest.raises(InvalidInputError, match="one state and acts"):
        imagine_motion(tiny_world, state, torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(InvalidInputError, match="one state and acts"):
        imagine_motion(
            tiny_world, state.select(torch.tensor([0])), torch.zeros(3, dtype=torch.int64)
        )
    flat = make_tiny_world(geometry=False)
    with pytest.raises(MissingGeometryError, match="without geometry"):
        imagine_motion(flat, flat.blank(1), torch.zeros(3, 2, dtype=torch.int64))
