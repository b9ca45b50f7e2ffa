"""DIAMOND's own code, imported from a checkout: its dataset, its training loop, its environment.

Nothing of it is part of this repository. Its modules have top-level names such as ``data`` and
``utils``, so it is imported in processes that do nothing else. Tried with commit 5bcd159 of
github.com/eloialonso/diamond. It needs hydra-core and torcheval beside worldsim's own packages.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import importlib.util
import os
import shutil
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from experiments.peers.settings import PeersConfig, mark, wait_for_others
from worldsim.data.dataset import EpisodeDataset

NEVER = 1_000_000_000


def _nothing(*args: object, **kwargs: object) -> None:
    """Stand-in for calls of wandb, whose mode is ``disabled`` in DIAMOND's settings."""


def import_diamond(checkout: Path) -> None:
    """Make DIAMOND's modules importable.

    wandb, cv2 and ale_py are replaced by empty modules if they are missing: with wandb disabled and
    a static dataset none of them is used.
    """
    for name in ("wandb", "cv2", "ale_py"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            module: Any = types.ModuleType(name)
            module.init = module.save = module.log = _nothing
            sys.modules[name] = module
    sys.path.insert(0, str(checkout.resolve() / "src"))
    # DIAMOND hands its dataset to the base class of samplers, which took it until PyTorch 2.4.
    sampler: Any = torch.utils.data.Sampler
    sampler.__init__ = _nothing
    # Checkpoints and datasets hold NumPy arrays, which PyTorch's safe reader must be told of.
    reconstruct: Any = importlib.import_module("numpy._core.multiarray")
    torch.serialization.add_safe_globals(
        [
            reconstruct._reconstruct,
            reconstruct.scalar,
            np.ndarray,
            np.dtype,
            type(np.dtype(np.int64)),
            type(np.dtype(np.float64)),
            collections.Counter,
        ]
    )


def settings(config: PeersConfig, resume: bool = False) -> Any:
    """Return DIAMOND's own settings, changed where this comparison has to.

    Its actor-critic does not train, so that all the time goes to the world model: the same PPO
    trains an agent in both dreams afterwards.
    """
    hydra: Any = importlib.import_module("hydra")
    omegaconf: Any = importlib.import_module("omegaconf")
    if not omegaconf.OmegaConf.has_resolver("eval"):
        # Its settings write numbers such as float("inf") as expressions.
        omegaconf.OmegaConf.register_new_resolver("eval", eval)
    changes = [
        f"static_dataset.path={(config.out / 'diamond' / 'dataset').resolve()}",
        f"common.resume={resume}",
        f"training.num_final_epochs={NEVER}",
        "training.compile_wm=False",
        "evaluation.should=False",
        f"actor_critic.training.start_after_epochs={NEVER}",
    ]
    for part in ("denoiser", "rew_end_model"):
        changes += [
            f"{part}.training.steps_first_epoch={config.warm_steps}",
            f"{part}.training.steps_per_epoch={config.epoch_steps}",
        ]
    folder = str((config.diamond / "config").resolve())
    with hydra.initialize_config_dir(config_dir=folder, version_base="1.3"):
        found = hydra.compose("trainer", overrides=[*changes, *config.overrides])
    # Otherwise each interpolation would be resolved again with every access.
    omegaconf.OmegaConf.resolve(found)
    return found


def export(config: PeersConfig) -> dict[str, Any]:
    """Write the training recording as a DIAMOND dataset, with DIAMOND's own classes."""
    import_diamond(config.diamond)
    theirs: Any = importlib.import_module("data")
    folder = config.out / "diamond" / "dataset" / "train"
    dataset = theirs.Dataset(folder, "train_dataset")
    recording = EpisodeDataset(config.data)
    for episode in recording:
        # DIAMOND cuts the fraction off when it converts back to bytes: a quarter of a step more
        # than the value keeps every byte as it is.
        frames = torch.from_numpy(np.array(episode.rgb)).permute(0, 3, 1, 2).double()
        frames = ((frames + 0.25) / 255 * 2 - 1).float()
        exported = theirs.Episode(
            obs=frames[:-1].contiguous(),
            act=torch.from_numpy(np.array(episode.act[:-1])),
            rew=torch.from_numpy(np.array(episode.rew[:-1])),
            end=torch.from_numpy(np.array(episode.term[:-1])).to(torch.uint8),
            trunc=torch.from_numpy(np.array(episode.trunc[:-1])).to(torch.uint8),
            info={"final_observation": frames[-1].contiguous()},
        )
        dataset.add_episode(exported)
    dataset.save_to_default_path()
    different = sum(
        int(
            (
                dataset.load_episode(i).obs.add(1).div(2).mul(255).round().to(torch.uint8).numpy()
                != episode.rgb[:-1].transpose(0, 3, 1, 2)
            ).sum()
        )
        for i, episode in enumerate(recording)
    )
    if different:
        raise SystemExit(f"{different} values of the exported frames differ from the recording")
    return {
        "episodes": int(dataset.num_episodes),
        "steps": int(dataset.num_steps),
        "reward_signs": {str(k): int(v) for k, v in sorted(dataset.counter_rew.items())},
        "ends": int(dataset.counter_end[1]),
        "different_values": different,
    }


class _Finished(Exception):
    """The time is used up."""


def train(config: PeersConfig, actions: int) -> dict[str, Any]:
    """Run DIAMOND's own trainer for the minutes; saves its agent at each mark.

    actions: number of the environment's actions.
    """
    import_diamond(config.diamond)
    work = (config.out / "diamond" / "run").resolve()
    resume = (work / "checkpoints" / "state.pt").is_file()
    cfg = settings(config, resume)
    module: Any = importlib.import_module("trainer")
    omegaconf: Any = importlib.import_module("omegaconf")
    # The trainer makes a game only to ask for its number of actions, where the dataset is static.
    module.make_atari_env = lambda **kwargs: types.SimpleNamespace(num_actions=actions)
    seed_all = module.set_seed
    module.set_seed = lambda drawn: seed_all(config.seed)
    if not resume and work.exists():
        # Killed before its first checkpoint: its trainer wants an empty folder.
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    marks = [60.0 * minutes for minutes in config.minutes]
    checkout = config.diamond.resolve()
    os.chdir(work)
    if not resume:
        Path(".hydra").mkdir(exist_ok=True)
        omegaconf.OmegaConf.save(cfg, ".hydra/config.yaml")
    stage = f"diamond-{mark(config.minutes[-1])}"
    trainer = _timed(module.Trainer)(
        cfg, checkout, marks, work, lambda: wait_for_others(config, stage)
    )
    trainer.preload()
    with contextlib.suppress(_Finished):
        trainer.run()
    return trainer.report()


def _timed(base: type) -> Any:
    """Return DIAMOND's trainer with a clock that runs during its training steps alone."""

    class Timed(base):  # type: ignore[misc, valid-type]
        """The first steps of each model, which warm up, are not timed; ``warm`` is called after
        them."""

        def __init__(
            self, cfg: Any, root: Path, marks: Sequence[float], work: Path,
            warm: Callable[[], None],
        ) -> None:  # fmt: skip
            self.seconds, self.saved_at = 0.0, 0.0
            self.by_model = {"denoiser": 0.0, "rew_end_model": 0.0}
            self._marks, self._work = list(marks), work
            self._warm: set[str] = set()
            self._when_warm = warm
            super().__init__(cfg, root)

        def preload(self) -> None:
            """Read the whole dataset into memory, as its cache does while it trains."""
            for i in range(self.train_dataset.num_episodes):
                self.train_dataset.load_episode(i)

        def train_component(self, name: str, steps: int) -> Any:
            _synchronize()
            began = time.monotonic()
            logs = super().train_component(name, steps)
            _synchronize()
            if name in self._warm:
                passed = time.monotonic() - began
                self.by_model[name] += passed
                self.seconds += passed
            elif name in self.by_model:
                self._warm.add(name)
                if len(self._warm) == len(self.by_model):
                    self._when_warm()
            return logs

        def save_checkpoint(self) -> None:
            """Save now and then, and at the marks. DIAMOND saves after every epoch."""
            reached = [m for m in self._marks if self.seconds >= m and not self._file(m).exists()]
            if self.epoch == 0 or reached or self.seconds - self.saved_at > 60.0:
                self.saved_at = self.seconds
                super().save_checkpoint()
            for one in reached:
                save_file(
                    {k: v.contiguous() for k, v in self.agent.state_dict().items()},
                    self._file(one),
                )
                print(f"saved after {self.seconds:.1f} s of training", flush=True)
            if self.seconds >= self._marks[-1]:
                raise _Finished

        def _file(self, seconds: float) -> Path:
            return self._work.parent / f"agent-{mark(seconds / 60.0)}.safetensors"

        def report(self) -> dict[str, Any]:
            """Steps and seconds of each model."""
            return {
                "seconds": self.seconds,
                "by_model_s": self.by_model,
                "steps": {n: self.num_batch_train.get(n) for n in self.by_model},
                "batch_size": self._cfg.denoiser.training.batch_size,
                "parameters": {
                    n: sum(p.numel() for p in getattr(self.agent, n).parameters())
                    for n in self.by_model
                },
            }

    return Timed


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def load(config: PeersConfig, minutes: float, actions: int, device: torch.device) -> Any:
    """Return DIAMOND's agent (denoiser, rew_end_model) as saved after ``minutes``."""
    import_diamond(config.diamond)
    instantiate = importlib.import_module("hydra.utils").instantiate
    agent: Any = importlib.import_module("agent")
    found = agent.Agent(instantiate(settings(config).agent, num_actions=actions))
    found.load_state_dict(load_file(config.out / "diamond" / f"agent-{mark(minutes)}.safetensors"))
    return found.to(device).eval()


def make_env(config: PeersConfig, agent: Any, loader: Any, horizon: int) -> Any:
    """Return DIAMOND's WorldModelEnv with its own sampler settings.

    loader: yields batches with ``obs`` (n, 4, 3, h, w) in [-1, 1] and ``act`` (n, 4), and has
        ``batch_sampler.batch_size``, n.
    horizon: steps after which it truncates.
    """
    instantiate = importlib.import_module("hydra.utils").instantiate
    envs: Any = importlib.import_module("envs")
    wanted = settings(config).world_model_env
    wanted.horizon, wanted.num_batches_to_preload = horizon, 1
    return envs.WorldModelEnv(agent.denoiser, agent.rew_end_model, loader, instantiate(wanted))


class Starts:
    """What WorldModelEnv begins from, in place of DIAMOND's data loader.

    size: rows per batch.
    draw: returns the next (obs, act), see :func:`make_env`.
    """

    def __init__(self, size: int, draw: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.batch_sampler, self._draw = types.SimpleNamespace(batch_size=size), draw

    def __iter__(self) -> Starts:
        return self

    def __next__(self) -> types.SimpleNamespace:
        obs, act = self._draw()
        return types.SimpleNamespace(obs=obs, act=act)
