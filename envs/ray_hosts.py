"""Processes of a Ray cluster that hold batches of dreams, and their recovery.

A :class:`Host` is one Ray actor. It loads a world once and holds any number of batches: the one of
a :class:`worldsim.envs.ray_vector.RayVectorEnv`, and those of its forks. What a batch did since its
last snapshot is kept here. An actor that is lost is started again, wherever Ray finds room, and
repeats it. Dreams depend on their state and their actions alone, so what follows is the same bit by
bit on a machine with the same kind of processor or GPU and the same versions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import EngineError
from worldsim.runtime.cluster_connection import (
    enter_folder,
    naming_machine,
    require_versions,
    result_of,
    versions_here,
)
from worldsim.runtime.progress import say
from worldsim.runtime.types import Array, Batch, Info
from worldsim.state import concatenate
from worldsim.world import World
from worldsim.world.snapshots import Snapshot, load_snapshot, save_snapshot
from worldsim.world.world import bucket

TRIES, WAIT_S = 4, 30.0
"""A call is begun at most this often; seconds after which the wait for a process that starts is
mentioned."""
OF_WORLDS = (
    *("device", "engine", "num_inference_steps", "paint", "painter"),
    *("temperature", "threads", "uncertainty"),
)
"""Settings of an environment that make its world."""

Call = tuple[str, tuple[Any, ...]]
"""A method of :class:`Batches`, and its arguments after the batch's number."""


class Batches:
    """What runs in the actor: vector environments of one world, by number.

    settings: arguments of :class:`worldsim.envs.world_vector_env.WorldVectorEnv`, without
        ``num_envs``.
    versions: of the caller's packages; others are refused when a batch is made.
    folder: in which the caller works.
    """

    def __init__(self, settings: dict[str, Any], versions: Mapping[str, str], folder: str) -> None:
        enter_folder(folder)
        self._versions = versions
        self._settings, self._envs = settings, dict[int, WorldVectorEnv]()
        self._first: WorldVectorEnv | None = None

    def make(self, number: int, num_envs: int, changes: dict[str, Any]) -> dict[str, Any]:
        """Make a batch; returns its ``metadata`` and single spaces.

        changes: settings that differ from those of the first one.
        """
        require_versions(self._versions)
        settings = {**self._settings, **changes}
        if self._first is not None:
            # The world is loaded, and its settings are made, once.
            settings = {name: value for name, value in settings.items() if name not in OF_WORLDS}
            settings["world"] = self._first.world
        with naming_machine():
            env = WorldVectorEnv(num_envs, **settings)
        self._first, self._envs[number] = self._first or env, env
        return {
            "metadata": env.metadata,
            "observation_space": env.single_observation_space,
            "action_space": env.single_action_space,
        }

    def reset(self, number: int, seeds: list[int | None], options: Info) -> tuple[Batch, Info]:
        """Reset a batch."""
        return self._envs[number].reset(seed=seeds, options=options)

    def step(self, number: int, actions: Batch) -> tuple[Batch, Batch, Batch, Batch, Info]:
        """Step a batch."""
        return self._envs[number].step(actions)

    def look(self, number: int) -> tuple[Batch, Info]:
        """Return the newest frames of a batch, as a reset of none of its environments would."""
        env = self._envs[number]
        frames = env.state.frame.rgb[: env.num_envs].permute(0, 2, 3, 1)
        return np.ascontiguousarray(frames.cpu().numpy()), {}

    def render(self, number: int) -> tuple[NDArray[np.uint8], ...] | None:
        """Return the newest frames of a batch."""
        return self._envs[number].render()

    def snapshot(self, number: int) -> Snapshot:
        """Return a snapshot of a batch on the CPU, without rows of padding."""
        env = self._envs[number]
        whole = env.snapshot()
        return part_of(whole, np.arange(env.num_envs))

    def restore(self, number: int, snapshot: Snapshot) -> None:
        """Restore a snapshot, which has no rows of padding."""
        env = self._envs[number]
        env.restore(_padded(snapshot, env.world))

    def fork(self, number: int, index: int, n: int, randomness: str) -> Snapshot:
        """Return the snapshot of ``n`` futures of one dream of a batch."""
        futures = self._envs[number].fork(index, n, randomness)
        return part_of(futures.snapshot(), np.arange(n))

    def file_of(self, number: int, snapshot: Snapshot) -> bytes:
        """Return the content of a file with a snapshot of any number of environments."""
        world = self._envs[number].world
        with TemporaryDirectory() as folder:
            path = Path(folder) / "snapshot"
            return save_snapshot(_padded(snapshot, world), world, path).read_bytes()

    def read_file(self, number: int, content: bytes) -> Snapshot:
        """Return the snapshot in a file's content, without rows of padding."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "snapshot"
            path.write_bytes(content)
            whole = load_snapshot(path, self._envs[number].world)
        return part_of(whole, np.arange(len(whole.elapsed)))

    def repeat(self, number: int, calls: list[Call]) -> None:
        """Make calls again whose results are known. Raises what one of them raises."""
        for method, arguments in calls:
            getattr(self, method)(number, *arguments)

    def close(self, number: int) -> None:
        """Forget a batch."""
        self._envs.pop(number, None)


def _padded(snapshot: Snapshot, world: World) -> Snapshot:
    """Return a snapshot on the world's device, with rows of padding up to a batch bucket."""
    state = snapshot.state.to(world.device)
    return replace(snapshot, state=world.pad(state, bucket(len(state))))


