"""Recording: the same bits however often it is interrupted, and clear errors that leave files as
they were."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch

from tests.helpers.files import largest_file
from tests.helpers.killing import Killer
from worldsim.camera import quantise_depth
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.episode import check_alignment
from worldsim.data.play import Player
from worldsim.data.record import RecordConfig, record
from worldsim.envs.tiny_room import TinyRoom
from worldsim.errors import (
    InvalidInputError,
    MissingDependencyError,
    NotFoundError,
    StorageError,
    WorldsimError,
)
from worldsim.shipped.agent_files import save_agent
from worldsim.shipped.policies import make_policy
from worldsim.world.image_env import make_env

ROOM = "worldsim/TinyRoom-v0"


def config(out: Path, **changes: Any) -> RecordConfig:
    """Four shards of two 51-frame episodes in small rooms, in this process."""
    settings: dict[str, Any] = dict(
        env_id=ROOM,
        out=out,
        frames=400,
        frames_per_shard=100,
        episode_steps=50,
        min_travel=0.0,
        workers=0,
        env_kwargs={"size": 16},
    )
    return RecordConfig(**(settings | changes))


def checksums(path: Path) -> dict[str, str]:
    return {s.file: s.sha256 for s in EpisodeDataset(path).shards}


def test_records_what_the_environment_shows(tmp_path: Path) -> None:
    dataset = record(config(tmp_path, seed=3, reset_options={"split": "train"}))
    assert (len(dataset.shards), len(dataset), dataset.frames) == (4, 8, 408)
    info = dataset.info
    assert (info.env_id, info.policy, info.seed, info.geometry, info.fps) == (
        ROOM,
        "persistent",
        3,
        True,
        10.0,
    )
    assert info.observation_space == {"shape": [16, 16, 3], "dtype": "uint8"}
    assert info.action_space == {"type": "Discrete", "n": 7}
    assert info.intrinsics == [8.0, 8.0, 8.0, 8.0]
    assert info.reset_options == {"split": "train"} and info.env_kwargs == {"size": 16}
    assert dataset.verify() == ()
    report = check_alignment(dataset)
    assert report.undecided == ()
    assert len({e.info["seed"] for e in dataset}) == 8
    # Replaying the recorded actions from the recorded seed and map gives the recorded frames.
    for episode in dataset:
        assert episode.info["split"] == "train"
        env = TinyRoom(size=16)
        options = {"map": episode.info["map"]}
        # The first episode of a shard drew its map from the split itself.
        first = episode.info["seed"] in {dataset[i].info["seed"] for i in (0, 2, 4, 6)}
        observation, seen = env.reset(
            seed=episode.info["seed"], options={"split": "train"} if first else options
        )
        assert seen["map"] == episode.info["map"]
        for t in range(len(episode)):
            np.testing.assert_array_equal(observation, episode.rgb[t])
            np.testing.assert_array_equal(seen["pose"], episode.pose[t])
            code = quantise_depth(torch.from_numpy(seen["depth"])).numpy()
            np.testing.assert_array_equal(code, episode.inverse_depth[t])
            if t + 1 < len(episode):
                observation, rew, term, _, seen = env.step(episode.act[t])
                assert (rew, term) == (episode.rew[t], episode.term[t])
        assert episode.trunc.tolist() == [False] * 49 + [True, False]


def test_workers_resume_and_more_frames_change_no_bit(tmp_path: Path) -> None:
    whole = checksums(record(config(tmp_path / "a")).path)
    parallel = config(tmp_path / "b", workers=2)
    assert checksums(record(parallel).path) == whole
    (tmp_path / "b" / "shard-00001.safetensors").unlink()
    damaged = tmp_path / "b" / "shard-00002.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(bytes(content))
    kept = (tmp_path / "b" / "shard-00000.safetensors").stat().st_mtime_ns
    dataset = record(parallel)
    assert dataset.verify() == () and checksums(dataset.path) == whole
    assert (tmp_path / "b" / "shard-00000.safetensors").stat().st_mtime_ns == kept
    longer = checksums(record(config(tmp_path / "b", frames=500)).path)
    assert len(longer) == 5 and whole.items() <= longer.items()


SCRIPT = """
import sys
from pathlib import Path
from worldsim.shipped.policies import make_policy
from worldsim.data.record import RecordConfig, record
if __name__ == "__main__":
    record(RecordConfig(env_id="worldsim/TinyRoom-v0", out=Path(sys.argv[1]),
                    frames=int(sys.argv[2]), frames_per_shard=100,
                        episode_steps=50, min_travel=0.0, workers=2, env_kwargs={"size": 16}))
