"""Runs the stages of ``worldsim fit``, each by the function of another command."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path

import torch

from worldsim.app.compare import CompareConfig, Lesson, measure, play_twin
from worldsim.app.dreaming import dream_on
from worldsim.app.fit.config import FitConfig
from worldsim.app.fit.page import write_page
from worldsim.app.fit.plan import (
    EPISODES,
    SEED_APART,
    SIDES,
    Plan,
    agent_options,
    agreement_config,
    evaluate_config,
    make_plan,
    record_config,
    recording_of,
    round_folder,
    train_config,
    training_minutes,
)
from worldsim.app.fit.probe import probe
from worldsim.app.fit.progress_file import ProgressFile
from worldsim.app.fit.verdict import Figures, judge
from worldsim.app.step_pictures import as_picture
from worldsim.app.watch import WatchConfig, watch
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.record import record
from worldsim.errors import UntrustedFileError
from worldsim.evaluation.agreement import agreement
from worldsim.evaluation.evaluate import evaluate
from worldsim.io.pictures import contact_sheet, save_picture
from worldsim.runtime.json_config import read_json, to_json, write_json
from worldsim.runtime.progress import say, span
from worldsim.runtime.types import Array, JsonObject
from worldsim.state import Transition
from worldsim.training.train import TrainConfig, train
from worldsim.world import World
from worldsim.world.image_env import qualify

__all__ = ["FitConfig", "fit"]

PAGE, RESULTS = "report.html", "report.json"
AGENT_MODULE = "worldsim.agents.actor_critic"
"""What learns in the dream, as its command ``python -m`` names it."""
FILM_STEPS, STRIP_STEPS = 200, 48
LOOKED_AT = (0, 1, 2, 4, 8, 16, 32, 48)
"""Steps that the strip of pictures shows."""
FILM_PIXELS = 144
"""Height of the film's pictures, about."""


def fit(config: FitConfig) -> JsonObject:
    """Record, train, learn, evaluate and report, or resume; returns verdict and figures.

    Under ``torchrun`` or ``accelerate launch``, all processes train, and the first one does the
    rest.

    Raises what the functions of the other commands raise. All that is finished, and all that those
    functions keep, stays, and the same command resumes.
    """
    run = Run(config)
    results: JsonObject = {}
    for number in range(1, config.rounds + 1):
        results = run.round(number)
    return results


