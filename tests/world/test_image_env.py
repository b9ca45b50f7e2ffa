"""Environments of many kinds as ones that observe images, and their real twins, in the real
engines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.helpers.worlds import make_tiny_world
from worldsim.data.record import RecordConfig, record
from worldsim.errors import InvalidInputError, MissingDependencyError, NotFoundError
from worldsim.runtime.json_config import from_json
from worldsim.training.config import PRESETS
from worldsim.world.image_env import (
    PATCH,
    PixelsConfig,
    as_dict,
    find_pixels,
    make_env,
    make_pixels,
    qualify,
    require_trainable,
)
from worldsim.world.twin import make_twin, require_same_spaces

TAKE_COVER = "VizdoomTakeCover-v1"


class Grey(gym.Env[Any, Any]):
    """Observes (8, 12) grey bytes, or what ``shape`` says; two images in a Dict with ``two``."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(
        self, shape: tuple[int, ...] = (8, 12), two: bool = False, render_mode: str | None = None
    ) -> None:
        image = gym.spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = gym.spaces.Dict({"left": image, "right": image}) if two else image
        self.action_space, self.render_mode, self.shape = gym.spaces.Discrete(2), render_mode, shape

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.arange(np.prod(self.shape), dtype=np.uint8).reshape(self.shape), {}

    def step(self, action: Any) -> Any:
        return self.reset()[0], 0.0, False, False, {}

    def render(self) -> Any:
        # Flipped, as MuJoCo renders.
        return np.arange(240, dtype=np.uint8).reshape(8, 10, 3)[::-1]


gym.register("pixelstest/Grey-v0", entry_point=Grey)


def test_a_rendered_view_that_is_flipped_becomes_an_array_that_pytorch_takes() -> None:
    env = make_pixels("pixelstest/Grey-v0", {}, PixelsConfig(render=True))
    for obs in (env.reset(seed=0)[0], env.step(0)[0]):
        assert torch.from_numpy(obs).shape == (8, 10, 3)
        assert (obs[0, 0] == [210, 211, 212]).all()


def test_a_part_of_a_dict_is_resized() -> None:
    """ViZDoom's screen, 240x320, to 64x48: the means of 5 x 6.67 pixels, as OpenCV's area
    interpolation has them."""
    pytest.importorskip("vizdoom")
    import cv2

    kwargs = {"frame_skip": 4}
    pixels = find_pixels(TAKE_COVER, kwargs, (48, 64))
    assert pixels == PixelsConfig((48, 64), "screen")
    env, plain = make_pixels(TAKE_COVER, kwargs, pixels), make_env(TAKE_COVER, kwargs)
    assert env.observation_space == gym.spaces.Box(0, 255, (48, 64, 3), np.uint8)
    seen, _ = env.reset(seed=3)
    screen = plain.reset(seed=3)[0]["screen"]
    np.testing.assert_array_equal(seen, cv2.resize(screen, (64, 48), interpolation=cv2.INTER_AREA))
    # 5 rows and 6.67 columns a pixel: a whole block of 15 x 20 is three pixels by three.
    np.testing.assert_allclose(seen[:3, :3].mean((0, 1)), screen[:15, :20].mean((0, 1)), atol=1.0)
    for act in (1, 1, 2):
        a, b = env.step(act), plain.step(act)
        assert a[1:4] == b[1:4]
    env.close(), plain.close()
    assert find_pixels(TAKE_COVER, kwargs) == PixelsConfig(None, "screen")


def test_an_image_is_resized_or_left_alone() -> None:
    pytest.importorskip("Box2D")
    assert (
        find_pixels("CarRacing-v3", {}) is None
        and find_pixels("CarRacing-v3", {}, (96, 96)) is None
    )
    env = make_pixels("CarRacing-v3", {}, find_pixels("CarRacing-v3", {}, (64, 64)))
    assert env.reset(seed=0)[0].shape == (64, 64, 3) and env.action_space.shape == (3,)
    env.close()
    assert make_pixels("CarRacing-v3", {}, None).observation_space.shape == (96, 96, 3)