"""


def _listen_to_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_recording(tmp_path: Path, out: Path, frames: int) -> subprocess.Popen[str]:
    """A recording in a process of its own, of which at least one shard is finished."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # A shell's background job ignores Ctrl-C, and so would its children: give this one a terminal's
    # behaviour.
    process = subprocess.Popen(
        [sys.executable, str(script), str(out), str(frames)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_listen_to_interrupts,
    )
    while not (out / "dataset.json").exists():
        assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
        time.sleep(0.01)
    return process


def wait_until_alone(process: subprocess.Popen[str]) -> None:
    """Until no process of its session is left: neither workers nor engines may outlive it."""
    for _ in range(300):
        if not session_of(process.pid):
            return
        time.sleep(0.1)
    raise AssertionError(f"still running: {session_of(process.pid)}")


def session_of(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def test_engines_end_with_their_workers(tmp_path: Path) -> None:
    """ViZDoom's engine is a process of its own, which a pool's worker leaves behind unless it
    closes the environment."""
    pytest.importorskip("vizdoom", reason="the real twin needs the extra doom")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "worldsim",
            "record",
            "VizdoomTakeCover-v1",
            "--out",
            str(tmp_path / "out"),
            "--frames",
            "64",
            "--frames-per-shard",
            "32",
            "--episode-steps",
            "16",
            "--size",
            "64",
            "64",
            "--workers",
            "2",
        ],
        start_new_session=True,
    )
    assert process.wait() == 0
    wait_until_alone(process)


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = start_recording(tmp_path, out, 20_000)
    process.kill()
    process.wait()
    wait_until_alone(process)
    finished = EpisodeDataset(out)
    count = len(finished.shards)
    assert 0 < count < 200 and finished.verify() == ()
    (out / ".shard-00009.safetensors.1.tmp").write_bytes(b"half")
    frames = 100 * (count + 3)
    resumed = record(config(out, frames=frames))
    whole = record(config(tmp_path / "whole", frames=frames))
    expected = checksums(whole.path)
    got = checksums(resumed.path)
    assert expected.items() <= got.items()
    assert not list(out.glob(".*"))


