"""Kills at random moments, and what is lost by them: nothing, or this script says what.

    python experiments/kill.py --kills 200 --json experiments/kill.json

Five kinds of work are killed again and again: recording, training, distilling, saving, and
evaluating an agent. (SIGKILL; one in five of the trainings SIGTERM.) What is there in the end is
compared with what is there when nobody kills anything. Measured results: ``experiments/kill.json``.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import tyro
from tqdm import tqdm

from worldsim.data.dataset import EpisodeDataset
from worldsim.data.play import package_versions
from worldsim.errors import InvalidInputError
from worldsim.runtime.files import load_tensors, sha256_of
from worldsim.runtime.json_config import read_json, write_json
from worldsim.runtime.scratch import orphaned_memory, remove_orphaned_memory

SHARES = {"record": 0.35, "train": 0.1, "distil": 0.05, "save": 0.4, "evaluate": 0.1}
"""How the kills are divided."""
KILLS_A_RUN = 3
"""Most kills inside one run of a command: at the fourth one of the same task it gives up, as it
should."""
ENGINE = "vizdoom"
REAL = "worldsim/FreedoomReal-v0"


@dataclass(frozen=True)
class KillConfig:
    """Kill worldsim at random moments and compare what is left with undisturbed runs."""

    kills: int = 200
    """How many kills in all, divided among the kinds as :data:`SHARES` says."""
    seed: int = 0
    """What the moments and the victims are drawn from. (Where a process is at a moment, no seed
    decides.)"""
    json: Path | None = None
    """Write the figures to this file, too."""
    kinds: tuple[str, ...] = tuple(SHARES)
    """What is killed: record, train, distil, save, evaluate."""
    limit: float = 300.0
    """Seconds after which a run of a command counts as hung."""
    frames: int = 264
    """Frames of a recording that is killed, in shards of 66."""
    steps: int = 16
    """Steps of a training that is killed; every second one is saved."""
    episodes: int = 6
    """Episodes of an evaluation that is killed."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(SHARES))
        if unknown or not self.kinds:
            raise InvalidInputError(
                f"KillConfig.kinds = {self.kinds!r}: some of {', '.join(SHARES)}"
            )
        for name in ("kills", "limit", "frames", "steps", "episodes"):
            if not getattr(self, name) > 0:
                raise InvalidInputError(
                    f"KillConfig.{name} = {getattr(self, name)!r}: it must be more than 0"
                )


@dataclass
class Tally:
    """What the kills of one kind led to."""

    kills: int = 0
    victims: Counter[str] = field(default_factory=Counter)
    """Who was killed, how often."""
    runs: int = 0
    """Results that were compared with the undisturbed one."""
    hangs: int = 0
    """Runs that did not end within the limit."""
    failures: int = 0
    """Runs that ended with an error, though nobody killed the command itself."""
    differences: int = 0
    """Results that differ from the undisturbed one, or are damaged or missing."""
    processes_left: int = 0
    """Processes that outlived their command by more than 15 s."""
    files_left: int = 0
    """Temporary files and folders, and files of shared memory, that were there when all was
    done."""
    max_recovery_s: float = 0.0
    """Longest time from the first kill of a run to the complete result."""

    @property
    def bad(self) -> int:
        """Everything that should be 0."""
        return self.hangs + self.failures + self.differences + self.processes_left + self.files_left