class Run:
    """A run of ``worldsim fit``."""

    def __init__(self, config: FitConfig) -> None:
        self.config = config
        self.first = int(os.environ.get("RANK", "0")) == 0
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.file = ProgressFile(config.out)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.first:
            self.file.open(config)
            if self.file.plan is None:
                self._plan()

    @property
    def plan(self) -> Plan:
        """The plan, which the first process has made."""
        found = self.file.plan
        assert found is not None
        return found

    def _plan(self) -> None:
        config = self.config
        say(f"looking at {config.env_id}")
        with self.file.timed("probe-1"):
            found = probe(config, SIDES[self.device])
        plan = make_plan(config, found, self.device, self.processes)
        self.file.set_plan(plan)
        what = "rendered images" if plan.render else "images"
        say(
            f"{config.env_id}: {what} of {plan.size[0]}x{plan.size[1]}, "
            f"{plan.steps_per_s:,.0f} steps/s a process; {plan.frames:,} frames to record, "
            f"preset {plan.preset}, about {span(60.0 * config.minutes * config.rounds)} in all"
        )

    def round(self, number: int) -> JsonObject:
        """Run the stages of a round that are not done yet; returns verdict and figures.

        Only the first process has them.
        """
        if not self.first:
            self._train_along(number)
            return {}
        if not self.file.done(f"record-{number}"):
            self._record(number)
        if not self.file.done(f"train-{number}"):
            with self.file.timed(f"train-{number}"):
                train(self._training(number))
        world = self.world(number)
        if world.config.has_rewards and not self.file.done(f"agent-{number}"):
            with self.file.timed(f"agent-{number}"):
                self._learn(number)
        if not self.file.done(f"evaluate-{number}"):
            with self.file.timed(f"evaluate-{number}"):
                self._evaluate(number, world)
        return self.report(number)

    def _train_along(self, number: int) -> None:
        """Train with the first process, once it has recorded."""
        self.file.wait_for(lambda: "minutes" in self.file.stage(f"train-{number}"))
        if not self.file.done(f"train-{number}"):
            train(self._training(number))

    def _record(self, number: int) -> None:
        agent = round_folder(self.config.out, number - 1) / "agent"
        use = agent if number > 1 and agent.is_dir() else None
        with self.file.timed(f"record-{number}"):
            record(record_config(self.config, self.plan, number, use))
        info = self._recorded(number).info
        rewards = info.report["rewards"]
        learns = bool(rewards["count"] or rewards["usual"])
        minutes = training_minutes(self.config, self.file.spent(number), learns)
        self.file.keep(f"train-{number}", minutes=round(minutes, 3))

    def _recorded(self, number: int) -> EpisodeDataset:
        return EpisodeDataset(recording_of(self.config.out, number))

    def _training(self, number: int) -> TrainConfig:
        minutes = float(self.file.stage(f"train-{number}")["minutes"])
        return train_config(self.config, self.plan, number, minutes, self._recorded(number).info)

    def world(self, number: int) -> World:
        """Return the world of a round.

        The user named the environment on the command line, so it is trusted; another one in the
        world's files is refused.
        """
        folder = round_folder(self.config.out, number) / "world"
        world, config = World.from_pretrained(folder, trust=True), self.config
        named, asked = world.config.env_id, (config.env_id, qualify(config.env_id))
        if named not in asked or world.config.env_kwargs != config.env_kwargs:
            raise UntrustedFileError(
                f"{folder} names the environment {named!r} with {world.config.env_kwargs}, and "
                f"this run is of {config.env_id!r} with {config.env_kwargs}: delete {config.out}, "
                f"or use another --out"
            )
        return world

    def _learn(self, number: int) -> None:
        # A wing, named by a string: see CONTRIBUTING.md.
        module = importlib.import_module(AGENT_MODULE)
        module.train(module.Args(**agent_options(self.config, self.plan, number)))

    def _evaluate(self, number: int, world: World) -> None:
        config, plan = self.config, self.plan
        info = self._recorded(number).info
        folder = round_folder(config.out, number)
        evaluate(evaluate_config(config, plan, number, info.report), world)
        has_agent = (folder / "agent").is_dir()
        if has_agent:
            seconds = _step_seconds(world, EPISODES[plan.device])
            agreement(agreement_config(config, plan, number, seconds, info.report), world)
        say("filming the dream beside the real twin")
        watch(
            WatchConfig(
                str(folder / "agent") if has_agent else "persistent",
                out=folder / "film.mp4",
                world=str(folder / "world"),
                steps=FILM_STEPS,
                seed=config.seed + SEED_APART,
                scale=max(1, round(FILM_PIXELS / plan.size[0])),
            ),
            world,
        )
        same_actions(config, folder, world)

    def figures(self, number: int) -> Figures:
        """Return what was measured in a round."""
        folder = round_folder(self.config.out, number)
        found = folder / "agreement.json"
        return Figures(
            recording=self._recorded(number).info.report,
            evaluation=read_json(folder / "evaluation.json"),
            agreement=read_json(found) if found.is_file() else None,
            same_actions=read_json(folder / "same_actions.json"),
            history=read_json(folder / "history.json"),
        )

    def report(self, number: int) -> JsonObject:
        """Judge a round, write the page and the results, and return them."""
        config, rounds = self.config, range(1, number + 1)
        figures = {n: self.figures(n) for n in rounds}
        verdict = judge(config, number, figures[number])
        stages = self.file.values["stages"]
        results: JsonObject = {
            "env_id": config.env_id,
            "rounds": number,
            "verdict": to_json(verdict),
            "plan": to_json(self.plan),
            "seconds": {name: one.get("seconds") for name, one in stages.items()},
            "evaluation": figures[number].evaluation,
            "agreement": figures[number].agreement,
        }
        write_json(config.out / RESULTS, results)
        if config.json is not None:
            write_json(config.json, results)
        write_page(config, self.plan, verdict, figures, results["seconds"], config.out / PAGE)
        print(verdict.text())
        return results


@torch.no_grad()
def _step_seconds(world: World, dreams: int) -> float:
    """Return the seconds of a step of so many dreams at once."""
    state = world.blank(dreams)
    act = torch.zeros_like(state.act[:, -1])
    for _ in range(2):
        state, _ = world.step(state, act)
    began = time.perf_counter()
    for _ in range(3):
        state, transition = world.step(state, act)
    transition.frame.rgb.sum().item()
    return (time.perf_counter() - began) / 3


def same_actions(config: FitConfig, folder: Path, world: World) -> None:
    """Dream what a held policy did in the real twin; write figures and a strip of pictures."""
    wanted = CompareConfig(
        str(folder / "world"),
        out=folder / "film.mp4",
        history=1,
        steps=STRIP_STEPS,
        seed=config.seed + SEED_APART,
    )
    lesson = play_twin(wanted, world, None)
    dreamed, _ = dream_on(world, world.initial([lesson.start], [wanted.seed]), lesson.acts)
    write_json(folder / "same_actions.json", measure(wanted, lesson, dreamed))
    save_picture(_strip(lesson, dreamed), folder / "strip.png")


def _strip(lesson: Lesson, dreamed: list[Transition]) -> Array:
    steps = [t for t in LOOKED_AT if t <= len(lesson.acts)]
    first = as_picture(lesson.start.rgb[-1])
    real = [first if t == 0 else as_picture(lesson.rgb[t - 1]) for t in steps]
    dream = [first if t == 0 else as_picture(dreamed[t - 1].frame.rgb[0]) for t in steps]
    return contact_sheet({"real": real, "dream": dream}, [f"step {t}" for t in steps])