def test_one_recorder_at_a_time_and_ctrl_c_leaves_a_readable_dataset(tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = start_recording(tmp_path, out, 200_000)
    with pytest.raises(InvalidInputError, match="Another process is recording"):
        record(config(out, frames=200_000))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("KeyboardInterrupt") == 1 and errors.count("Traceback") == 1
    wait_until_alone(process)
    assert EpisodeDataset(out).verify() == ()
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed = 0, this recording 1"),
        ({"policy": "random"}, "policy = 'persistent', this recording 'random'"),
        ({"episode_steps": 40}, "episode_steps = 50, this recording 40"),
        ({"frames_per_shard": 200}, "frames_per_shard = 100, this recording 200"),
        ({"min_travel": 0.1}, "min_travel"),
        ({"env_kwargs": {"size": 16, "rooms": 3}}, "env_kwargs"),
        ({"reset_options": {"split": "test"}}, "reset_options"),
    ],
)
def test_another_recording_in_the_same_folder_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    record(config(tmp_path, frames=100))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(InvalidInputError, match=message):
        record(config(tmp_path, **change))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unknown_environment_is_named_once(tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out"
    with pytest.raises(NotFoundError, match="'worldsim/Nowhere-v0'") as caught:
        record(config(out, env_id="worldsim/Nowhere-v0", workers=workers))
    assert str(caught.value).count("worldsim/Nowhere-v0") == 1
    assert not out.exists()


class Flat(gym.Env[Any, Any]):
    """Observes numbers, not images."""

    observation_space = gym.spaces.Box(0, 1, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)


class OddActions(TinyRoom):
    """An action space that cannot be stored."""

    def __init__(self) -> None:
        super().__init__(size=8)
        self.action_space = gym.spaces.MultiBinary(3)


class Moody(TinyRoom):
    """Gives its pose now and then."""

    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        if self.np_random.random() < 0.5:
            del info["pose"]
        return (*rest, info)


class Strict(TinyRoom):
    """Forgets one of its libraries."""

    def __init__(self) -> None:
        import worldsim_has_no_such_module  # noqa: F401


class NoGeometry(TinyRoom):
    """Pixels only, and rewards."""

    def __init__(self) -> None:
        super().__init__(size=16, goal=True)

    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0], {}

    def step(self, action: Any) -> Any:
        return (*super().step(action)[:-1], {})


class Late(TinyRoom):
    """Shows every frame one step late: its frames and poses do not belong together."""

    def reset(self, **kwargs: Any) -> Any:
        self._shown, info = super().reset(**kwargs)
        return self._shown, info

    def step(self, action: Any) -> Any:
        now, *rest = super().step(action)
        late, self._shown = self._shown, now
        return (late, *rest)


for made in (Flat, OddActions, Moody, Strict, NoGeometry, Late):
    gym.register(f"recordtest/{made.__name__}-v0", entry_point=made)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"env_id": "recordtest/Flat-v0"},
            InvalidInputError,
            "Flat-v0 observes Box.*no uint8 image.*nor does it render",
        ),
        ({"env_id": "recordtest/OddActions-v0"}, InvalidInputError, "MultiBinary"),
        ({"env_id": "recordtest/Moody-v0"}, InvalidInputError, "some steps only"),
        ({"env_id": "recordtest/Strict-v0"}, MissingDependencyError, "worldsim_has_no_such_module"),
        (
            {"env_id": "worldsim_has_no_module:X-v0"},
            MissingDependencyError,
            "worldsim_has_no_module",
        ),
        ({"env_id": ROOM, "env_kwargs": {"colour": 1}}, InvalidInputError, "colour"),
        ({"env_id": ROOM, "policy": "clever"}, NotFoundError, "'clever'.*persistent"),
        ({"env_id": ROOM, "policy": "json:JSONDecoder"}, InvalidInputError, "JSONDecoder"),
        ({"env_id": ROOM, "reset_options": {"map": "attic"}}, NotFoundError, "'attic'"),
        (
            {"env_id": ROOM, "min_travel": 50.0, "episode_steps": 2},
            InvalidInputError,
            "64 episodes.*within 50.0 m.*min_travel",
        ),
    ],
)
def test_bad_input_is_named_and_leaves_no_dataset(
    tmp_path: Path, changes: dict[str, Any], error: Any, message: str
) -> None:
    settings = {"env_kwargs": {}} | changes
    with pytest.raises(error, match=message):
        record(config(tmp_path / "out", **settings))
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "name",
    ["frames", "workers", "episode_steps", "frames_per_shard", "episodes_per_map", "min_travel"],
)
def test_settings_out_of_range(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} = -1"):
        config(tmp_path, **{name: -1})


