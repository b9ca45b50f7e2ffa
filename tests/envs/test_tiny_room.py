"""The toy environment: hand-computed depth, pose and collisions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import worldsim  # noqa: F401 - registers the environment
from worldsim.envs.tiny_room import BODY_RADIUS, EYE_HEIGHT, FORWARD_METRES, TURN_RADIANS, TinyRoom
from worldsim.errors import InvalidInputError, NotFoundError

pytestmark = pytest.mark.fast


def placed(x: float, y: float, yaw: float, **kwargs: object) -> TinyRoom:
    """A 3x3-pixel view of room 0, emptied of its pillar, from a chosen place."""
    env = TinyRoom(size=3, **kwargs)  # type: ignore[arg-type]
    env.reset(seed=0, options={"map": "room-0"})
    env._extent = np.array([8.0, 10.0, 3.0])
    env._pillar = np.array([1.0, 9.0])
    env._position, env._yaw = np.array([x, y]), yaw
    return env


@pytest.mark.parametrize("kwargs", [{}, {"continuous": True, "goal": True}, {"size": (24, 32)}])
def test_follows_the_gymnasium_contract(kwargs: dict[str, object]) -> None:
    env = gym.make("worldsim/TinyRoom-v0", render_mode="rgb_array", **kwargs)
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=1)
    assert env.render().shape == env.observation_space.shape


def test_depth_and_pose_are_exact() -> None:
    env = placed(2.0, 5.0, 0.0)
    _, _, _, _, info = env.step(0)
    # Facing east from x = 2 in a room 8 m long: the east wall is 6 m ahead along the axis for every
    # ray that reaches it. Pixel columns look to the left and right by 2/3 of the depth: 4 m at 6 m,
    # inside y in [0, 10]. Rows look up and down by 2/3 as well: the ceiling (1.7 m over the eye) is
    # met at 2.55 m, the floor (1.3 m under it) at 1.95 m.
    np.testing.assert_allclose(info["depth"][1], [6, 6, 6], rtol=1e-6)
    np.testing.assert_allclose(info["depth"][0], 2.55, rtol=1e-6)
    np.testing.assert_allclose(info["depth"][2], 1.95, rtol=1e-6)
    expected = [[0, 0, 1, 2], [-1, 0, 0, 5], [0, -1, 0, EYE_HEIGHT], [0, 0, 0, 1]]
    np.testing.assert_allclose(info["pose"], expected, atol=1e-7)
    np.testing.assert_allclose(info["intrinsics"], [1.5, 1.5, 1.5, 1.5])


def test_the_pillar_hides_the_wall() -> None:
    env = placed(2.0, 5.0, 0.0)
    env._pillar = np.array([5.0, 5.0])
    _, _, _, _, info = env.step(0)
    # Its west side is at x = 4.5, and it spans y from 4.5 to 5.5; the outer columns pass it.
    np.testing.assert_allclose(info["depth"][1], [6, 2.5, 6], rtol=1e-6)


@pytest.mark.parametrize(
    ("action", "moved"),
    [(0, (0, 0)), (1, (0, 1)), (2, (0, -1)), (3, (0, 0)), (4, (0, 0)), (5, (-1, 0)), (6, (1, 0))],
)
def test_actions_move_as_named(action: int, moved: tuple[float, float]) -> None:
    env = placed(4.0, 5.0, np.pi / 2)
    env.step(action)
    np.testing.assert_allclose(
        env._position - [4.0, 5.0], FORWARD_METRES * np.array(moved), atol=1e-12
    )
    turned = {3: TURN_RADIANS, 4: -TURN_RADIANS}.get(action, 0.0)
    assert env._yaw == pytest.approx(np.pi / 2 + turned)


def test_walls_stop_and_slide() -> None:
    env = placed(7.5, 5.0, np.pi / 4)
    env.step(1)
    np.testing.assert_allclose(
        env._position, [8.0 - BODY_RADIUS, 5.0 + FORWARD_METRES * np.sqrt(0.5)]
    )


def test_continuous_actions_and_goal() -> None:
    env = placed(5.0, 9.0, 0.0, continuous=True, goal=True)
    env._pillar = np.array([7.0, 9.0])
    _, rew, term, _, _ = env.step(np.array([0.5, 0.0], np.float32))
    assert (rew, term) == (0.0, False)
    np.testing.assert_allclose(env._position, [5.15, 9.0])
    for _ in range(4):
        _, rew, term, _, _ = env.step(np.array([1.0, 0.0], np.float32))
    # The pillar's west side is at 6.5: the body stops 0.4 m before it.
    assert (rew, term) == (1.0, True)
    np.testing.assert_allclose(env._position, [6.1, 9.0])


def test_splits_and_maps() -> None:
    env = TinyRoom(size=4, rooms=8)
    train = {env.reset(seed=i, options={"split": "train"})[1]["map"] for i in range(60)}
    test = {env.reset(seed=i, options={"split": "test"})[1]["map"] for i in range(60)}
    assert train == {f"room-{i}" for i in range(6)}
    assert test == {"room-6", "room-7"}
    with pytest.raises(NotFoundError, match="'room-9'.*room-7"):
        env.reset(options={"map": "room-9"})
    with pytest.raises(NotFoundError, match="'dev'"):
        env.reset(options={"split": "dev"})
    with pytest.raises(InvalidInputError, match="colour"):
        env.reset(options={"colour": "red"})


def test_same_seed_same_episode() -> None:
    a, b = TinyRoom(size=8), TinyRoom(size=8)
    a.reset(seed=7)
    b.reset(seed=3)
    b.step(1)
    frames = [(e.reset(seed=5)[0], e.step(1)[0]) for e in (a, b)]
    np.testing.assert_array_equal(frames[0], frames[1])


def test_bad_arguments() -> None:
    with pytest.raises(InvalidInputError, match="size"):
        TinyRoom(size=0)
    with pytest.raises(InvalidInputError, match="rooms"):
        TinyRoom(rooms=0)
    env = TinyRoom(size=4)
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match="7"):
        env.step(7)
