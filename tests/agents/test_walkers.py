"""Goal walkers and explorers: their contract, their errors, and walks in the real twin of the
shipped world."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import worldsim  # noqa: F401  registers the environments
from tests.helpers.worlds import make_tiny_world
from worldsim.agents.cem import CemConfig
from worldsim.agents.explorer import FrontierConfig, FrontierExplorer
from worldsim.agents.goal_walker import GoalWalker, GoalWalkerConfig, WayGoal
from worldsim.agents.image_goal_walker import ImageGoalConfig, ImageGoalWalker
from worldsim.agents.mppi import MppiConfig
from worldsim.agents.novelty import NoveltyConfig, NoveltyExplorer
from worldsim.agents.sightlines import cast
from worldsim.envs.tiny_room import TinyRoom
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.planning.ground import Ground, GroundConfig
from worldsim.planning.locate import LocateConfig
from worldsim.planning.objectives import Futures
from worldsim.testing import check_policy
from worldsim.world import World
from worldsim.world.tracker import Belief

ICEM = CemConfig(horizon=3, candidates=6, elites=2, iterations=2)
ROOM = GroundConfig(eye=1.3, reach=6.0)
SMALL = GoalWalkerConfig(icem=ICEM, mppi=MppiConfig(horizon=3, candidates=6), ground=ROOM, remap=2)


@pytest.fixture
def belief(tiny_world: World) -> Belief:
    belief = Belief(tiny_world)
    belief.start(*TinyRoom(size=32).reset(seed=0))
    return belief


def test_a_way_goal_counts_the_way_and_where_one_looks() -> None:
    ground = Ground(
        np.zeros((4, 1), np.float32),
        np.ones((4, 1), bool),
        np.zeros((4, 1), bool),
        np.zeros(2),
        GroundConfig(cell=1.0, reach=8.0),
    )
    goal = WayGoal(
        ground, np.array([[3.0], [2.0], [1.0], [0.0]], np.float32), np.array([1.0, 0.0]), look=0.5
    )
    pose = torch.eye(4).repeat(2, 2, 1, 1)
    # The optical axis is the third column: the first future looks along the way, the second the
    # other way.
    pose[:, :, :3, 2] = torch.tensor([1.0, 0.0, 0.0])
    pose[1, :, 0, 2] = -1.0
    pose[:, 0, :2, 3], pose[:, 1, :2, 3] = torch.tensor([1.5, 0.5]), torch.tensor([3.5, 0.5])
    # Last 0, least 0, mean 1; and 0.5 * 2 for looking back.
    assert goal(Futures(pose=pose)).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("planner", ["icem", "mppi"])
def test_goal_walkers_keep_the_contract(planner: Any, belief: Belief) -> None:
    goal = belief.pose.clone()
    goal[0, 3] += 1.0
    config = GoalWalkerConfig(planner=planner, icem=ICEM, mppi=SMALL.mppi, ground=ROOM, remap=2)
    check_policy(
        GoalWalker(belief, goal, config), belief.action_space, [np.zeros((32, 32, 3), np.uint8)] * 4
    )


@pytest.mark.parametrize("kind", ["frontier", "novelty"])
def test_explorers_keep_the_contract(kind: str, belief: Belief) -> None:
    policy: Any = FrontierExplorer(belief, FrontierConfig(ground=ROOM))
    if kind == "novelty":
        policy = NoveltyExplorer(belief, NoveltyConfig(planner=ICEM, pixels=8))
    check_policy(policy, belief.action_space, [np.zeros((32, 32, 3), np.uint8)] * 6)


def test_what_there_is_to_see_counts_less_deep_in_the_unseen() -> None:
    known, obstacle = np.ones((32, 32), bool), np.zeros((32, 32), bool)
    known[20:], obstacle[22] = False, True
    ground = Ground(
        np.zeros((32, 32), np.float32),
        known,
        obstacle,
        np.zeros(2),
        GroundConfig(cell=1.0, reach=16.0),
    )
    gain = cast(ground, np.array([[17, 16]]), fade=4.0)[0]
    # To the east, cells 3 and 4 m away are unseen and then comes a wall; each is as wide as 1/96 of
    # its circle. To the west, none.
    assert gain[0] == pytest.approx((3 * np.exp(-0.25) + 4 * np.exp(-0.5)) * 2 * np.pi / 96)
    assert gain[48] == 0.0


def test_a_frontier_explorer_turns_to_what_it_has_not_seen(belief: Belief) -> None:
    explorer = FrontierExplorer(belief, FrontierConfig(ground=ROOM))
    explorer.reset(0)
    first = [int(explorer.act(None)) for _ in range(4)]
    # It has seen what is ahead alone, and the belief stands still: it turns one way.
    assert set(first) <= {3, 4} and len(set(first)) == 1


def test_novelty_prefers_views_that_are_not_known(belief: Belief) -> None:
    novelty = NoveltyExplorer(belief, NoveltyConfig(planner=ICEM, travel=0.0)).objective
    back = belief.pose * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    cost = novelty(Futures(pose=torch.stack([belief.pose[None], back[None]])))
    assert float(cost[0]) > 0.7 and float(cost[1]) == 0.0


def test_goals_and_worlds_that_cannot_be_walked_are_named(belief: Belief) -> None:
    away = belief.pose.clone()
    away[:3, 3] += 300.0
    with pytest.raises(InvalidInputError, match="outside of the memory"):
        GoalWalker(belief, away, GoalWalkerConfig(least_coverage=0.1))
    with pytest.raises(InvalidInputError, match="planner must be 'icem' or 'mppi'"):
        GoalWalker(belief, away, GoalWalkerConfig(planner="cma"))  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="TinyRoom cannot fork"):
        FrontierExplorer(TinyRoom())
    driver = Belief(make_tiny_world(action_dim=2))
    driver.start(*TinyRoom(size=32, continuous=True).reset(seed=0))
    with pytest.raises(InvalidInputError, match=r"Discrete\(7\) of walking twins, got Box"):
        FrontierExplorer(driver)
    with pytest.raises(InvalidInputError, match="remap and spots at least 1"):
        FrontierConfig(remap=0)
    with pytest.raises(InvalidInputError, match=r"looks \(2.0,\)"):
        NoveltyConfig(looks=(2.0,))
    blind = Belief(belief.world.without_memory())
    blind.start(*TinyRoom(size=32).reset(seed=0))
    for explorer in (FrontierExplorer, NoveltyExplorer):
        with pytest.raises(MissingGeometryError, match="point memory"):
            explorer(blind)
    flat = Belief(make_tiny_world(geometry=False))
    flat.start(TinyRoom(size=32).reset(seed=0)[0], {})
    with pytest.raises(MissingGeometryError, match="knows no poses"):
        GoalWalker(flat, torch.eye(4))


def test_image_goal_walkers_go_on_to_the_next_place(belief: Belief) -> None:
    """Where one has come, or not come for too long, another is gone to; after the last one they are
    searched for again."""
    picture = belief.state.frame.rgb[0].permute(1, 2, 0).cpu().numpy()
    locate = LocateConfig(spacing=0.5, kept=6, rounds=1, draws=2, ground=ROOM, least_coverage=0.0)
    config = ImageGoalConfig(SMALL, locate, places=3, give_up=2)
    walker = ImageGoalWalker(belief, picture, config)
    check_policy(walker, belief.action_space, [picture] * 3)
    walker.reset(0)
    here, places = belief.pose[:2, 3], [x.clone() for x in walker.found]
    assert 1 <= len(places) <= 3
    # It stands where the picture was taken: the likeliest place is done with at once, the others
    # after two steps each.
    assert float((walker.goal[:2, 3] - here).norm()) < config.arrived
    goals = []
    for _ in range(2 * len(places) + 1):
        walker.act(picture)
        goals.append(walker.goal)
    for i, place in enumerate(places[1:]):
        assert torch.equal(goals[2 * i], place) and torch.equal(goals[2 * i + 1], place)
    with pytest.raises(InvalidInputError, match="the picture must be uint8"):
        ImageGoalWalker(belief, picture[:8])


@pytest.mark.slow
def test_walks_to_a_goal_in_the_real_twin() -> None:
    """Freedoom, map 30: eight metres ahead of where a walk began, around what is in the way."""
    pytest.importorskip("vizdoom")
    belief = Belief(World.from_pretrained("freedoom-tiny", "cpu"))
    env = gym.make("worldsim/FreedoomReal-v0")
    obs, info = env.reset(seed=3, options={"map": "MAP30"})
    # Reached from here by walking, so that it can be reached.
    for act in [1] * 6:
        _, _, _, _, there = env.step(act)
    goal = torch.from_numpy(there["pose"])
    obs, info = env.reset(seed=3, options={"map": "MAP30"})
    assert np.linalg.norm(info["pose"][:3, 3] - goal[:3, 3].numpy()) > 3.0
    belief.start(obs, info)
    walker = GoalWalker(belief, goal)
    walker.reset(0)
    for _ in range(20):
        act = walker.act(obs)
        obs, _, _, _, info = env.step(act)
        belief.see(act, obs, info)
        if walker.arrived:
            break
    env.close()
    # Reproduces: planners did not say that they had arrived.
    assert (
        walker.arrived
        and np.linalg.norm(info["pose"][:2, 3] - goal[:2, 3].numpy()) <= walker.config.within
    )
    # Reproduces: a belief showed no map.
    seen = belief.memory.top_down()
    assert seen.mask.mean() > 0.02 and np.isfinite(seen.height[seen.mask]).all()


@pytest.mark.slow
def test_the_frontier_explorer_leaves_where_it_began() -> None:
    """Freedoom, map 2: a walk in the real twin gets somewhere, where a map that misleads keeps it
    turning on the spot."""
    pytest.importorskip("vizdoom")
    belief = Belief(World.from_pretrained("freedoom-tiny", "cpu"))
    env = gym.make("worldsim/FreedoomReal-v0")
    obs, info = env.reset(seed=100, options={"map": "MAP02"})
    belief.start(obs, info)
    explorer, start, furthest = FrontierExplorer(belief), info["pose"][:3, 3], 0.0
    explorer.reset(0)
    for _ in range(60):
        act = explorer.act(obs)
        obs, _, _, _, info = env.step(act)
        belief.see(act, obs, info)
        furthest = max(furthest, float(np.linalg.norm(info["pose"][:3, 3] - start)))
    env.close()
    assert furthest > 5.0