def test_pixels_only(tmp_path: Path) -> None:
    dataset = record(
        config(
            tmp_path,
            env_id="recordtest/NoGeometry-v0",
            env_kwargs={},
            min_travel=4.7,
            frames=2000,
            policy="random",
        )
    )
    assert not dataset.info.geometry and dataset.info.intrinsics is None
    assert dataset[0].pose is None
    # Every episode ends: at the pillar with a reward, or at the last step without.
    for episode in dataset:
        assert bool(episode.term[-2]) == (episode.rew[-2] == 1.0) != bool(episode.trunc[-2])


def test_continuous_actions(tmp_path: Path) -> None:
    dataset = record(config(tmp_path, env_kwargs={"size": 16, "continuous": True}, frames=100))
    assert dataset.info.action_space == {"type": "Box", "low": [-1.0, -1.0], "high": [1.0, 1.0]}
    assert dataset[0].act.shape == (51, 2) and dataset[0].act.dtype == np.float32
    check_alignment(dataset)


def test_a_misaligned_environment_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="recordtest/Late-v0: Frames and geometry are shifted"):
        record(config(tmp_path, env_id="recordtest/Late-v0"))


def test_short_walks_are_dropped(tmp_path: Path) -> None:
    dataset = record(config(tmp_path, min_travel=2.0, frames=800))
    reach = [np.linalg.norm(e.pose[:, :3, 3] - e.pose[0, :3, 3], axis=1).max() for e in dataset]
    assert min(reach) >= 2.0
    everything = record(config(tmp_path / "all", frames=800))
    reach = [np.linalg.norm(e.pose[:, :3, 3] - e.pose[0, :3, 3], axis=1).max() for e in everything]
    assert min(reach) < 2.0


def test_episodes_stay_on_a_map_for_a_while(tmp_path: Path) -> None:
    dataset = record(
        config(tmp_path, frames=800, frames_per_shard=800, episode_steps=24, episodes_per_map=4)
    )
    maps = [e.info["map"] for e in dataset]
    assert len(maps) == 32
    assert all(len(set(maps[i : i + 4])) == 1 for i in range(0, 32, 4)) and len(set(maps)) > 2
    fixed = record(config(tmp_path / "one", frames=100, reset_options={"map": "room-5"}))
    assert {e.info["map"] for e in fixed} == {"room-5"}


