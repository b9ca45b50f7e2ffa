"""``worldsim fit``: a run that is interrupted twice, verdicts by hand, and bad environments."""

from __future__ import annotations

import os
import shlex
import signal
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tests.helpers.breaking
import tests.helpers.corridor  # noqa: F401  registers environments, as the one before does
from worldsim.app import cli
from worldsim.app.fit import run
from worldsim.app.fit.charts import _axis, diagonal_chart, line_chart
from worldsim.app.fit.config import FitConfig
from worldsim.app.fit.plan import agreement_config, make_plan, training_minutes
from worldsim.app.fit.probe import Probe, _fit_size
from worldsim.app.fit.run import fit
from worldsim.app.fit.verdict import Figures, Use, judge
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.errors import EngineError, InvalidInputError
from worldsim.runtime.json_config import read_json
from worldsim.training.config import PRESETS
from worldsim.training.trainer import Trainer
from worldsim.world import World
from worldsim.world.config import WorldConfig
from worldsim.world.frame_outcome import FrameOutcomeHead

CONFIG = FitConfig("CartPole-v1", Path("out"), minutes=10.0, workers=2)


def figures(**changes: Any) -> Figures:
    """What a good world of 1,000 test steps with 50 ends was measured at, with changes."""
    evaluation: dict[str, Any] = {
        "changed_psnr": 20.0,
        "changed_copy_psnr": 14.0,
        "changed_gain": 6.0,
        "ci95": {"changed_gain": [5.0, 7.0]},
        "changed_psnr_at": {"1": 20.0, "8": 16.0},
        "changed_first_frame_psnr_at": {"1": 14.0, "8": 12.0},
        "real_steps_mean": 20.0,
        "episodes": 50,
        "real_ending_share": 0.05,
        "ending_log_loss": 0.07,
        "ending_log_loss_of_share": 0.2,
        "reward_f1": None,
        "reward_events": 0,
        "reward_error_continuing": 0.5,
        "reward_error_of_constant": 1.0,
    }
    rows = [
        {"name": "out/round-1/agent", "real_return_mean": 90.0, "real_return_ci95": [70.0, 99.0]},
        {"name": "random", "real_return_mean": 20.0, "real_return_ci95": [15.0, 25.0]},
        {"name": "persistent", "real_return_mean": 69.0, "real_return_ci95": [60.0, 80.0]},
    ]
    agreement = {"pearson": 0.9, "policies": [{**row, "dream_return_mean": 1.0} for row in rows]}
    recording = {
        "action_lag": {"shift": -1, "gains": {"-1": 0.3}},
        "terminations": {"count": 300},
        "warnings": [],
    }
    agreement.update(changes.pop("agreement", {}))
    recording.update(changes.pop("recording", {}))
    return Figures(recording, evaluation | changes, agreement, {}, [])


def failed(found: Figures) -> set[str]:
    return {check.name for check in judge(CONFIG, 1, found).checks if check.passed is False}


def test_a_good_world_is_good_for_everything() -> None:
    verdict = judge(CONFIG, 1, figures())
    assert verdict.headline == ("This world is good enough to look at, to plan in and to learn in.")
    assert verdict.good == {"look at": True, "plan in": True, "learn in": True}
    ends = next(check for check in verdict.checks if check.name == "ends of episodes")
    assert ends.value == "0.35 of the log loss of their frequency, 50 ends"
    assert "learn longer" in verdict.text().lower()


@pytest.mark.parametrize(
    ("changes", "name", "bad"),
    [
        ({"changed_psnr": 14.9}, "next frames", {Use.LOOK, Use.PLAN}),
        ({"ci95": {"changed_gain": [-0.1, 9.0]}}, "next frames", {Use.LOOK, Use.PLAN}),
        ({"changed_psnr_at": {"8": 12.9}}, "dreams of 8 steps", {Use.LOOK, Use.PLAN}),
        ({"ending_log_loss": 0.141}, "ends of episodes", {Use.PLAN}),
        ({"reward_error_continuing": 0.61}, "rewards", {Use.PLAN}),
        ({"reward_f1": 0.69, "reward_events": 9}, "rewards", {Use.PLAN}),
        ({"agreement": {"pearson": 0.84}}, "ranking of policies", {Use.PLAN, Use.LEARN}),
    ],
)
def test_each_limit_decides(changes: dict[str, Any], name: str, bad: set[Use]) -> None:
    """A figure just beyond its limit fails, for the uses that need it and for no other."""
    found = figures(**changes)
    assert failed(found) == {name}
    good = judge(CONFIG, 1, found).good
    assert {use for use in Use if not good[use]} == bad


