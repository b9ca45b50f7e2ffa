"""Many generated worlds on the machines of a Ray cluster, as one Gymnasium vector environment."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from worldsim.envs.dream_common import check_actions, check_mask, list_seeds
from worldsim.envs.ray_hosts import Host, join, part_of
from worldsim.errors import EngineError, InvalidInputError
from worldsim.runtime.arguments import whole
from worldsim.runtime.cluster_connection import AUTO, connected, require_room
from worldsim.runtime.files import read_bytes, write_bytes
from worldsim.runtime.options import check_options
from worldsim.runtime.types import Array, Batch, Info
from worldsim.world.snapshots import Snapshot

_numbers = itertools.count()
SEEDS = 2**31
"""Seeds that are drawn where none is given lie below this."""


class RayVectorEnv(gym.vector.VectorEnv[Batch, Batch, Batch]):
    """``num_envs`` dreams in ``workers`` processes of a Ray cluster.

    Environment i behaves as environment i of a
    :class:`worldsim.envs.world_vector_env.WorldVectorEnv` with the same seeds: bit by bit if the
    batches have the same computed size, up to rounding otherwise (see there). Observations,
    infos, autoreset and final observations are as there; arrays are NumPy's.

    A process that is lost, with its machine or without, is started again from its last snapshot and
    repeats the steps since, so that the next observation is the one that it would have given. If
    that fails :data:`worldsim.envs.ray_hosts.TRIES` times, EngineError says what is lost.

    num_envs: number of environments, at least ``workers``.
    workers: number of processes, with about the same number of environments each.
    cluster: address of the cluster: ``auto``, ``local``, or ``host:port``
        (:func:`worldsim.runtime.cluster_connection.connected`).
    num_cpus, num_gpus: what each process takes of its machine; a fraction of a GPU shares it. Ray
        shows a process the GPUs that it was given.
    snapshot_every: steps between two snapshots of a process, which are kept here; a lost process
        repeats at most so many steps. None takes none: everything since the last reset of all
        environments is repeated.
    settings: all other arguments are those of ``WorldVectorEnv``, such as ``world`` (a name or a
        folder that all machines have), ``autoreset_mode`` and ``max_episode_steps``.

    Raises MissingDependencyError without Ray or with other versions on a machine, NotFoundError if
    no cluster answers or a machine lacks the world, and InvalidInputError if the cluster has no
    room for so many processes.
    """

    def __init__(
        self,
        num_envs: int,
        workers: int = 2,
        cluster: str = AUTO,
        num_cpus: float = 1,
        num_gpus: float = 0,
        snapshot_every: int | None = 64,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        workers = whole("workers", workers, 1, 100_000)
        self.num_envs = whole("num_envs", num_envs, workers, 10_000_000)
        if snapshot_every is not None:
            snapshot_every = whole("snapshot_every", snapshot_every, 1, 2**31, "steps")
        if settings.get("output", "numpy") != "numpy":
            raise InvalidInputError("RayVectorEnv gives NumPy arrays: leave out output")
        self._connection = _Connection(cluster)
        ray = self._connection.ray
        resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        settings = {**settings, "render_mode": render_mode}
        self._hosts: tuple[Host, ...] = ()
        try:
            require_room(ray, resources, workers)
            hosts = [Host(ray, settings, resources) for _ in range(workers)]
            self._begin(hosts, snapshot_every, render_mode, {})
        except BaseException:
            # What was started must not stay, after Ctrl-C neither.
            self.close()
            raise

    def _begin(
        self,
        hosts: Sequence[Host],
        snapshot_every: int | None,
        render_mode: str | None,
        changes: dict[str, Any],
    ) -> None:
        """Make the batches in the hosts, and set the attributes of a vector environment."""
        self._number, self._hosts = next(_numbers), tuple(hosts)
        self._rows = np.array_split(np.arange(self.num_envs), len(hosts))
        self._snapshot_every, self.render_mode = snapshot_every, render_mode
        self._steps, self._seeded = 0, np.zeros(self.num_envs, bool)
        self._apart = False
        made = self._all("make", [(len(rows), changes) for rows in self._rows])[0]
        self.metadata = made["metadata"]
        self.single_observation_space = made["observation_space"]
        self.single_action_space = made["action_space"]
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def losses(self) -> int:
        """Number of times that one of the processes was lost and restored."""
        return sum(host.losses for host in self._hosts)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Info | None = None
    ) -> tuple[Batch, Info]:
        """Begin new dreams, as :meth:`WorldVectorEnv.reset` does; ``reset_mask`` included."""
        options = check_options(options)
        all_of_them = "reset_mask" not in options
        if not all_of_them:
            self._require_together()
        mask = check_mask(options.pop("reset_mask", None), self.num_envs)
        seeds = self._seeds(seed)
        begun = []
        for host, rows in zip(self._hosts, self._rows, strict=True):
            own = [seeds[i] for i in rows]
            if all_of_them:
                begun.append(host.begin(self._number, "reset", own, options))
            elif mask[rows].any():
                part = {**options, "reset_mask": mask[rows]}
                begun.append(host.begin(self._number, "reset", own, part))
            else:
                begun.append(host.begin(self._number, "look"))
        results = self._results(begun)
        self._apart = False
        frames, infos = zip(*results, strict=True)
        return np.concatenate(frames), self._join_infos(infos)

    def step(self, actions: Batch) -> tuple[Batch, Batch, Batch, Batch, Info]:
        """Step every environment by one frame."""
        self._require_together()
        # Bad ones must not reach some of the processes only.
        actions = check_actions(actions, self.single_action_space, self.num_envs).cpu().numpy()
        results = self._all("step", [(actions[rows],) for rows in self._rows])
        self._steps += 1
        if self._snapshot_every is not None and self._steps % self._snapshot_every == 0:
            # Kept by the hosts.
            self._all("snapshot")
        frames, rewards, terminations, truncations, infos = zip(*results, strict=True)
        return (
            np.concatenate(frames),
            np.concatenate(rewards),
            np.concatenate(terminations),
            np.concatenate(truncations),
            self._join_infos(infos),
        )

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return the newest frames, one (h, w, 3) uint8 array per environment.

        None unless the render mode is ``rgb_array``.
        """
        if self.render_mode is None:
            return None
        return tuple(frame for part in self._all("render") for frame in part)

    def snapshot(self) -> Snapshot:
        """All environments, on the CPU. :meth:`restore` takes it with any number of workers."""
        self._require_together()
        return join(self._all("snapshot"))

    def restore(self, snapshot: Snapshot) -> None:
        """Restore a snapshot of as many environments of the same world."""
        if not isinstance(snapshot, Snapshot) or len(snapshot.elapsed) != self.num_envs:
            raise InvalidInputError(
                f"restore takes a snapshot of {self.num_envs} environments, got "
                + (
                    f"one of {len(snapshot.elapsed)}"
                    if isinstance(snapshot, Snapshot)
                    else type(snapshot).__name__
                )
            )
        self._all("restore", [(part_of(snapshot, rows),) for rows in self._rows])
        self._seeded[:] = True
        self._apart = False

    def save(self, path: str | Path) -> Path:
        """Write a snapshot of all environments to a file, atomically.

        It is the file that ``WorldVectorEnv.save`` writes.
        """
        host = self._hosts[0]
        content = host.get(host.begin(self._number, "file_of", self.snapshot()))
        write_bytes(path, content)
        return Path(path)

    def load(self, path: str | Path) -> None:
        """Restore a snapshot from :meth:`save` or from ``WorldVectorEnv.save``."""
        host = self._hosts[0]
        self.restore(host.get(host.begin(self._number, "read_file", read_bytes(path))))

    def fork(self, index: int, n: int, randomness: str = "common") -> RayVectorEnv:
        """Return ``n`` futures of environment ``index``, spread over the same processes.

        See :meth:`worldsim.envs.world_env.WorldEnv.fork`. Autoreset is off.
        """
        index, n = whole("index", index, 0, self.num_envs - 1), whole("n", n, 1, 10_000_000)
        place = next(i for i, rows in enumerate(self._rows) if index in rows)
        host = self._hosts[place]
        local = int(index - self._rows[place][0])
        copies = host.get(host.begin(self._number, "fork", local, n, randomness))
        futures = object.__new__(RayVectorEnv)
        gym.vector.VectorEnv.__init__(futures)
        futures.num_envs, futures._connection = n, self._connection.shared()
        changes = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}
        futures._begin(self._hosts[:n], self._snapshot_every, self.render_mode, changes)
        futures.restore(copies)
        return futures

    def close_extras(self, **kwargs: Any) -> None:
        """End the processes and the connection, unless others of the same fork use them."""
        for host in self._hosts:
            host.close(self._number)
        self._connection.close()

    def _all(self, method: str, arguments: Iterable[tuple[Any, ...]] | None = None) -> list[Any]:
        """Call a method of all processes at once; returns the results in order."""
        given = [()] * len(self._hosts) if arguments is None else arguments
        begun = [
            host.begin(self._number, method, *one)
            for host, one in zip(self._hosts, given, strict=True)
        ]
        return self._results(begun)

    def _results(self, begun: Sequence[Any]) -> list[Any]:
        """Return the results of one call of each process, in order; raises the first error.

        All are asked for even if one raises: a process whose call is not noted would later be
        restored without it.
        """
        results, failed = [], list[Exception]()
        for host, one in zip(self._hosts, begun, strict=True):
            try:
                results.append(host.get(one))
            except Exception as error:
                if one[1][0] == "make":
                    # Nothing to restore; the others may still wait for room.
                    raise
                failed.append(error)
        if failed:
            self._apart = self._apart or bool(results)
            raise failed[0]
        return results

    def _require_together(self) -> None:
        """Raise EngineError after a call that some processes have done and others have not."""
        if self._apart:
            raise EngineError(
                "an earlier call failed in some of the processes and not in others, so that their "
                "dreams are at different steps: reset all environments, or restore a snapshot"
            )

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        """Return one seed for each environment; None goes on with the one that it had.

        What was never seeded receives a seed here: its process could not draw it again.
        """
        seeds = list_seeds(seed, self.num_envs)
        drawn = np.random.default_rng().integers(SEEDS, size=self.num_envs)
        chosen = [
            int(fresh) if given is None and not known else given
            for given, known, fresh in zip(seeds, self._seeded, drawn, strict=True)
        ]
        self._seeded[:] = True
        return chosen

    def _join_infos(self, infos: Sequence[Info]) -> Info:
        sizes = [len(rows) for rows in self._rows]
        return join_infos(infos, sizes)


