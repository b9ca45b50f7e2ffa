"""Plays an environment for a recording: its settings, and the player of episodes.

An episode depends on the settings, the seed, the shard's number and its own number in the shard,
and on nothing else: not on the process that plays it, nor on what that process played before.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from worldsim import __version__
from worldsim.camera import quantise_depth
from worldsim.data.dataset import DatasetInfo
from worldsim.data.episode import Episode
from worldsim.data.mix import PolicyMix, check_mix, shown_name
from worldsim.data.step_checks import check_action, check_observation, check_reward
from worldsim.errors import EngineError, InvalidInputError
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.keyboard import exact_rate
from worldsim.runtime.ranges import Count, NotNegative, Positive, Seed, Workers
from worldsim.runtime.spaces import describe_space
from worldsim.runtime.types import Array, Env, Info
from worldsim.runtime.workers import ENGINE_TIMEOUT_S, TRIES, Engine, Watched
from worldsim.world.image_env import (
    MOST_PIXELS,
    PixelsConfig,
    as_dict,
    find_pixels,
    make_pixels,
    qualify,
    require_trainable,
)

MAX_DROPPED = 64
"""So many short episodes in a row end the recording with an error: the environment then hardly
moves at all."""
MAX_FAILED = 8
"""So many episodes in a row that the engine survives at no attempt end the recording with an
error."""
GEOMETRY_KEYS = ("pose", "depth", "intrinsics")


@dataclass(frozen=True)
class RecordConfig:
    """Settings of :func:`record`."""

    env_id: str
    """Gymnasium id, such as ``worldsim/FreedoomReal-v0``; ``module:Name-v0`` imports ``module``
    first."""
    out: str | Path
    """Folder of the dataset, or a URL of one, such as ``s3://bucket/folder`` (extra ``cluster``).
    If it holds part of the same recording, the recording resumes."""
    frames: Count = 100_000
    """Number of frames to record. Whole shards are recorded, so there are a few more."""
    workers: Workers = field(default_factory=lambda: os.cpu_count() or 1)
    """Number of processes with one environment each. 0 plays in this process, for debugging and
    notebooks."""
    episode_steps: Count = 256
    """Maximum episode length in steps; an episode has one more frame. Choose it long enough to
    leave a place and return."""
    frames_per_shard: Count = 8192
    """A shard is closed once it has this many frames (170 MB at 64x64 with depth). A worker that is
    interrupted loses at most one shard."""
    policy: str = "persistent"
    """``persistent``, ``random``, ``sticky``, ``mix`` of several, ``module:Class`` of a policy that
    is constructed with the action space, or a saved agent's folder or a shipped agent's name. To
    record another round with a trained agent, use another ``--out`` and train on both."""
    mix: dict[str, NotNegative] = field(default_factory=dict)
    """Policies of ``--policy mix`` and their weights, such as ``random 1 sticky 2 runs/agent 1``;
    ``random 1 persistent 2 sticky 1`` if not given. Each episode is played by one of them, and its
    info says which."""
    seed: Seed = 0
    """Seed of the recording. Use different seeds for training and evaluation."""
    reset_options: dict[str, str] = field(default_factory=dict)
    """Options of every reset, such as ``split train``."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Further arguments of ``gymnasium.make``, such as ``max_episode_steps 525``."""
    size: tuple[int, int] | None = None
    """Height and width in pixels that images are resized to, multiples of 8; the environment's own
    if not given."""
    key: str | None = None
    """Key of the image in a Dict observation; needed only if several entries are images."""
    render: bool = False
    """Record rendered images (``render_mode="rgb_array"``) instead of observations."""
    fps: Positive | None = None
    """Steps per second of the environment's own time. By default the value of its metadata:
    ``steps_per_second``, else ``render_fps``, which ignores skipped frames."""
    min_travel: NotNegative = 4.7
    """Minimum distance from the start in metres; shorter episodes are dropped. Needs poses. The
    default is 150 map units of Doom, enough to leave the closet in which a random start may lie. 0
    keeps all."""
    episodes_per_map: Count = 4
    """Number of consecutive episodes on one map, since loading a map takes time. If ``info`` names
    a ``map``, the next resets request it with ``{"map": ...}``. 1 leaves every choice to the
    environment."""
    cluster: str | None = None
    """Play on the machines of a Ray cluster (extra ``cluster``), one environment per CPU, instead
    of in ``workers`` here: ``auto``, as if no value is given, for the cluster that RAY_ADDRESS
    names or that runs on this machine, ``host:port`` of its head, or ``local`` to start one here.
    ``out`` must be a URL, or a folder that all its machines share."""
    engine_timeout_s: Positive = ENGINE_TIMEOUT_S
    """Time limit in seconds of one call of the environment (make, reset, step, close). After it,
    the engine is killed and the episode repeated. Has no effect with ``workers 0``."""

    trust: bool = False
    """If the policy is a saved agent: let its card name any class, whose module is then
    imported."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.size is not None and not 1 <= min(self.size) <= max(self.size) <= MOST_PIXELS:
            raise InvalidInputError(
                f"RecordConfig.size = {self.size!r}: height and width of 1 to {MOST_PIXELS} pixels."
            )
        if self.size is not None:
            require_trainable(self.size, f"RecordConfig.size = {self.size!r}: it")
        check_mix(self.policy, self.mix)

    @property
    def shard_frames(self) -> int:
        """Number of frames after which a shard is closed: a small recording is one small shard."""
        return min(self.frames, self.frames_per_shard)

    @property
    def shards(self) -> int:
        """Number of shards of the recording."""
        return -(-self.frames // self.shard_frames)


class Player:
    """Plays the episodes of any shard with one environment and one policy.

    config: the config that :func:`record` received.
    """

    def __init__(self, config: RecordConfig) -> None:
        self.config = config
        self.env_id = qualify(config.env_id)
        self.pixels: PixelsConfig | None = find_pixels(
            self.env_id, dict(config.env_kwargs), config.size, config.key, config.render
        )
        self.engine: Engine[Env] = Engine(self._made)
        self._failure = ""
        try:
            self.policies = self.engine.play(self._make_policies)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the environment."""
        self.engine.close()

    def _made(self) -> Env:
        return Watched(make_pixels(self.env_id, dict(self.config.env_kwargs), self.pixels))

    def _make_policies(self, env: Env) -> PolicyMix:
        describe_space(env.action_space)
        config = self.config
        return PolicyMix(config.policy, config.mix, env.action_space, config.trust)

    def describe(self) -> DatasetInfo:
        """Return the recording's properties for ``dataset.json``.

        Resets the environment once.
        """
        return self.engine.play(self._describe)

    def _describe(self, env: Env) -> DatasetInfo:
        config = self.config
        observation, info = env.reset(seed=0, options=dict(config.reset_options) or None)
        check_observation(config.env_id, 0, observation, env.observation_space)
        geometry = _has_geometry(info)
        assert env.observation_space.shape is not None
        require_trainable(env.observation_space.shape[:2], config.env_id)
        fps = config.fps or exact_rate(env.metadata)
        return DatasetInfo(
            env_id=self.env_id,
            env_kwargs=dict(config.env_kwargs),
            pixels=as_dict(self.pixels),
            reset_options=dict(config.reset_options),
            observation_space={"shape": list(env.observation_space.shape), "dtype": "uint8"},
            action_space=describe_space(env.action_space),
            geometry=geometry,
            intrinsics=[float(x) for x in info["intrinsics"]] if geometry else None,
            fps=None if fps is None else float(fps),
            policy=shown_name(config.policy),
            seed=config.seed,
            versions=package_versions(),
            recording={
                "episode_steps": config.episode_steps,
                "frames_per_shard": config.shard_frames,
                "min_travel": config.min_travel,
                "episodes_per_map": config.episodes_per_map,
                **self.policies.describe(),
            },
        )

    def shard(
        self, index: int, count: Callable[[int], None] = lambda frames: None
    ) -> tuple[list[Episode], int]:
        """Play the episodes of shard ``index``.

        Returns them and how many were dropped as too short.

        count: called with the number of frames so far.
        """
        episodes: list[Episode] = []
        frames = dropped = in_a_row = failed_in_a_row = 0
        episode = None
        while frames < self.config.shard_frames:
            attempt = len(episodes) + dropped
            played = self._survived_episode(index, attempt, self._options(attempt, episode))
            episode = played or episode
            if played is None:
                dropped, failed_in_a_row = dropped + 1, failed_in_a_row + 1
                if failed_in_a_row >= MAX_FAILED:
                    raise EngineError(
                        f"{self.config.env_id} failed in {failed_in_a_row} episodes in a row, each "
                        f"of them {TRIES} times ({self._failure}). What is recorded is kept: "
                        f"correct the environment, and run the same command again."
                    )
                continue
            failed_in_a_row = 0
            if not self._far_enough(played):
                dropped, in_a_row = dropped + 1, in_a_row + 1
                if in_a_row >= MAX_DROPPED:
                    raise InvalidInputError(
                        f"{in_a_row} episodes of {self.config.env_id} in a row stayed within "
                        f"{self.config.min_travel} m of their "
                        f"start, the last one in {_map_of(episode)!r}: lower min_travel, or "
                        f"lengthen "
                        f"episode_steps ({self.config.episode_steps})."
                    )
                continue
            in_a_row = 0
            episodes.append(played)
            frames += len(played)
            count(frames)
        return episodes, dropped

    def _survived_episode(
        self, shard: int, attempt: int, options: dict[str, str]
    ) -> Episode | None:
        """Play one episode; returns None if the engine fails at every attempt.

        The recording loses that episode and continues.
        """
        try:
            return self.engine.play(lambda env: self._episode(env, shard, attempt, options))
        except EngineError as error:
            self._failure = str(error)
            warnings.warn(
                f"{self.config.env_id}: {error}: episode {attempt} of shard {shard} is dropped",
                stacklevel=2,
            )
            return None

    def _episode(self, env: Env, shard: int, attempt: int, options: dict[str, str]) -> Episode:
        env_seed, policy_seed = (
            int(x) & 0x7FFFFFFF
            for x in np.random.SeedSequence([self.config.seed, shard, attempt]).generate_state(2)
        )
        env_id, space = self.config.env_id, env.observation_space
        name, policy = self.policies.of_episode(self.config.seed, shard, attempt)
        observation, info = env.reset(seed=env_seed, options=options)
        policy.reset(policy_seed)
        frames, infos = [check_observation(env_id, 0, observation, space)], [info]
        acts, rews, terms, truncs = [], [], [], []
        for step in range(self.config.episode_steps):
            act = policy.act(observation)
            acts.append(check_action(name, step, act, env.action_space))
            observation, rew, term, trunc, info = env.step(act)
            frames.append(check_observation(env_id, step + 1, observation, space))
            infos.append(info)
            rews.append(check_reward(env_id, step, rew))
            terms.append(bool(term))
            # An episode cut here ends as one with that time limit would.
            truncs.append(bool(trunc) or (step + 1 == self.config.episode_steps and not term))
            if terms[-1] or truncs[-1]:
                break
        act_array = np.stack(acts)
        known = {
            "map": infos[0].get("map"),
            "split": self.config.reset_options.get("split"),
            "policy": name if self.policies.mixed else None,
        }
        return Episode(
            rgb=np.stack(frames),
            act=np.concatenate([act_array, np.zeros_like(act_array[:1])]),
            rew=np.array([*rews, 0.0], np.float32),
            term=np.array([*terms, False]),
            trunc=np.array([*truncs, False]),
            info={"seed": env_seed, **{k: str(v) for k, v in known.items() if v is not None}},
            **self._geometry(infos),
        )

    def _options(self, attempt: int, before: Episode | None) -> dict[str, str]:
        """Return the user's reset options, or the previous map until its turn ends."""
        options = dict(self.config.reset_options)
        if (
            before is None
            or attempt % self.config.episodes_per_map == 0
            or "map" not in before.info
            or "map" in options
        ):
            return options
        # A map and a split exclude each other: the map was drawn from the split.
        options.pop("split", None)
        return {**options, "map": before.info["map"]}

    def _geometry(self, infos: list[Info]) -> dict[str, Array]:
        having = [_has_geometry(info) for info in infos]
        if not any(having):
            return {}
        if not all(having):
            lacking = having.index(False)
            raise InvalidInputError(
                f"{self.config.env_id} gives pose, depth and intrinsics in the info of some steps "
                f"only; step {lacking} has none."
            )
        intrinsics = np.asarray(infos[0]["intrinsics"], np.float32)
        for info in infos:
            if not np.array_equal(intrinsics, np.asarray(info["intrinsics"], np.float32)):
                raise InvalidInputError(
                    f"{self.config.env_id} changes its intrinsics within an episode, which is not "
                    f"supported."
                )
        depth = np.stack([np.asarray(info["depth"], np.float32) for info in infos])
        if np.isnan(depth).any() or (depth < 0).any():
            raise InvalidInputError(
                f"{self.config.env_id} gives depth that is NaN or negative; metres, inf for the "
                f"sky, are needed."
            )
        return {
            "inverse_depth": quantise_depth(torch.from_numpy(depth)).numpy().astype(np.uint16),
            "pose": np.stack([np.asarray(info["pose"], np.float32) for info in infos]),
            "intrinsics": intrinsics,
        }

    def _far_enough(self, episode: Episode) -> bool:
        if episode.pose is None:
            return True
        position = episode.pose[:, :3, 3]
        return bool(np.linalg.norm(position - position[0], axis=1).max() >= self.config.min_travel)


def _map_of(episode: Episode | None) -> str:
    return (
        str(episode.info.get("map", "an unnamed map")) if episode is not None else "an unnamed map"
    )


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that affect a recording's content."""
    versions = {"python": platform.python_version(), "worldsim": __version__}
    for package in ("gymnasium", "numpy", "torch", "vizdoom"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _has_geometry(info: Info) -> bool:
    return all(key in info for key in GEOMETRY_KEYS)