def test_grey_becomes_colour() -> None:
    for shape in ((8, 12), (8, 12, 1)):
        pixels = find_pixels("pixelstest/Grey-v0", {"shape": shape})
        env = make_pixels("pixelstest/Grey-v0", {"shape": shape}, pixels)
        obs, _ = env.reset()
        assert env.observation_space.contains(obs) and obs.shape == (8, 12, 3)
        assert obs[1, 2].tolist() == [14, 14, 14]


def test_what_is_rendered_can_be_observed() -> None:
    pixels = find_pixels("CartPole-v1", {}, (40, 64), render=True)
    env = make_pixels("CartPole-v1", {}, pixels)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (40, 64, 3) and obs.dtype == np.uint8 and obs.std() > 1
    later = [env.step(1)[0] for _ in range(4)][-1]
    assert not np.array_equal(later, obs)
    env.close()


@pytest.mark.parametrize(
    ("env_id", "kwargs", "asked", "message"),
    [
        ("CartPole-v1", {}, {}, "CartPole-v1 observes Box.*record what it renders, with --render"),
        (
            "pixelstest/Grey-v0",
            {"two": True},
            {},
            "name the image with --key, one of 'left', 'right'",
        ),
        (
            "pixelstest/Grey-v0",
            {"two": True},
            {"key": "middle"},
            "has no image 'middle'.*images are one of 'left', 'right'",
        ),
        ("pixelstest/Grey-v0", {}, {"key": "left"}, "no Dict: leave out the key 'left'"),
        ("pixelstest/Grey-v0", {"shape": (2, 8, 12, 3)}, {}, "no uint8 image"),
        (
            "pixelstest/Grey-v0",
            {"shape": (7, 7, 3)},
            {"size": (64, 64)},
            "observes 7x7 numbers, too small.*--render --size 64 64",
        ),
        (
            "pixelstest/Grey-v0",
            {},
            {"render": True, "key": "left"},
            "key = 'left' names a part of the observation",
        ),
        ("pixelstest/Grey-v0", {}, {"size": (0, 64)}, "size = .0, 64.: height and width in pixels"),
    ],
)
def test_no_image_to_be_had(
    env_id: str, kwargs: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        find_pixels(env_id, kwargs, **asked)


def test_symbols_of_a_grid_are_no_picture() -> None:
    """Reproduces: MiniGrid's 7x7 cells of symbols (kind, colour, state) were recorded as if they
    were a picture.

    Its rendered frames, and pictures that a wrapper makes of the cells, are pictures.
    """
    pytest.importorskip("minigrid")
    import minigrid.wrappers as wrappers

    env_id = "MiniGrid-Empty-8x8-v0"
    with pytest.raises(
        InvalidInputError,
        match="7x7 numbers, the symbols of a grid.*--render --size 64 64.*RGBImgPartial",
    ):
        find_pixels(env_id, {}, (64, 64))
    pixels = find_pixels(env_id, {}, (64, 64), render=True)
    env = make_pixels(env_id, {}, pixels)
    assert env.reset(seed=0)[0].shape == (64, 64, 3)
    env.close()
    for name, wrapper, fine in (
        ("Seen", wrappers.RGBImgPartialObsWrapper, True),
        ("All", wrappers.FullyObsWrapper, False),
    ):
        gym.register(
            f"pixelstest/{name}-v0",
            lambda wrapper=wrapper, **kw: wrapper(gym.make(f"minigrid:{env_id}", **kw)),
        )
        if fine:
            assert find_pixels(f"pixelstest/{name}-v0", {}) == PixelsConfig(None, "image")
        else:
            with pytest.raises(InvalidInputError, match="8x8 numbers, the symbols"):
                find_pixels(f"pixelstest/{name}-v0", {})


def test_sizes_that_can_be_trained_on() -> None:
    """Reproduces: ``--size 60 60`` was taken by record, and an hour later refused by train. One
    rule for all presets."""
    for preset in PRESETS.values():
        assert PATCH % (preset.get("fold", 1) * 2 ** len(preset["levels"])) == 0
    require_trainable((64, 96), "it")
    with pytest.raises(
        InvalidInputError, match="60x60 pixels.*multiples of 8. The nearest such size: --size 64 64"
    ):
        RecordConfig("worldsim/TinyRoom-v0", Path("out"), size=(60, 60))
    with pytest.raises(InvalidInputError, match="210x160.*--size 208 160"):
        require_trainable((210, 160), "ALE/Pong-v5")


def test_an_environment_of_another_size_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    config = RecordConfig(
        "worldsim/TinyRoom-v0", tmp_path / "out", frames=40, workers=0, env_kwargs={"size": 20}
    )
    with pytest.raises(
        InvalidInputError, match="TinyRoom-v0 has frames of 20x20 pixels.*--size 16 16"
    ):
        record(config)
    assert not (tmp_path / "out").exists()


def test_known_ids_need_no_module() -> None:
    assert qualify(TAKE_COVER) == f"vizdoom.gymnasium_wrapper:{TAKE_COVER}"
    assert (
        qualify(qualify(TAKE_COVER)) == qualify(TAKE_COVER)
        and qualify("CarRacing-v3") == "CarRacing-v3"
    )
    with pytest.raises((MissingDependencyError, NotFoundError), match="VizdoomNoSuch|vizdoom"):
        make_env("VizdoomNoSuch-v1", {})
    with pytest.raises(NotFoundError, match="module:Name-v0"):
        make_env("NoSuchThing-v0", {})


def test_pixels_are_plain_values() -> None:
    for pixels in (PixelsConfig((48, 64), "screen"), PixelsConfig(None, None, True)):
        assert from_json(PixelsConfig, as_dict(pixels)) == pixels  # type: ignore[arg-type]
    assert as_dict(None) is None


def test_a_world_makes_its_twin() -> None:
    """Of the room it was made for; of another size, or with other actions, it says what differs."""
    world = make_tiny_world()
    twin = make_twin(world, max_episode_steps=3)
    assert (twin.observation_space, twin.action_space) == (
        world.observation_space,
        world.action_space,
    )
    twin.reset(seed=0)
    assert [twin.step(0)[3] for _ in range(3)] == [False, False, True]
    larger = make_tiny_world(env_kwargs={"size": 64})
    with pytest.raises(
        InvalidInputError,
        match=r"space is Box\(0, 255, \(32, 32, 3\).*\(64, 64, 3\).*as it was recorded",
    ):
        make_twin(larger)
    resized = dataclasses.replace(larger.config, pixels=PixelsConfig((32, 32)))
    larger.config = resized
    assert make_twin(larger).reset(seed=0)[0].shape == (32, 32, 3)
    with pytest.raises(
        InvalidInputError, match=r"action space is Box\(-1.0, 1.0, \(2,\).*Discrete\(7\)"
    ):
        require_same_spaces(make_tiny_world(action_dim=2), twin, "it")
    with pytest.raises(InvalidInputError, match="does not name its real twin"):
        make_twin(make_tiny_world(env_id=""))
    with pytest.raises(NotFoundError, match="No environment"):
        make_twin(make_tiny_world(env_id="worldsim/Nothing-v0"))


def test_the_recording_remembers(tmp_path: Path) -> None:
    """ViZDoom's time limit, its death and its missing last picture, as they are."""
    pytest.importorskip("vizdoom")
    kwargs: dict[str, Any] = {"frame_skip": 4, "max_episode_steps": 30}
    config = RecordConfig(
        TAKE_COVER,
        tmp_path,
        frames=62,
        workers=0,
        env_kwargs=kwargs,
        size=(16, 16),
        episode_steps=60,
        fps=8.75,
        policy="random",
    )
    dataset = record(config)
    info = dataset.info
    assert info.env_id == f"vizdoom.gymnasium_wrapper:{TAKE_COVER}" and info.env_kwargs == kwargs
    assert info.pixels == {"size": [16, 16], "key": "screen", "render": False} and info.fps == 8.75
    assert info.observation_space["shape"] == [16, 16, 3] and info.action_space == {
        "type": "Discrete",
        "n": 3,
    }
    for episode in dataset:
        assert len(episode) <= 31 and (episode.term[-2] or episode.trunc[-2])
        assert set(episode.rew[:-2].tolist()) == {4.0}
        # Dead within 30 steps or cut off then; only the dead have no picture.
        assert bool(episode.rgb[-1].any()) == bool(episode.trunc[-2])