class Place:
    """A folder to work in, with a folder for temporary files of its own; runs commands there."""

    def __init__(
        self, folder: Path, config: KillConfig, rng: np.random.Generator, tally: Tally
    ) -> None:
        self.folder, self.config, self.rng, self.tally = folder, config, rng, tally
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.log = folder / "log.txt"

    def start(self, *arguments: Any) -> subprocess.Popen[bytes]:
        """``worldsim ARGUMENTS`` as the first process of a session."""
        environment = {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            # Torch's cache is meant to stay.
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"),
        }
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "worldsim", *map(str, arguments)],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def undisturbed(self, *arguments: Any) -> float:
        """Run a command to its end; returns how long it took, in seconds."""
        began = time.monotonic()
        if self.start(*arguments).wait(self.config.limit) != 0:
            raise RuntimeError(
                f"{arguments} failed before anything was killed:\n{self.log.read_text()[-2000:]}"
            )
        return time.monotonic() - began

    def moment(self, span: float, process: subprocess.Popen[bytes]) -> None:
        """Wait for a moment drawn from the next ``span`` seconds, or until the process ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.rng.uniform(0.0, span))

    def finish(self, process: subprocess.Popen[bytes], killed_at: float) -> bool:
        """Wait for a run's end; returns whether it ended well. killed_at: when the first process of
        it was killed."""
        try:
            status = process.wait(self.config.limit)
        except subprocess.TimeoutExpired:
            self.tally.hangs += 1
            self.end(process)
            return False
        if status != 0:
            self.tally.failures += 1
            print(f"\n{self.log.read_text()[-1500:]}", file=sys.stderr)
        self.alone(process)
        self.tally.max_recovery_s = max(
            self.tally.max_recovery_s, round(time.monotonic() - killed_at, 1)
        )
        return status == 0

    def alone(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until no process of a session is left; count and end those that stay."""
        deadline = time.monotonic() + 15.0
        while session(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.tally.processes_left += len(session(process.pid))
        self.end(process)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill whatever is left of a session."""
        for one in session(process.pid):
            kill(one)
        process.wait()

    def compare(self, same: bool, kept: Sequence[Path]) -> None:
        """Count a result, and what lies around in the end: in the folder of temporary files and
        hidden in ``kept``."""
        self.tally.runs += 1
        self.tally.differences += not same
        left = [*self.temporary.iterdir(), *(path for one in kept for path in one.rglob(".*"))]
        left += [
            self.folder / name
            for name in ("_vizdoom", "_vizdoom.ini")
            if (self.folder / name).exists()
        ]
        left += sorted(orphaned_memory())
        self.tally.files_left += len(left)
        if left or not same:
            print(f"\nsame: {same}, left: {[str(path) for path in left]}", file=sys.stderr)
        for path in self.temporary.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_orphaned_memory()


def session(leader: int) -> list[psutil.Process]:
    """The living processes of a session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill(process: psutil.Process) -> bool:
    """SIGKILL; whether it was still there."""
    try:
        process.kill()
    except psutil.Error:
        return False
    return True


def draw_victims(
    process: subprocess.Popen[bytes], rng: np.random.Generator
) -> tuple[str, list[psutil.Process]]:
    """Whom to kill: a worker, an engine, both, the command, or all its processes; nobody where
    there is no such process."""
    found = session(process.pid)
    engines, workers = [], []
    for one in found:
        with contextlib.suppress(psutil.Error):
            if one.name() == ENGINE:
                engines.append(one)
            elif "spawn_main" in " ".join(one.cmdline()):
                workers.append(one)
    kind = str(
        rng.choice(["worker", "engine", "both", "command", "all"], p=[0.35, 0.35, 0.2, 0.05, 0.05])
    )
    order = rng.permutation(64)

    def one_of(some: list[psutil.Process]) -> list[psutil.Process]:
        return [some[order[0] % len(some)]] if some else []

    return kind, {
        "worker": one_of(workers),
        "engine": one_of(engines),
        "both": one_of(workers) + one_of(engines) if workers and engines else [],
        "command": [one for one in found if one.pid == process.pid],
        "all": found,
    }[kind]


def kill_pool(place: Place, arguments: Sequence[Any], span: float, kills: int) -> Iterator[bool]:
    """Run a command that has workers until it is done, killing up to ``kills`` times on the way;
    yields True after each kill."""
    killed_at, done, inside = time.monotonic(), 0, 0
    process = place.start(*arguments)
    while done < kills and inside < KILLS_A_RUN and process.poll() is None:
        place.moment(span, process)
        kind, victims = draw_victims(process, place.rng)
        if not [one for one in victims if kill(one)]:
            continue
        done, inside = done + 1, inside + 1
        killed_at = time.monotonic() if done == 1 else killed_at
        place.tally.victims[kind] += 1
        yield True
        if kind in ("command", "all"):
            process.wait()
            place.alone(process)
            process, inside = place.start(*arguments), 0
    place.finish(process, killed_at)


# The kinds. Each is a generator that is asked for kills one after the other: it yields True after
# each.


def kill_record(place: Place, kills: int) -> Iterator[bool]:
    """Shards must be the same bytes, whoever was killed."""
    reference = place.folder / "undisturbed"

    def arguments(out: Path) -> list[Any]:
        return [
            "record",
            REAL,
            "--out",
            out,
            "--frames",
            place.config.frames,
            "--frames-per-shard",
            66,
            "--episode-steps",
            32,
            "--min-travel",
            0,
            "--workers",
            2,
            "--reset-options",
            "split",
            "train",
        ]

    span = place.undisturbed(*arguments(reference)) / 2
    out = place.folder / "killed"
    while kills > 0:
        for one in kill_pool(place, arguments(out), span, min(kills, KILLS_A_RUN + 1)):
            kills -= 1
            yield one
        place.compare(same_files(reference, out), [out])
        shutil.rmtree(out, ignore_errors=True)


def kill_evaluate(place: Place, kills: int) -> Iterator[bool]:
    """Returns of an agent in a real twin with monsters must be the same numbers."""

    def arguments(file: Path) -> list[Any]:
        return [
            "evaluate-agent",
            "takecover",
            "--episodes",
            place.config.episodes,
            "--max-steps",
            8,
            "--workers",
            2,
            "--bootstrap",
            20,
            "--json",
            file,
        ]

    def figures(file: Path) -> Any:
        values = read_json(file) if file.is_file() else {}
        return {
            name: value
            for name, value in values.items()
            if name not in ("wall_time_s", "real_seconds")
        }

    reference, out = place.folder / "undisturbed.json", place.folder / "results" / "killed.json"
    span = place.undisturbed(*arguments(reference)) / 2
    while kills > 0:
        for one in kill_pool(place, arguments(out), span, min(kills, KILLS_A_RUN + 1)):
            kills -= 1
            yield one
        place.compare(figures(out) == figures(reference), [out.parent])
        out.unlink(missing_ok=True)


def kill_training(
    place: Place, kills: int, arguments: Callable[[Path], list[Any]]
) -> Iterator[bool]:
    """Run on after each kill, a training must end with the weights, the scenes and the history of
    one that ran through."""
    reference, out = place.folder / "undisturbed", place.folder / "killed"
    span = place.undisturbed(*arguments(reference))
    while kills > 0:
        killed_at = 0.0
        while True:
            process = place.start(*arguments(out))
            # Most first kills come when the training has begun: half of the time goes by in
            # imports.
            patient = place.rng.random() < 0.8
            while patient and process.poll() is None and not (out / "tensorboard").exists():
                time.sleep(0.02)
            place.moment(span / 2, process)
            if process.poll() is not None or kills <= 0:
                break
            victim = str(place.rng.choice(["SIGKILL", "SIGTERM"], p=[0.8, 0.2]))
            process.send_signal(signal.Signals[victim])
            killed_at = killed_at or time.monotonic()
            try:
                process.wait(place.config.limit)
            except subprocess.TimeoutExpired:
                place.tally.hangs += 1
            place.alone(process)
            place.tally.victims[victim] += 1
            kills -= 1
            yield True
        fine = place.finish(process, killed_at or time.monotonic())
        place.compare(fine and same_training(reference, out), [out])
        shutil.rmtree(out, ignore_errors=True)


def kill_train(place: Place, kills: int) -> Iterator[bool]:
    """``worldsim train`` of the debug network on a small room."""
    data = small_recording(place)
    yield from kill_training(place, kills, lambda out: train_arguments(place, data, out))


def kill_distil(place: Place, kills: int) -> Iterator[bool]:
    """``worldsim distil`` of such a network."""
    data = small_recording(place)
    teacher = place.folder / "teacher"
    place.undisturbed(*train_arguments(place, data, teacher), "--num-inference-steps", 2)
    yield from kill_training(
        place,
        kills,
        lambda out: [
            "distil",
            teacher / "world",
            "--data",
            data,
            "--out",
            out,
            "--training-steps",
            place.config.steps,
            "--batch-size",
            2,
            "--window",
            12,
            "--memory-capacity",
            1024,
            "--mixed-precision",
            "no",
            "--save-every",
            2,
            "--sample-every",
            3,
            "--loss.teacher-steps",
            2,
            "--perturb.own",
            0,
        ],
    )


def small_recording(place: Place) -> Path:
    """Two shards of a small room."""
    data = place.folder / "data"
    place.undisturbed(
        "record",
        "worldsim/TinyRoom-v0",
        "--out",
        data,
        "--frames",
        128,
        "--frames-per-shard",
        64,
        "--episode-steps",
        15,
        "--min-travel",
        0,
        "--workers",
        0,
        "--env-kwargs",
        "size",
        32,
        "--reset-options",
        "split",
        "train",
    )
    return data


def train_arguments(place: Place, data: Path, out: Path) -> list[Any]:
    """Of ``worldsim train``: saves and pictures as often as possible."""
    return [
        "train",
        "--data",
        data,
        "--out",
        out,
        "--preset",
        "debug",
        "--steps",
        place.config.steps,
        "--batch-size",
        2,
        "--window",
        12,
        "--memory-capacity",
        1024,
        "--world-memory-capacity",
        2048,
        "--mixed-precision",
        "no",
        "--save-every",
        2,
        "--sample-every",
        3,
        "--scenes",
        8,
    ]


def kill_save(place: Place, kills: int) -> Iterator[bool]:
    """Snapshots, worlds and agents that are saved over and over: the old one must be there or the
    new one, whole."""
    savers = savers_of(place.folder)
    context = multiprocessing.get_context("fork")
    for number in range(kills):
        saver = savers[number % len(savers)]
        saver.save(0)
        process = context.Process(target=saver.save_for_ever)
        process.start()
        time.sleep(place.rng.uniform(0.0, 0.3))
        process.kill()
        process.join()
        killed_at = time.monotonic()
        place.tally.victims[saver.name] += 1
        try:
            found = saver.load()
            same = found in saver.states
        except Exception as error:
            print(f"\n{saver.name}: {error}", file=sys.stderr)
            same = False
        # Whoever saves next removes what was left, once no process of that number is there.
        saver.save(1)
        same = same and saver.load() == saver.states[1]
        place.tally.max_recovery_s = max(
            place.tally.max_recovery_s, round(time.monotonic() - killed_at, 1)
        )
        place.compare(same, [saver.path.parent])
        yield True


@dataclass
class Saver:
    """Something that is saved in one of two states. save: writes state 0 or 1. load: a digest of
    what is there."""

    name: str
    path: Path
    save: Callable[[int], object]
    load: Callable[[], str]
    states: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for state in (0, 1):
            self.save(state)
            self.states.append(self.load())

    def save_for_ever(self) -> None:
        """What is killed."""
        state = 0
        while True:
            state = 1 - state
            self.save(state)


def savers_of(folder: Path) -> list[Saver]:
    """A snapshot of an environment, a world and an agent, of the smallest shipped world."""
    import gymnasium as gym

    import worldsim  # noqa: F401  registers the environments
    from worldsim.agents.actor_critic_policy import ActorCriticPolicy
    from worldsim.envs.world_env import WorldEnv
    from worldsim.shipped.agent_files import load_agent, save_agent
    from worldsim.state import checksum, flatten
    from worldsim.world import World
    from worldsim.world.snapshots import load_snapshot

    # Processes are forked off this one, which threads would not survive.
    torch.set_num_threads(1)
    env = WorldEnv("freedoom-tiny", device="cpu")
    world = env.world
    snapshots = []
    for seed in (0, 1):
        env.reset(seed=seed)
        snapshots.append(env.snapshot())
    other = World.from_pretrained("freedoom-tiny", "cpu")
    with torch.no_grad():
        for weight in other.outcome.parameters():
            weight.add_(1.0)
    worlds = [world, other]
    agents = [
        ActorCriticPolicy(gym.spaces.Discrete(7), (64, 64, 3), stack=2, hidden=size)
        for size in (32, 64)
    ]

    def save_snapshot(state: int) -> None:
        env.restore(snapshots[state])
        env.save(folder / "snapshots" / "walk.safetensors")

    def digest_of(one: World) -> str:
        modules: dict[str, Any] = one.modules()
        return "".join(checksum(module.state_dict()) for _, module in sorted(modules.items()))

    return [
        Saver(
            "snapshot",
            folder / "snapshots" / "walk.safetensors",
            save_snapshot,
            lambda: checksum(
                flatten(
                    load_snapshot(folder / "snapshots" / "walk.safetensors", world).state, "state"
                )
            ),
        ),
        Saver(
            "world",
            folder / "worlds" / "one",
            lambda state: worlds[state].save_pretrained(folder / "worlds" / "one"),
            lambda: digest_of(World.from_pretrained(folder / "worlds" / "one", "cpu")),
        ),
        Saver(
            "agent",
            folder / "agents" / "one",
            lambda state: save_agent(agents[state], folder / "agents" / "one"),
            lambda: checksum(load_agent(folder / "agents" / "one").state_dict()),  # type: ignore[attr-defined]
        ),
    ]


KINDS: dict[str, Callable[[Place, int], Iterator[bool]]] = {
    "record": kill_record,
    "train": kill_train,
    "distil": kill_distil,
    "save": kill_save,
    "evaluate": kill_evaluate,
}


def same_files(one: Path, other: Path) -> bool:
    """Whether two recordings are the same bytes, and whole."""
    names = [
        {path.name: sha256_of(path) for path in folder.iterdir() if path.is_file()}
        for folder in (one, other)
    ]
    return names[0] == names[1] and EpisodeDataset(other).verify() == ()


def same_training(one: Path, other: Path) -> bool:
    """Whether two training runs ended alike: checkpoint, world, scenes, pictures and history."""
    for name in (
        "checkpoint/state.safetensors",
        "world/dynamics/diffusion_pytorch_model.safetensors",
    ):
        tensors = [load_tensors(folder / name) for folder in (one, other)]
        if tensors[0].keys() != tensors[1].keys() or any(
            not torch.equal(tensors[0][k], tensors[1][k]) for k in tensors[0]
        ):
            return False
    scenes = [
        {p.relative_to(f).as_posix(): sha256_of(p) for p in (f / "world" / "scenes").rglob("*.*")}
        for f in (one, other)
    ]
    pictures = [
        sorted(path.name for path in (folder / "samples").iterdir()) for folder in (one, other)
    ]
    steps = [
        [(h["step"], h["loss"]) for h in json.loads((folder / "history.json").read_text())]
        for folder in (one, other)
    ]
    return (
        scenes[0] == scenes[1]
        and len(scenes[0]) > 0
        and pictures[0] == pictures[1]
        and steps[0] == steps[1]
    )


def divide(kills: int, kinds: Sequence[str]) -> dict[str, int]:
    """So many kills among the kinds, in proportion to their shares; what rounding leaves goes to
    the first ones."""
    total = sum(SHARES[kind] for kind in kinds)
    counts = {kind: int(kills * SHARES[kind] / total) for kind in kinds}
    for kind in list(kinds)[: kills - sum(counts.values())]:
        counts[kind] += 1
    return counts


def main(config: KillConfig) -> int:
    """Kill, compare, report; returns 0 if nothing was lost, hung or left behind."""
    began, tallies = time.monotonic(), {kind: Tally() for kind in config.kinds}
    with (
        tempfile.TemporaryDirectory(prefix="worldsim-kill-") as folder,
        tqdm(total=config.kills, unit="kill") as bar,
    ):
        for kind, count in divide(config.kills, config.kinds).items():
            bar.set_description(kind)
            rng = np.random.default_rng([config.seed, list(SHARES).index(kind)])
            place = Place(Path(folder) / kind, config, rng, tallies[kind])
            for _ in KINDS[kind](place, count) if count else ():
                tallies[kind].kills += 1
                bar.update()
                if config.json is not None:
                    write_json(config.json, results_of(config, tallies, began))
        # Once more, with what the last run led to.
        if config.json is not None:
            write_json(config.json, results_of(config, tallies, began))
    print(explain(tallies))
    return 1 if any(tally.bad for tally in tallies.values()) else 0


def results_of(config: KillConfig, tallies: dict[str, Tally], began: float) -> dict[str, Any]:
    """Everything that was measured so far."""
    kinds = {
        kind: asdict(tally) | {"victims": dict(sorted(tally.victims.items()))}
        for kind, tally in tallies.items()
    }
    names = ("kills", "runs", "hangs", "failures", "differences", "processes_left", "files_left")
    return {
        "seed": config.seed,
        "config": {
            name: value for name, value in asdict(config).items() if name not in ("json", "seed")
        },
        "versions": package_versions(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "total": {name: sum(getattr(tally, name) for tally in tallies.values()) for name in names},
        "kinds": kinds,
        "wall_time_s": round(time.monotonic() - began, 1),
    }


def explain(tallies: dict[str, Tally]) -> str:
    """A table."""
    names = (
        "kills",
        "runs",
        "hangs",
        "failures",
        "differences",
        "processes_left",
        "files_left",
        "max_recovery_s",
    )
    lines = [f"{'':<10}" + "".join(f"{name:>16}" for name in names)]
    lines += [
        f"{kind:<10}" + "".join(f"{getattr(tally, name):>16}" for name in names)
        for kind, tally in tallies.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(KillConfig, description=__doc__.splitlines()[0])))