def test_a_worker_that_dies_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = (
        "    def __init__(self, space):\n        os._exit(9)\n    def reset(self, seed): ...\n    "
        "def act(self, obs): ...\n"
    )
    (tmp_path / "deadly.py").write_text(f"import os\n\n\nclass Policy:\n{methods}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WorldsimError, match="run the same command again"):
        record(config(tmp_path / "out", policy="deadly:Policy", workers=1))
    assert not (tmp_path / "out").exists()


def test_make_env_passes_the_environments_own_errors_on() -> None:
    with pytest.raises(InvalidInputError, match="size"):
        make_env(ROOM, {"size": 0})


def test_freedoom_is_aligned(tmp_path: Path) -> None:
    settings = config(
        tmp_path, env_id="worldsim/FreedoomReal-v0", env_kwargs={}, frames=300, episode_steps=149
    )
    dataset = record(settings)
    assert len(dataset) == 3 and dataset.info.geometry
    report = check_alignment(dataset)
    assert report.undecided == ()
    assert report.rgb_error[0] < 0.9 * min(report.rgb_error[-1], report.rgb_error[1])
    assert all(e.info["map"].startswith("freedoom") for e in dataset)


def test_a_saved_agent_records_and_is_told_from_its_later_self(tmp_path: Path) -> None:
    """Rounds: what the agent did before it learned more is another recording."""
    agent = save_agent(make_policy("random", gym.spaces.Discrete(7)), tmp_path / "agent")
    settings = config(tmp_path / "first", policy=str(agent), frames=51, frames_per_shard=51)
    dataset = record(settings)
    assert dataset.info.policy == "agent" and len(dataset.info.recording["policy_sha256"]) == 64
    assert checksums(record(settings).path) == checksums(dataset.path)
    (agent / "agent.json").write_text((agent / "agent.json").read_text() + "\n")
    with pytest.raises(InvalidInputError, match="policy_sha256.*another folder"):
        record(settings)
    with pytest.raises(InvalidInputError, match="Discrete"):
        make_policy(str(agent), gym.spaces.Discrete(3))


def freedoom(out: Path, **changes: Any) -> RecordConfig:
    """Four shards of one 33-frame episode in the real twin."""
    settings: dict[str, Any] = dict(
        env_id="worldsim/FreedoomReal-v0",
        env_kwargs={},
        frames=132,
        frames_per_shard=33,
        episode_steps=32,
        reset_options={"split": "train"},
    )
    return config(out, **(settings | changes))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("vizdoom", reason="the real twin needs the extra doom")
    return record(freedoom(tmp_path_factory.mktemp("recorded") / "undisturbed")).path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Actions come")  # so few frames decide nothing
@pytest.mark.parametrize(
    "victims", [("worker",), ("engine", "engines"), ("both",), ("stop",)], ids="-".join
)
def test_whoever_dies_or_hangs_the_recording_is_the_same(
    tmp_path: Path, undisturbed: Path, victims: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each victim is killed while shards are recorded; an engine that is stopped answers no
    more."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    with Killer(*victims, when=out.exists) as killer:
        record(freedoom(out, workers=2, engine_timeout_s=3.0 if victims == ("stop",) else 60.0))
    assert killer.killed == list(victims)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in undisturbed.iterdir()
    }
    killer.check_nothing_is_left()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class Crashing(TinyRoom):
    """Breaks down in the first step of every third seed: never, now and then, or always."""

    how_often = "never"
    crashes = 0

    def reset(self, **kwargs: Any) -> Any:
        fits = kwargs["seed"] % 3 == 0 and kwargs["seed"] > 0
        self._crashes = fits and (
            self.how_often == "always" or (self.how_often != "never" and Crashing.crashes % 3 != 2)
        )
        Crashing.crashes += fits
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        if self._crashes:
            raise RuntimeError("segmentation fault")
        return super().step(action)


gym.register("recordtest/Crashing-v0", entry_point=Crashing)


def test_what_breaks_down_is_played_again_and_dropped_only_if_it_does_so_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = {}
    for how_often in ("never", "now and then", "always"):
        monkeypatch.setattr(Crashing, "how_often", how_often)
        dropped = (
            r"broke down 4 times in a row \(RuntimeError: segmentation fault\): "
            r"episode \d of shard \d is dropped"
        )
        with (
            pytest.warns(UserWarning, match=dropped)
            if how_often == "always"
            else contextlib.nullcontext()
        ):
            datasets[how_often] = record(
                config(
                    tmp_path / how_often, frames=200, env_id="recordtest/Crashing-v0", env_kwargs={}
                )
            )
    assert Crashing.crashes > 0 and checksums(datasets["never"].path) == checksums(
        datasets["now and then"].path
    )
    assert all(episode.info["seed"] % 3 for episode in datasets["always"])
    assert not all(episode.info["seed"] % 3 for episode in datasets["never"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_leaves_what_is_there(tmp_path: Path, workers: int) -> None:
    whole = record(config(tmp_path, frames=100))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    shard = (whole.path / "shard-00000.safetensors").stat().st_size
    with (
        largest_file(shard // 2),
        pytest.raises(
            StorageError, match="shard-00001.safetensors cannot be written .*File too large"
        ),
    ):
        record(config(tmp_path, frames=200, workers=workers))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert len(record(config(tmp_path, frames=200)).shards) == 2


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(Player, "shard", lambda *_: pytest.fail("it was played"))
    with pytest.raises(
        StorageError,
        match="out cannot be written .Read-only file system.: choose a folder that can be written "
        "to",
    ):
        record(config(tmp_path / "out"))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        record(config(tmp_path / "file" / "out"))
