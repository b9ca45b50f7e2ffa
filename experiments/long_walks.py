"""What a generated world does over long walks: ``python long_walks.py --help``.

Drift: free-running walks, and real walks of the same policy that say what is usual. Growth: one way
walked to and fro, its true frames, then dreamed ones at the same poses, kept in the point memory.
Each writes a JSON file and a picture of its curves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from curves import Panel, draw_panels
from memory_growth import GrowthConfig, draw_growth, growth, growth_table, true_frame
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from worldsim.errors import InvalidInputError
from worldsim.evaluation.benchmark_set import ATTEMPTS, POLICY, TEST_SPLIT
from worldsim.evaluation.long_walks import NAMES, Watch
from worldsim.io.pictures import save_picture
from worldsim.memory import PointMemory
from worldsim.runtime.json_config import to_json, write_json
from worldsim.shipped.policies import make_policy
from worldsim.state import Frame, SceneStart, WorldState, flatten
from worldsim.world import World
from worldsim.world.image_env import make_env
from worldsim.world.scene_files import load_scene, scene_names

Array = NDArray[Any]


@dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    out: Path
    """Folder for ``drift.json``, ``drift.png``, ``growth.json`` and ``growth.png``."""
    world: str = "freedoom-tiny"
    """Name or folder of the world; it needs geometry, a point memory and start scenes."""
    steps: int = 1000
    """Steps of each free-running walk, and of each real one; 0 leaves the drift out."""
    walks: int = 8
    """Start scenes, evenly spread over the world's, walked at once; and as many real walks."""
    stretch: int = 50
    """Steps that a point of a curve is the mean of."""
    growth_steps: int = 10000
    """Steps with true frames in one bounded area; 0 leaves the growth out."""
    dream_growth_steps: int = 2000
    """Steps there with dreamed frames; 0 leaves them out."""
    there: int = 100
    """Steps of the growth's way out; its actions undone, as many again, lead back."""
    seed: int = 0
    """Walk ``i`` has seed ``seed * 1000003 + i``, its policy too."""
    threads: int = 1
    """Threads of the CPU."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the world and the memories are."""

    def __post_init__(self) -> None:
        for name, least in {
            "walks": 1,
            "stretch": 1,
            "there": 1,
            "steps": 0,
            "growth_steps": 0,
            "dream_growth_steps": 0,
        }.items():
            if getattr(self, name) < least:
                raise InvalidInputError(
                    f"{name} = {getattr(self, name)}: it must be at least {least}"
                )
        for name in ("steps", "growth_steps", "dream_growth_steps"):
            value = getattr(self, name)
            if 0 < value < self.stretch:
                raise InvalidInputError(
                    f"{name} = {value}: less than a stretch of {self.stretch}; take more steps, "
                    f"or 0 for none"
                )

    def walk_seed(self, index: int) -> int:
        return self.seed * 1_000_003 + index


class NamedWatch:
    """The statistics of ``worldsim evaluate --protocol long-walks`` by name, and further ones."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.further: dict[str, list[Tensor]] = {}

    def see(self, frame: Frame, coverage: Tensor, used: Tensor, **further: Tensor) -> None:
        """Add a frame (b, ...) with its figures, each (b,)."""
        self.watch.see(frame, coverage, used)
        for name, values in further.items():
            self.further.setdefault(name, []).append(values.double().cpu())

    def stretches(self, length: int) -> dict[str, Array]:
        """Return means over whole stretches by name, (walks, stretches) each; NaN where unknown."""
        found = dict(zip(NAMES, np.moveaxis(self.watch.stretches(length), -1, 0), strict=True))
        for name, rows in self.further.items():
            values = torch.stack(rows, 1)
            whole = values.shape[1] // length * length
            found[name] = values[:, :whole].unflatten(1, (-1, length)).nanmean(2).numpy()
        return found


def mean_known(values: Any, axis: int | None = None) -> Array:
    """Mean without nan; nan where there is nothing else."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis) / known.sum(axis)


def not_finite(state: WorldState) -> dict[str, int]:
    """How many values of each tensor of a state are nan or infinite, where there are any."""
    bad = {
        name: int((~torch.isfinite(x)).sum())
        for name, x in flatten(state).items()
        if x.is_floating_point()
    }
    return {name: count for name, count in bad.items() if count}