@pytest.mark.parametrize(
    ("shift", "value"),
    [
        (-1, "visible, one frame late"),
        (0, "visible"),
        (None, "the agent is better than chance; none that a linear model sees"),
    ],
)
def test_an_action_s_lag_in_words(shift: int | None, value: str) -> None:
    found = figures(recording={"action_lag": {"shift": shift, "gains": {"0": 0.3}}})
    named = {check.name: check.value for check in judge(CONFIG, 1, found).checks}
    assert named["effect of actions"] == value


def test_an_agent_has_to_beat_the_better_of_two() -> None:
    found = figures()
    assert found.agreement is not None
    found.agreement["policies"][0]["real_return_ci95"] = [68.0, 99.0]
    assert failed(found) == {"the agent's return"}
    steps = judge(CONFIG, 1, found).steps
    assert any("--rounds 2" in step.command for step in steps)
    found.recording["action_lag"]["shift"] = None
    assert failed(found) == {"the agent's return", "effect of actions"}


def test_what_cannot_be_measured_does_not_fail() -> None:
    """Three ends are too few, constant rewards have nothing to predict, and the verdict says so."""
    verdict = judge(
        CONFIG,
        1,
        figures(real_ending_share=0.003, reward_error_of_constant=0.0, changed_psnr_at={"1": 9.0}),
    )
    names = {check.name for check in verdict.checks if check.passed is None}
    assert names == {"ends of episodes", "rewards", "dreams of 8 steps"}
    assert verdict.good["plan in"] and "Not measured" in verdict.reasons["plan in"]
    blind = Figures(figures().recording, figures().evaluation, None, {}, [])
    assert not judge(CONFIG, 1, blind).good["learn in"]


def test_next_commands_can_be_typed() -> None:
    bad = figures(changed_psnr=1.0, agreement={"pearson": 0.0}, ending_log_loss=1.0)
    config = FitConfig(
        "CartPole-v1", Path("my out"), size=(32, 48), env_kwargs={"x": 1}, frames=7, seed=3
    )
    verdict = judge(config, 1, bad)
    assert verdict.headline.startswith("This world is not good enough yet")
    for step in verdict.steps:
        program, name, *words = shlex.split(step.command)
        assert (program, name) == ("worldsim", "fit")
        again = cli.parse("fit", words)
        assert (again.size, again.env_kwargs, again.seed) == ((32, 48), {"x": 1}, 3)


def test_the_plan_by_hand() -> None:
    """Two processes at 100 steps/s record 24,000 frames in a fifth of ten minutes."""
    found = Probe(render=True, size=(32, 48), steps_per_s=100.0, episode_limit=500)
    plan = make_plan(CONFIG, found, "cpu", 1)
    assert (plan.preset, plan.frames, plan.frames_per_shard) == ("mini", 20_000, 2500)
    assert make_plan(CONFIG, found, "cuda", 2).frames == 24_000
    # 40% are kept for agent and evaluation; without rewards, 20%.
    assert training_minutes(CONFIG, 60.0, True) == pytest.approx(5.0)
    assert training_minutes(CONFIG, 60.0, False) == pytest.approx(7.0)
    assert training_minutes(CONFIG, 600.0, True) == pytest.approx(3.0)
    # A minute; 3 policies of whole episodes, 5 of a fifth: 4 in all, 0.01 + 8 / 200 s a step.
    limits = agreement_config(CONFIG, plan, 1, 0.01, {"episode_steps": [1, 100.0, 500]})
    assert limits.max_steps == 300


def test_sizes_keep_the_shape() -> None:
    assert _fit_size(400, 600, 32) == (32, 48)
    assert _fit_size(210, 160, 32) == (40, 32)
    assert _fit_size(16, 16, 32) == (16, 16)
    assert _fit_size(100, 1000, 32) == (32, 64)
    assert _fit_size(20, 12, 64) == (16, 16)


