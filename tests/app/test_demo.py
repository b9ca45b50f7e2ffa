"""The demo on TinyRoom as the real twin: everything is written, readable and true of the walk."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from worldsim.app import demo as module
from worldsim.app.demo import PAUSE, DemoConfig, choose_walk, demo
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.envs.doom import ACTIONS
from worldsim.errors import InvalidInputError, MissingDependencyError
from worldsim.evaluation.trip_recording import UNDO
from worldsim.io.pictures import contact_sheet, depth_picture, enlarge, holes_marked
from worldsim.world import World
from worldsim.world.config import WorldConfig
from worldsim.world.heads import EgoMotionHead

SIZE = 16


def tiny_world(env_id: str = "worldsim/TinyRoom-v0", **env_kwargs: Any) -> World:
    torch.manual_seed(0)
    network = SpaceTimeTransformer(
        height=SIZE, width=SIZE, dim=16, depth=1, heads=2, levels=(8, 8), window=3
    )
    config = WorldConfig(
        env_id=env_id, env_kwargs={"size": SIZE, **env_kwargs}, intrinsics=(8.0, 8.0, 8.0, 8.0)
    )
    return World(network, config, EgoMotionHead())


def test_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = DemoConfig(out=tmp_path / "demo", world="tiny", history=36, outward=12)
    metrics = demo(config, tiny_world())
    assert sorted(p.name for p in config.out.iterdir()) == [
        "memory.ply",
        "memory.ply.provenance.json",
        "metrics.json",
        "rollout.mp4",
        "rollout.mp4.provenance.json",
        "rollout.png",
        "rollout.png.provenance.json",
    ]
    assert json.loads((config.out / "metrics.json").read_text()) == metrics
    dreamed = 2 * 12 + PAUSE
    assert metrics["dreamed_frames"] == dreamed and set(metrics["psnr_at"]) == {
        "1",
        "8",
        "24",
        str(dreamed),
    }
    assert 0.0 <= metrics["memory_coverage"] <= 1.0 and metrics["memory_points"] > 0
    with av.open(str(config.out / "rollout.mp4")) as video:
        frames = [frame for frame in video.decode(video=0)]
        assert video.streams.video[0].codec_context.name == "h264"
        # The exact rate, not the whole number of the environment's metadata.
        assert video.streams.video[0].average_rate == Fraction(35, 4)
    assert len(frames) == 36 + dreamed
    with Image.open(config.out / "rollout.png") as picture:
        assert picture.width > 12 * 3 * SIZE and picture.height > 4 * 3 * SIZE
    assert (config.out / "memory.ply").read_bytes().startswith(b"ply")
    said = capsys.readouterr().out
    assert f"{metrics['psnr']} dB on average" in said and "rollout.mp4" in said


def test_the_walk_comes_back() -> None:
    walk = choose_walk(DemoConfig(history=36, outward=12), tiny_world())
    back = (walk.pose[-1, :3, 3] - walk.pose[35, :3, 3]).norm().item()
    far = (walk.pose[35:, :3, 3] - walk.pose[35, :3, 3]).norm(dim=-1).max().item()
    assert back < 0.5 < far
    out, home = walk.act[35:47].tolist(), walk.act[47 + PAUSE :].tolist()
    assert [UNDO[a] for a in reversed(out)] == home
    assert walk.act[47 : 47 + PAUSE].tolist() == [0] * PAUSE


def test_reversed_actions_undo() -> None:
    undone = {
        "no-op": "no-op",
        "forward": "backward",
        "turn left": "turn right",
        "strafe left": "strafe right",
    }
    undone |= {b: a for a, b in undone.items()}
    assert [ACTIONS[i] for i in UNDO] == [undone[name] for name in ACTIONS]


def test_without_the_real_twin_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(*_: Any) -> Any:
        raise MissingDependencyError("it needs vizdoom: pip install '.[doom]'")

    monkeypatch.setattr(module, "make_env", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[doom\]'"):
        demo(DemoConfig(out=tmp_path / "demo", world="tiny"), tiny_world())
    assert not (tmp_path / "demo").exists()


def test_other_action_spaces_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"Discrete\(7\)"):
        choose_walk(DemoConfig(), tiny_world(continuous=True))
    with pytest.raises(InvalidInputError, match="outward = 1"):
        DemoConfig(outward=1)


def test_pictures_by_hand() -> None:
    assert enlarge(np.arange(6, dtype=np.uint8).reshape(1, 2, 3), 2)[:, :, 0].tolist() == [
        [0, 0, 3, 3],
        [0, 0, 3, 3],
    ]
    near, half, far = depth_picture(np.array([[0.0, 4.0, np.inf]]))[0].tolist()
    assert near == [255, 244, 200] and far == [0, 0, 0]
    # Half way along six colours: between the third and the fourth.
    assert half == [155, 52, 98]
    marked = holes_marked(
        np.full((2, 4, 3), 9, np.uint8), np.array([[True, False, False, False]] * 2)
    )
    assert marked[0, :, 0].tolist() == [9, 64, 88, 88]
    tile = np.full((64, 64, 3), 200, np.uint8)
    sheet = contact_sheet({"one": [tile, None], "two": [tile, tile]}, ["a", "b"], scale=3)
    assert sheet.shape[0] >= 2 * 192 and (sheet == 200).all(-1).sum() == 3 * 192 * 192
    with pytest.raises(InvalidInputError, match="2 pictures a row"):
        contact_sheet({"one": [tile]}, ["a", "b"])


@pytest.mark.parametrize(
    "changes", [{"history": 1}, {"outward": 10**9}, {"seed": -1}, {"num_inference_steps": 0}]
)
def test_numbers_out_of_range(changes: dict[str, int]) -> None:
    with pytest.raises(InvalidInputError, match=f"DemoConfig.{next(iter(changes))}"):
        DemoConfig(**changes)  # type: ignore[arg-type]