def starts(world: World, count: int) -> list[SceneStart]:
    if world.folder is None:
        raise InvalidInputError("the world has no folder, so no start scenes")
    names = scene_names(world.folder / "scenes")
    if count > len(names):
        raise InvalidInputError(f"walks = {count}: the world has {len(names)} start scenes")
    return [
        load_scene(world.folder / "scenes" / names[i * len(names) // count]) for i in range(count)
    ]


def dream_walks(world: World, config: Config) -> tuple[dict[str, Array], dict[str, Any]]:
    """Stretches of the free-running walks; and whatever is wrong with their states."""
    scenes = starts(world, config.walks)
    seeds = [config.walk_seed(i) for i in range(config.walks)]
    policies = [make_policy(POLICY, world.action_space) for _ in seeds]
    for policy, seed in zip(policies, seeds, strict=True):
        policy.reset(seed)
    state, watch, wrong = world.initial(scenes, seeds), NamedWatch(), {}
    heard: list[tuple[Tensor, Tensor]] = []
    # The step keeps quiet about rewards and terminations that were never recorded; the head itself
    # does not.
    handle = world.outcome.register_forward_hook(lambda module, given, said: heard.append(said))
    for step in tqdm(range(config.steps), desc="dreaming"):
        act = torch.tensor(np.array([policy.act(None) for policy in policies]), device=world.device)
        state, transition = world.step(state, act)
        (reward, logit), used = heard.pop(), world.memory.statistics(state.memory)["used"]
        further = {"reward head": reward.flatten(), "termination logit": logit.flatten()}
        watch.see(transition.frame, transition.coverage, used, **further)
        bad = not_finite(state) | {
            k: 1 for k, v in further.items() if not bool(torch.isfinite(v).all())
        }
        if bad and not wrong:
            wrong = {"first_step": step, "values": bad}
    handle.remove()
    return watch.stretches(config.stretch), {
        "scenes": [s.name for s in scenes],
        "not_finite": wrong,
    }


def real_walks(world: World, config: Config) -> tuple[dict[str, Array], dict[str, Any]]:
    """The same of real walks, their frames taken into a memory of the world's kind; and the maps
    that they were in."""
    env = make_env(
        world.config.env_id, {**world.config.env_kwargs, "max_episode_steps": config.steps + 1}
    )
    policy, found, maps = make_policy(POLICY, env.action_space), [], []
    for i in tqdm(range(config.walks), desc="walking"):
        for attempt in range(ATTEMPTS):
            watch, name = real_walk(
                world, env, policy, config, config.walk_seed(i) + attempt * 100_000_007
            )
            if watch is not None:
                break
        else:
            raise InvalidInputError(
                f"the engine ended {ATTEMPTS} walks of {config.steps} steps: choose shorter ones"
            )
        found.append(watch.stretches(config.stretch))
        maps.append(name)
    env.close()
    return {name: np.concatenate([f[name] for f in found]) for name in found[0]}, {"maps": maps}


def real_walk(
    world: World, env: Any, policy: Any, config: Config, seed: int
) -> tuple[NamedWatch | None, str]:
    """A walk, or None if the engine ended it."""
    memory, watch = world.memory, NamedWatch()
    data = memory.empty(1, world.device)
    obs, info = env.reset(seed=seed, options=dict(TEST_SPLIT))
    name = str(info["map"])
    policy.reset(seed)
    for step in range(config.steps + 1):
        frame, camera = true_frame(obs, info, world.device)
        if step:
            coverage, used = memory.coverage(data, camera), memory.statistics(data)["used"]
            watch.see(frame, coverage, used)
        data = memory.integrate(data, frame, camera, torch.tensor([step], device=world.device))
        if step < config.steps:
            obs, _, term, trunc, info = env.step(policy.act(obs))
            if term or trunc:
                return None, name
    return watch, name


def drift(world: World, config: Config) -> dict[str, Any]:
    """All figures with their bands, and how many of the dream's stretches lie inside."""
    dream, told = dream_walks(world, config)
    real, where = real_walks(world, config)
    figures: dict[str, Any] = {}
    for name, values in dream.items():
        figures[name] = entry = {"dream": values.tolist()}
        if name in real:
            low, high = np.nanpercentile(real[name], (5, 95))
            entry |= {"band": [low, high], "real": real[name].tolist()}
            within = np.where(np.isfinite(values), (values >= low) & (values <= high), np.nan)
            entry["inside"] = mean_known(within, 0).tolist()
    ends = [(i + 1) * config.stretch for i in range(config.steps // config.stretch)]
    return {"config": to_json(config), **told, **where, "steps": ends, "figures": figures}


def drift_table(result: dict[str, Any]) -> str:
    """Rows of the note's table: means over walks, and the share of their stretches in the band, of
    both ends of the walks."""
    part = max(1, len(result["steps"]) // 5)
    lines = []
    for name, entry in result["figures"].items():
        dream = np.array(entry["dream"])
        cells = [f"{mean_known(dream[:, s]):.3f}" for s in (slice(part), slice(-part, None))]
        if "band" in entry:
            cells += ["{:.3f} to {:.3f}".format(*entry["band"])]
            cells += [
                f"{100 * mean_known(entry['inside'][s]):.0f}%"
                for s in (slice(part), slice(-part, None))
            ]
        lines.append(f"| {name} | {' | '.join(cells + ['', '', ''][: 5 - len(cells)])} |")
    return "\n".join(lines)


def draw_drift(result: dict[str, Any], path: Path) -> None:
    """A panel a figure: each dreamed walk thin, their mean bold, the real walks' mean, and the real
    band shaded."""
    x, panels = result["steps"], []
    for name, entry in result["figures"].items():
        curves = {
            "each dream": [(x, y) for y in entry["dream"]],
            "mean of dreams": [(x, mean_known(entry["dream"], 0))],
        }
        band = None
        if "band" in entry:
            curves["mean of real walks"], band = (
                [(x, mean_known(entry["real"], 0))],
                tuple(entry["band"]),
            )
        panels.append(
            Panel(
                name, curves, ("mean of dreams", "mean of real walks"), band, "mean of real walks"
            )
        )
    save_picture(
        draw_panels(panels, ("mean of dreams", "mean of real walks", "each dream"), "steps"), path
    )


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    world = World.from_pretrained(config.world, config.device)
    if not isinstance(world.memory, PointMemory):
        raise InvalidInputError(
            f"{config.world} has no point memory, so there is nothing to measure here"
        )
    if config.steps:
        result = drift(world, config)
        write_json(config.out / "drift.json", result)
        draw_drift(result, config.out / "drift.png")
        print(drift_table(result))
        print("not finite:", result["not_finite"] or "nothing")
    if config.growth_steps:
        settings = GrowthConfig(
            config.growth_steps,
            config.dream_growth_steps,
            config.there,
            config.stretch,
            config.walk_seed(0),
        )
        result = growth(world, settings)
        write_json(config.out / "growth.json", {**result, "config": to_json(config)})
        draw_growth(result, config.out / "growth.png")
        print(growth_table(result))


if __name__ == "__main__":
    main(tyro.cli(Config))
