"""What stands in a file is data: hostile worlds, agents and datasets run nothing, whatever opens
them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from huggingface_hub import errors as hub_errors

from tests.helpers.worlds import make_tiny_world
from worldsim.agents.actor_critic_policy import ActorCriticPolicy
from worldsim.app.cli import main
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError, UntrustedFileError
from worldsim.runtime.json_config import read_json, write_sealed
from worldsim.runtime.registries import POLICIES
from worldsim.shipped.agent_files import AgentCard, load_agent, save_agent
from worldsim.world import World
from worldsim.world.files import find_world, write_card
from worldsim.world.twin import WORDS, allow_words, check_twin, make_twin

PAYLOAD = """
import pathlib
pathlib.Path({canary!r}).write_text("imported")
import gymnasium
import worldsim.envs.tiny_room
gymnasium.register("Y-v0", entry_point="worldsim.envs.tiny_room:TinyRoom")
class Policy:
    def __init__(self, space): pass
    def reset(self, seed=None): pass
    def act(self, obs): return 0
"""


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once code from a file has run: the module ``payload`` lies where Python
    looks for modules."""
    path = tmp_path / "ran"
    (tmp_path / "payload.py").write_text(PAYLOAD.format(canary=str(path)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "payload", raising=False)
    yield path
    sys.modules.pop("payload", None)
    gym.registry.pop("Y-v0", None)


def hostile(folder: Path, **config: Any) -> Path:
    """A world with geometry and rewards, otherwise in order, whose ``world.json`` says something of
    an attacker's choice."""
    return make_tiny_world(rewards=True, **config).save_pretrained(folder)


def attacks(canary: Path) -> list[dict[str, Any]]:
    command = f"os:system:touch {canary}"
    dream = {"env_id": "worldsim/FreedoomDream-v0", "env_kwargs": {"scenes": command}}
    return [
        dream,
        {
            "env_id": "worldsim/Dream-v0",
            "env_kwargs": {"world": "freedoom-tiny", "scenes": command},
        },
        {"env_id": "payload:Y-v0", "env_kwargs": {}},
        {
            "env_id": "vizdoom.gymnasium_wrapper:VizdoomBasic-v1",
            "env_kwargs": {"scenario_config_file": str(canary)},
        },
        {"env_id": "CarRacing-v3", "env_kwargs": {"entry_point": "payload:Policy"}},
        # A number is a path, too: the program "7" in the present folder.
        {"env_id": "VizdoomBasic-v1", "env_kwargs": {"vizdoom_path": 7}},
        {"env_id": "VizdoomBasic-v1", "env_kwargs": {"doom_config_path": True}},
    ]


@pytest.mark.parametrize("number", range(7))
def test_no_command_runs_what_a_world_names(
    tmp_path: Path, canary: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = attacks(canary)[number]
    folder = str(hostile(tmp_path / "world", **attack))
    common = ["--workers", "0", "--episodes", "1"]
    for command in (
        ["evaluate", folder, *common],
        ["evaluate", folder, "--protocol", "return-trip", *common],
        ["demo", "--world", folder, "--out", str(tmp_path / "demo")],
        ["watch", "random", "--world", folder, "--out", str(tmp_path / "film.mp4")],
        ["evaluate-agent", "random", "--world", folder, *common],
        ["agreement", folder, *common],
    ):
        assert main(command) == 2, command
        assert "trust" in capsys.readouterr().err
    with pytest.raises(UntrustedFileError):
        make_twin(World.from_pretrained(folder))
    assert not canary.exists() and "payload" not in sys.modules


def test_trust_is_the_users(tmp_path: Path, canary: Path) -> None:
    """With it, the same world runs the code: so the tests above would notice."""
    folder = hostile(tmp_path / "world", env_id="payload:Y-v0", env_kwargs={"size": 32})
    env = make_twin(World.from_pretrained(folder, trust=True))
    assert canary.read_text() == "imported" and env.observation_space.shape == (32, 32, 3)
    # What is registered by now may be named with its module: nothing needs importing.
    assert check_twin("payload:Y-v0", {}, "it") == "Y-v0"


@pytest.mark.parametrize(
    "kind", ["payload:Policy", "os:system", "subprocess:Popen", "payload", "", "torch.nn:Linear"]
)
def test_an_agents_kind_is_looked_up(tmp_path: Path, canary: Path, kind: str) -> None:
    space = gym.spaces.Discrete(3)
    folder = save_agent(ActorCriticPolicy(space, (16, 16, 3), hidden=8), tmp_path / "agent")
    card = read_json(folder / "agent.json")
    write_sealed(folder / "agent.json", card | {"kind": kind, "settings": {}})
    with pytest.raises(UntrustedFileError, match="--trust"):
        load_agent(folder)
    assert not canary.exists()
    if kind == "payload:Policy":
        assert load_agent(folder, trust=True).act(None) == 0 and canary.exists()


def test_classes_of_ones_own_can_be_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(ActorCriticPolicy):
        pass

    monkeypatch.setattr(POLICIES, "_entries", dict(POLICIES._entries))
    folder = save_agent(Mine(gym.spaces.Discrete(3), (16, 16, 3), hidden=8), tmp_path / "agent")
    with pytest.raises(UntrustedFileError, match="Mine"):
        load_agent(folder)
    POLICIES.register("mine", Mine)
    assert type(load_agent(folder)) is Mine


def test_a_card_names_shipped_worlds_and_those_inside_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_tiny_world(rewards=True)
    world.save_pretrained(tmp_path / "world")
    policy = ActorCriticPolicy(gym.spaces.Discrete(7), (32, 32, 3), hidden=8)
    folder = save_agent(policy, tmp_path / "agent", AgentCard(world=str(tmp_path / "world")))
    arguments = [
        "evaluate-agent",
        str(folder),
        "--episodes",
        "1",
        "--workers",
        "0",
        "--max-steps",
        "2",
    ]
    for name in (str(tmp_path / "world"), "../world", "hub:someone/else", "someone/else"):
        save_agent(policy, folder, AgentCard(world=name))
        assert main(arguments) == 2
        assert "neither shipped nor inside that folder" in capsys.readouterr().err
    assert main([*arguments, "--world", str(tmp_path / "world")]) == 0
    world.save_pretrained(folder / "world")
    save_agent(policy, folder, AgentCard(world="world"))
    assert main(arguments) == 0


def test_arguments_from_files_are_numbers_and_known_words(monkeypatch: pytest.MonkeyPatch) -> None:
    good = {
        "continuous": True,
        "lap_complete_percent": 0.95,
        "domain_randomize": None,
        "render_mode": "rgb_array",
    }
    assert check_twin("CarRacing-v3", good, "it") == "CarRacing-v3"
    assert (
        check_twin("worldsim/TinyRoom-v0", {"size": [32, 48], "max_episode_steps": 9}, "it")
        == "worldsim/TinyRoom-v0"
    )
    assert (
        check_twin("VizdoomBasic-v1", {"frame_skip": 4}, "it")
        == "vizdoom.gymnasium_wrapper:VizdoomBasic-v1"
    )
    for name, value in (
        ("render_mode", "human"),
        ("lap_complete_percent", float("nan")),
        ("lap_complete_percent", 10**9),
        ("lap_complete_percent", 10**400),
        ("lap_complete_percent", ["a"]),
        ("lap_complete_percent", [0] * 65),
        ("lap_complete_percent", {"a": 1}),
        ("gravity", 1),
        ("__class__", 1),
        ("additional_wrappers", None),
    ):
        with pytest.raises(UntrustedFileError, match=name):
            check_twin("CarRacing-v3", {name: value}, "it")
    monkeypatch.setattr("worldsim.world.twin.WORDS", {k: dict(v) for k, v in WORDS.items()})
    allow_words("CarRacing", domain_randomize=("much",))
    check_twin("CarRacing-v3", {"domain_randomize": "much"}, "it")
    with pytest.raises(NotFoundError, match="registered with Gymnasium"):
        check_twin("Nothing-v0", {}, "it")
    with pytest.raises(UntrustedFileError, match="import the module 'ale_py'"):
        check_twin("ale_py:Nothing-v0", {}, "it")


def test_the_hub_is_asked_by_its_prefix_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []
    cache = tmp_path / "models--me--mine" / "snapshots" / "0123abc"
    make_tiny_world().save_pretrained(cache)
    # The hub's cache holds links to blobs beside it.
    blobs = cache.parent.parent / "blobs"
    blobs.mkdir()
    weights = cache / "dynamics" / "diffusion_pytorch_model.safetensors"
    shutil.move(weights, blobs / "abc")
    weights.symlink_to("../../../blobs/abc")

    def download(name: str, revision: str | None = None, allow_patterns: Any = None) -> str:
        asked.append((name, revision))
        if name != "me/mine":
            raise hub_errors.LocalEntryNotFoundError("no such repository")
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(NotFoundError, match="hub:me/mine"):
        World.from_pretrained("me/mine")
    assert asked == []
    world = World.from_pretrained("hub:me/mine@v1")
    assert asked == [("me/mine", "v1")] and "source" not in world.card
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert World.from_pretrained("hub:me/mine@v1").card["source"] == "hub:me/mine@0123abc"
    assert World.from_pretrained("hub:me/mine", revision="0123abc").folder == cache
    with pytest.raises(NotFoundError, match="'me/other' on the hub"):
        find_world("hub:me/other")
    for name, revision in (
        ("hub:mine", None),
        ("hub:me/mine@", None),
        ("hub:me/mine@a", "b"),
        ("hub:../mine", None),
        ("me", "a"),
    ):
        with pytest.raises(InvalidInputError):
            find_world(name, revision)


def test_files_of_a_world_lie_in_its_folder(tmp_path: Path) -> None:
    world = make_tiny_world()
    folder = world.save_pretrained(tmp_path / "world")
    weights = folder / "dynamics" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, tmp_path / "elsewhere")
    weights.unlink()
    weights.symlink_to("../../elsewhere")
    with pytest.raises(DamagedFileError, match="leads out of"):
        World.from_pretrained(folder)
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(DamagedFileError, match="FIFO"):
        World.from_pretrained(folder)
    weights.unlink()
    weights.symlink_to("/dev/zero")
    with pytest.raises(DamagedFileError, match="leads out of"):
        World.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(NotFoundError, match="copy the folder again"):
        World.from_pretrained(folder)


def test_no_link_is_followed_to_the_hub(
    world_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "world"
    shutil.copytree(world_folder, folder)
    world = World.from_pretrained(folder)
    uploaded: list[Path] = []

    class Api:
        def create_repo(self, *arguments: Any, **named: Any) -> None: ...

        def upload_folder(self, repo_id: str, folder_path: str) -> str:
            uploaded.extend(
                path.relative_to(folder_path)
                for path in Path(folder_path).rglob("*")
                if path.is_file()
            )
            return "address"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert world.push_to_hub("me/mine") == "address"
    assert Path("scenes/room-6-1/scene.json") in uploaded and Path("world.json") in uploaded
    (folder / "scenes" / "passwd").symlink_to("/etc/passwd")
    uploaded.clear()
    with pytest.raises(DamagedFileError, match="leads out of"):
        world.push_to_hub("me/mine")
    assert uploaded == []
    # The folder of the scenes itself, too.
    shutil.rmtree(folder / "scenes")
    (folder / "scenes").symlink_to(world_folder / "scenes")
    for leak in (lambda: world.push_to_hub("me/mine"), lambda: WorldEnv(world)):
        with pytest.raises(DamagedFileError, match="leads out of"):
            leak()
    assert main(["export", str(folder), "--out", str(tmp_path / "copy")]) == 2
    assert uploaded == [] and not (tmp_path / "copy").exists()


def test_processes_import_nothing_from_the_present_folder(
    goal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would look there first: the folder may be the world's."""
    place = tmp_path / "world"
    shutil.copytree(goal_folder, place)
    for name in ("multiprocessing", "gymnasium", "numpy", "torch"):
        (place / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'w').write('ran')\nraise SystemExit(3)\n"
        )
    command = [
        sys.executable,
        "-P",
        "-c",
        "import sys; from worldsim.app.cli import main; sys.exit(main())",
        "evaluate-agent",
    ]
    command += [
        "random",
        "--world",
        ".",
        "--episodes",
        "2",
        "--workers",
        "2",
        "--max-steps",
        "2",
        "--bootstrap",
        "2",
    ]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_folder_named_like_a_repository_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(*arguments: Any, **named: Any) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    folder = save_agent(
        ActorCriticPolicy(gym.spaces.Discrete(7), (32, 32, 3), hidden=8),
        tmp_path,
        AgentCard(world="hub:evil/w"),
    )
    make_tiny_world(rewards=True).save_pretrained(folder / "hub:evil" / "w")
    monkeypatch.chdir(folder)
    arguments = [
        "evaluate-agent",
        ".",
        "--episodes",
        "1",
        "--workers",
        "0",
        "--max-steps",
        "2",
        "--bootstrap",
        "2",
    ]
    assert main(arguments) == 0, capsys.readouterr().err


def test_names_from_files_do_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_tiny_world()
    path = world.save_pretrained(tmp_path) / "world.json"
    values = read_json(path)
    write_sealed(path, values | {"sha256": {"\x1b]0;owned\x07": "0" * 64}})
    assert main(["evaluate", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "owned" in told and "\x1b" not in told and "\x07" not in told


def test_a_flipped_bit_is_found_in_every_file(world_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(world_folder, folder)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "scenes" not in p.parts):
        content = path.read_bytes()
        for place in (len(content) // 3, len(content) * 2 // 3):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(DamagedFileError):
                World.from_pretrained(folder)
        path.write_bytes(content)
    World.from_pretrained(folder)


def test_worlds_of_version_1_load_without_checksums(tmp_path: Path) -> None:
    world = make_tiny_world()
    path = world.save_pretrained(tmp_path) / "world.json"
    values = json.loads(path.read_text())
    path.write_text(
        json.dumps({k: values[k] for k in ("format", "config", "card")} | {"version": 1})
    )
    assert World.from_pretrained(tmp_path).weights_id == world.weights_id


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("dynamics", {"dim": 60_000}),
        ("dynamics", {"dim": 10**9}),
        ("dynamics", {"depth": 65}),
        ("dynamics", {"window": 0}),
        ("dynamics", {"window": 65_000}),
        ("dynamics", {"heads": 0}),
        ("dynamics", {"fold": 0}),
        ("dynamics", {"levels": []}),
        ("dynamics", {"depth": 10**9}),
        ("dynamics", {"levels": [8] * 100}),
        ("dynamics", {"window": -1}),
        ("dynamics", {"heads": "2"}),
        ("dynamics", {"surprise": 1}),
        ("outcome", {"hidden": 10**9}),
        ("ego_motion", {"rank": 60_000}),
        ("ego_motion", {"_class_name": "OutcomeHead"}),
    ],
)
def test_sizes_that_a_file_claims_are_compared_with_its_weights(
    tmp_path: Path, part: str, change: dict[str, Any]
) -> None:
    """Before any memory is taken: 60,000 wide layers would be 14 GB each."""
    world = make_tiny_world()
    world.save_pretrained(tmp_path)
    path = tmp_path / part / "config.json"
    path.write_text(json.dumps(read_json(path) | change))
    write_card(tmp_path, world.config, world.card)
    with pytest.raises(DamagedFileError, match="config.json"):
        World.from_pretrained(tmp_path)


def test_weights_are_finite(tmp_path: Path) -> None:
    world = make_tiny_world()
    with torch.no_grad():
        next(world.network.parameters()).flatten()[0] = float("nan")
    world.save_pretrained(tmp_path)
    with pytest.raises(DamagedFileError, match="NaN or infinite"):
        World.from_pretrained(tmp_path)