def test_charts() -> None:
    assert _axis([0.0, 7.0]) == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert _axis([3.0, 3.0]) == [2.5, 2.75, 3.0, 3.25, 3.5] or len(_axis([3.0, 3.0])) > 1
    assert line_chart({"a": [(0.0, 1.0)]}, "x", "y") == ""
    drawn = diagonal_chart({"<b>": (0.0, 1.0), "gone": (np.nan, 0.0)}, "x", "y")
    assert "&lt;b&gt;" in drawn and drawn.count("<circle") == 1


def test_a_run_resumes_after_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the training and in the evaluation: the same command goes on, and nothing that is
    done is done again."""
    config = FitConfig(
        "tests/Corridor-v0",
        tmp_path / "run",
        minutes=0.02,
        frames=300,
        episode_steps=12,
        workers=0,
        env_kwargs={"max_episode_steps": 12},
        json=tmp_path / "found.json",
    )
    trained = Trainer.train_step
    # A background job ignores Ctrl-C, and so would the training.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(self: Trainer) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return trained(self)

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    signal.signal(signal.SIGINT, handler)
    stages = read_json(config.out / "fit.json")["stages"]
    assert stages["record-1"]["done"] and not stages["train-1"]["done"]
    assert (config.out / "round-1" / "checkpoint").is_dir()

    def refuse(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "record", None)
        patch.setattr(run, "evaluate", refuse)
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    with monkeypatch.context() as patch:
        for name in ("record", "train", "probe"):
            patch.setattr(run, name, None)
        found = fit(config)
    stages = read_json(config.out / "fit.json")["stages"]
    assert all(one["done"] for one in stages.values()) and len(stages) == 5
    assert read_json(tmp_path / "found.json") == read_json(config.out / "report.json") == found
    assert found["verdict"]["headline"] in capsys.readouterr().out
    page = (config.out / "report.html").read_text()
    assert found["verdict"]["headline"] in page and "data:image/webp;base64" in page
    assert "http" not in page and "src=" in page and "<script" not in page
    assert found["evaluation"]["protocol"] == "task/1"
    assert len(found["agreement"]["policies"]) >= 8
    with pytest.raises(InvalidInputError, match="other values of seed"):
        fit(FitConfig(**{**vars(config), "seed": 1}))


class Numbers(gym.Env[Any, Any]):
    """Observes numbers, and renders nothing."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (4,))
    action_space = gym.spaces.Discrete(2)


gym.register("tests/Numbers-v0", entry_point=Numbers)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "error", "words"),
    [
        ("tests/Numbers-v0", {}, InvalidInputError, "nor does it render rgb_array"),
        ("breaking/Growing-v0", {}, InvalidInputError, "--size HEIGHT WIDTH"),
        ("breaking/Paying-v0", {"amount": 1e9}, InvalidInputError, "reward of step 4 is 1e[+]09"),
        ("breaking/Paying-v0", {"amount": float("nan")}, InvalidInputError, "is nan"),
        ("breaking/Raising-v0", {}, EngineError, "the joint left its limits"),
    ],
)
def test_bad_environments_are_named(
    env_id: str, kwargs: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with warnings.catch_warnings(), pytest.raises(error, match=words):
        warnings.simplefilter("ignore")
        fit(FitConfig(env_id, tmp_path, frames=300, workers=0, env_kwargs=kwargs))
    assert not (tmp_path / "round-1").exists()


def test_mini_is_small() -> None:
    """A step of one dream of 32x48 pixels, all included, takes at most 0.1 GFLOP."""
    network = SpaceTimeTransformer(
        height=32,
        width=48,
        channels=3,
        view_channels=8,
        last_frames=2,
        actions=2,
        **PRESETS["mini"],
    )
    head = FrameOutcomeHead(height=32, width=48, actions=2)
    config = WorldConfig(env_id="CartPole-v1", has_rewards=True, has_terminations=True, memory=None)
    world = World(network, config, None, head)
    state = world.blank(1)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        world.step(state, torch.zeros(1, dtype=torch.int64))
    assert 1e7 < counted.get_total_flops() < 1e8
