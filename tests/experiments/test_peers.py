"""The comparison with DIAMOND: our adapter of its environment, without its code, and the judge."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.peers import dreams, judge, overview, settings, together
from worldsim.state import SceneStart

LEVELS = torch.arange(256) / 255 * 2 - 1


def frame(value: int) -> Tensor:
    """A frame (3, 8, 8) of one value, in [-1, 1]."""
    return LEVELS[value].expand(3, 8, 8)


class Counting:
    """Stands in for WorldModelEnv: frames count their episode's steps; action 2 ends it.

    Row i of the k-th reset begins at 100 * k + 10 * i.
    """

    def __init__(self, rows: int, horizon: int) -> None:
        self.rows, self.horizon, self.resets = rows, horizon, 0

    def _begin(self) -> Tensor:
        self.resets += 1
        first = [frame(100 * self.resets % 250 + 10 * i) for i in range(self.rows)]
        return torch.stack(first)[:, None].repeat(1, 4, 1, 1, 1)

    def reset(self) -> tuple[Tensor, dict[str, Any]]:
        self.obs_buffer = self._begin()
        self.act_buffer = torch.zeros(self.rows, 4, dtype=torch.int64)
        self.ep_len = torch.zeros(self.rows, dtype=torch.int64)
        self.hx_rew_end, self.cx_rew_end = torch.zeros(2, 1, self.rows, 5)
        return self.obs_buffer[:, -1], {}

    def step(self, act: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        self.ep_len = self.ep_len + 1
        following = self.obs_buffer[:, -1] + 2 / 255
        self.obs_buffer = torch.cat([self.obs_buffer[:, 1:], following[:, None]], 1)
        self.hx_rew_end = self.hx_rew_end + 1
        end, trunc = (act == 2).long(), (self.ep_len >= self.horizon).long()
        dead = (end + trunc) > 0
        info: dict[str, Any] = {}
        if dead.any():
            info["final_observation"] = following[dead]
            self.obs_buffer[dead] = self._begin()[dead]
            self.ep_len[dead] = 0
            self.hx_rew_end[:, dead] = 0
        return self.obs_buffer[:, -1], torch.ones(self.rows), end, trunc, info


@pytest.fixture
def envs(monkeypatch: pytest.MonkeyPatch) -> dreams.DiamondVectorEnv:
    made = Counting(rows=2, horizon=3)
    monkeypatch.setattr(dreams, "make_env", lambda *args: made)
    start = SceneStart(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1))
    scenes: Any = SimpleNamespace(names=lambda: ["one"], load=lambda name: start)
    agent = SimpleNamespace(device=torch.device("cpu"))
    config: Any = None
    return dreams.DiamondVectorEnv(config, agent, scenes, gym.spaces.Discrete(3), 2, 3)


def test_an_episode_that_ended_begins_in_the_next_step_and_the_others_go_on(
    envs: dreams.DiamondVectorEnv,
) -> None:
    def shown(obs: Tensor) -> list[int]:
        assert obs.shape == (2, 8, 8, 3) and obs.dtype == torch.uint8
        return obs[:, 0, 0, 0].tolist()

    assert shown(envs.reset(seed=0)[0]) == [100, 110]
    steps = [envs.step(torch.tensor(act)) for act in ([2, 0], [2, 0], [0, 0], [0, 0])]
    # The first row ends at once; its action of the step that only resets does nothing.
    assert [shown(step[0]) for step in steps] == [[101, 111], [200, 112], [201, 113], [202, 160]]
    assert [step[1].tolist() for step in steps] == [[1, 1], [0, 1], [1, 1], [1, 0]]
    assert [step[2].tolist() for step in steps] == [[True, False]] + [[False, False]] * 3
    assert [step[3].tolist() for step in steps] == [
        [False, False], [False, False], [False, True], [False, False],
    ]  # fmt: skip
    assert envs._env.ep_len.tolist() == [2, 0]
    assert envs._env.hx_rew_end[0, :, 0].tolist() == [2, 0]


def test_actions_lead_from_frames_and_what_is_missing_is_zero() -> None:
    rgb = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None, None].expand(3, 3, 8, 8)
    obs, act = dreams.past_of(SceneStart(rgb, torch.tensor([0, 4, 5])))
    assert torch.allclose(obs[:, 0, 0, 0], torch.tensor([0.0, -1.0, -0.6, 1.0]))
    assert act.tolist() == [0, 4, 5, 0]
    assert (dreams.to_bytes(LEVELS) == torch.arange(256)).all()


def test_agreement_is_paired_over_all_dreams() -> None:
    real = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    same = judge.agreement(real, {"a": 3 * real + 1, "b": 3 * real + 1, "c": -real}, 200, 0)
    assert same["a"]["pearson"] == pytest.approx(1.0)
    assert same["c"]["pearson"] == pytest.approx(-1.0)
    assert same["a minus b"]["ci95"] == [0.0, 0.0]
    assert same["a minus c"]["ci95"] == pytest.approx([2.0, 2.0])


def test_eighteen_policies_of_few_and_many_actions(tmp_path: Any) -> None:
    for actions in (3, 6):
        specs = judge.policies([tmp_path / "a", tmp_path / "b"], gym.spaces.Discrete(actions))
        assert len({(s.agent, s.chance, s.always) for s in specs}) == judge.POLICIES


def test_ahead_is_counted_by_means_and_by_intervals() -> None:
    def row(agreement: float, total: float, psnr: float, width: float) -> dict[str, Any]:
        values = {"agreement": agreement, "return": total, "psnr": psnr}
        return {
            f"{name}_difference": {"mean": x, "ci95": [x - width, x + width]}
            for name, x in values.items()
        }

    rows = [row(0.2, 3.0, 1.0, 0.1), row(0.2, 3.0, -0.6, 0.5), row(0.2, -1.0, 0.0, 0.1)]
    assert list(overview.verdict(rows).values()) == [3, 2, 1, 1]


def test_a_side_waits_for_the_other_and_a_failure_stops_only_its_own_environment(
    tmp_path: Path,
) -> None:
    checkout = tmp_path / "diamond" / "src"
    checkout.mkdir(parents=True)
    (checkout / "trainer.py").touch()
    configs = [
        settings.PeersConfig(env, checkout.parent, tmp_path / settings.slug(env), meet=tmp_path)
        for env in ("ALE/Pong-v5", "CarRacing-v3")
    ]
    jobs, meetings = together.plan(configs)
    by_name = {str(job): job for job in jobs}

    def finish(*stages: str) -> None:
        for stage in stages:
            for config in configs:
                config.result(stage).parent.mkdir(parents=True, exist_ok=True)
                config.result(stage).touch()

    def can_start() -> set[str]:
        return {
            job.stage
            for job in jobs
            if not job.over and all(x.done for x in job.needs) and all(x.over for x in job.after)
        }

    assert can_start() == {"record"}
    finish("record", "export", "untrained")
    assert can_start() == {"diamond-5", "worldsim-5", "real-others"}
    by_name["Pong-v5 diamond-5"].failed = True
    for config in configs:
        (tmp_path / f"ready-worldsim-5-{settings.slug(config.env)}").touch()
    meetings[0].look()
    assert not (tmp_path / "go-worldsim-5").exists()  # DIAMOND still warms up
    (tmp_path / "ready-diamond-5-CarRacing-v3").touch()
    meetings[1].look()
    assert not (tmp_path / "go-diamond-5").exists()  # worldsim goes first
    meetings[0].look()
    assert (tmp_path / "go-worldsim-5").exists()
    finish("worldsim-5", "real-others")
    meetings[1].look()
    assert (tmp_path / "go-diamond-5").exists()
    assert can_start() == {"diamond-5"}  # nothing else uses the GPU meanwhile
    finish("diamond-5")
    assert can_start() == {"agent-worldsim-5", "agent-diamond-5", "frames-5"}
    finish("agent-worldsim-5", "agent-diamond-5")
    assert {"real-worldsim-5", "dreams-worldsim-5", "dreams-diamond-5"} <= can_start()
    # What failed has no result to go on from.
    together.step([by_name["Pong-v5 diamond-5"], by_name["Pong-v5 frames-5"]], ["false"])
    assert by_name["Pong-v5 frames-5"].failed
    assert together.plan(configs, "trained")[0][-1].stage == "worldsim-5"