def part_of(snapshot: Snapshot, rows: Array) -> Snapshot:
    """Return some environments of a snapshot, on the CPU."""
    return replace(
        snapshot,
        state=snapshot.state.select(torch.from_numpy(rows)).to("cpu"),
        elapsed=snapshot.elapsed[rows],
        resetting=snapshot.resetting[rows],
        generators=tuple(snapshot.generators[i] for i in rows),
    )


def join(parts: list[Snapshot]) -> Snapshot:
    """Return one snapshot of the environments of all ``parts``, in order."""
    return replace(
        parts[0],
        state=concatenate([one.state for one in parts]),
        elapsed=np.concatenate([one.elapsed for one in parts]),
        resetting=np.concatenate([one.resetting for one in parts]),
        generators=tuple(state for one in parts for state in one.generators),
    )


@dataclass
class _Log:
    """How to make a batch again.

    made: arguments of :meth:`Batches.make` after the number.
    base: the last snapshot, None for a batch that starts with the first of ``calls``.
    calls: what changed it since.
    """

    made: tuple[Any, ...]
    base: Snapshot | None = None
    calls: list[Call] = field(default_factory=list)


class Host:
    """One actor, started again when it is lost, and what it takes to restore its batches.

    ray: the module, connected to a cluster.
    settings: see :class:`Batches`.
    resources: options of the actor, such as ``{"num_cpus": 1, "num_gpus": 0.5}``.
    """

    def __init__(self, ray: Any, settings: dict[str, Any], resources: dict[str, Any]) -> None:
        self._ray, self._settings, self._resources = ray, settings, resources
        self._logs: dict[int, _Log] = {}
        self._folder = os.getcwd()
        self.losses = 0
        """Number of times that the actor was lost."""
        self._start()

    def begin(self, number: int, method: str, *arguments: Any) -> tuple[int, Call, Any]:
        """Call a method of the actor without waiting; give what is returned to :meth:`get`."""
        if method == "make":
            self._logs[number] = _Log(arguments)
        reference = getattr(self._actor, method).remote(number, *arguments)
        return number, (method, arguments), reference

    def get(self, begun: tuple[int, Call, Any]) -> Any:
        """Return a call's result. If the actor is lost, restore it and make the call again.

        Raises what the call raises, or EngineError after :data:`TRIES` losses in a row, and if the
        actor cannot be restored.
        """
        number, (method, arguments), reference = begun
        errors = self._ray.exceptions
        lost: Exception | None = None
        for _ in range(TRIES):
            try:
                if lost is not None:
                    reference = self._again(number, method, arguments)
                if method == "make":
                    self._mention_wait(reference)
                result = result_of(self._ray, reference)
                break
            except (errors.RayActorError, errors.ObjectLostError) as error:
                lost = error
                self.losses += 1
        else:
            raise EngineError(self._what_is_lost(f"{TRIES} times in a row", lost))
        self._keep(number, method, arguments, result)
        return result

    def _what_is_lost(self, how: str, cause: object) -> str:
        told = [
            f"{len(log.calls)} calls of {log.made[0]} dreams since their last "
            + ("reset" if log.base is None else "snapshot")
            for log in self._logs.values()
        ]
        return (
            f"a process of the cluster was lost {how} ({cause}). Lost are {', and '.join(told)}: "
            f"see Ray's logs, and restore a snapshot of your own in a new environment"
        )

    def close(self, number: int) -> None:
        """Forget a batch; the actor ends with its last one."""
        self._logs.pop(number, None)
        if self._logs:
            self._actor.close.remote(number)
        else:
            self._ray.kill(self._actor)

    def _start(self) -> None:
        made = self._ray.remote(**self._resources)(Batches)
        self._actor = made.remote(self._settings, versions_here(), self._folder)

    def _again(self, number: int, method: str, arguments: tuple[Any, ...]) -> Any:
        """Start the actor anew, repeat what its batches did, and call ``method`` again.

        Raises EngineError if that fails for another reason than one more loss.
        """
        errors = self._ray.exceptions
        # One that only cannot be reached must not go on beside its successor.
        self._ray.kill(self._actor)
        self._start()
        begun = []
        for one, log in self._logs.items():
            if (one, method) != (number, "make"):
                begun.append(self._actor.make.remote(one, *log.made))
            if log.base is not None:
                begun.append(self._actor.restore.remote(one, log.base))
            if log.calls:
                begun.append(self._actor.repeat.remote(one, log.calls))
        try:
            for reference in begun:
                if reference is begun[0]:
                    self._mention_wait(reference)
                result_of(self._ray, reference)
        except (errors.RayActorError, errors.ObjectLostError):
            raise
        except Exception as error:
            # What has caught up with a part of it must not go on from there.
            self._ray.kill(self._actor)
            raise EngineError(self._what_is_lost("and cannot be started again", error)) from error
        return getattr(self._actor, method).remote(number, *arguments)

    def _mention_wait(self, reference: Any) -> None:
        """Wait a while for a process that starts, and say so if that is not enough."""
        if not self._ray.wait([reference], timeout=WAIT_S)[0]:
            say(
                f"a process of the cluster has not started after {WAIT_S:g} s: waiting for it, or "
                f"for a machine with room"
            )

    def _keep(self, number: int, method: str, arguments: tuple[Any, ...], result: Any) -> None:
        log = self._logs[number]
        if method == "snapshot":
            log.base, log.calls = result, []
        elif method == "restore":
            log.base, log.calls = arguments[0], []
        elif method == "reset" and None not in arguments[0] and "reset_mask" not in arguments[1]:
            # What was before has no effect.
            log.base, log.calls = None, [(method, arguments)]
        elif method in ("reset", "step", "fork"):
            # A fork draws seeds.
            log.calls.append((method, arguments))