class _Connection:
    """A connection to a cluster, which ends with the last environment that uses it.

    address: see :func:`worldsim.runtime.cluster_connection.connected`.
    """

    def __init__(self, address: str) -> None:
        self._left, self._users = ExitStack(), 1
        self.ray = self._left.enter_context(connected(address))

    def shared(self) -> _Connection:
        """Count one more user."""
        self._users += 1
        return self

    def close(self) -> None:
        """Count one user less."""
        self._users -= 1
        if self._users == 0:
            self._left.close()


def join_infos(infos: Sequence[Info], sizes: Sequence[int]) -> Info:
    """Return Gymnasium's batched info of all batches from those of each.

    A key that some batches lack is zero there (None for objects), and its ``_key`` is False.

    sizes: number of environments of each batch.
    """
    joined: Info = {}
    for key in dict.fromkeys(key for info in infos for key in info):
        having = next(info[key] for info in infos if key in info)
        if isinstance(having, dict):
            joined[key] = join_infos([info.get(key, {}) for info in infos], sizes)
            continue
        like = np.asarray(having)
        joined[key] = np.concatenate(
            [
                np.asarray(info[key]) if key in info else _nothing(size, like)
                for info, size in zip(infos, sizes, strict=True)
            ]
        )
    return joined


def _nothing(size: int, like: Array) -> Array:
    filler = None if like.dtype == object else 0
    return np.full((size, *like.shape[1:]), filler, like.dtype)
