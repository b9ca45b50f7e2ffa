"""Adapters of video models: trained on clips, run by peft, and the model's bits without them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.recordings import recording
from tests.helpers.video_pipelines import PIPELINES, TEXT
from tests.helpers.video_worlds import FORWARD, SIZE, Brightness, scene
from worldsim.data.dataset import EpisodeDataset
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.memory.slots import PointMemoryConfig
from worldsim.pretrained.adapter import ClipConfig, VideoAdapter
from worldsim.pretrained.clips import RecordedClips
from worldsim.pretrained.dynamics import PretrainedDynamics
from worldsim.pretrained.loading import model_of
from worldsim.pretrained.lora import ACTION_INPUT
from worldsim.pretrained.lora_training import (
    LOSSES,
    Clip,
    LoraConfig,
    capture,
    train_lora,
)
from worldsim.pretrained.worlds import world_of
from worldsim.protocols import VideoInputs, VideoSpec
from worldsim.state import checksum, weights_of_parts
from worldsim.world.adapters import CONFIG, WEIGHTS

pytest.importorskip("peft", reason="needs the extra adapter")
pytest.importorskip("transformers", reason="needs the extra pretrained")

FRAMES = {"wan-vace": 4, "stable-video": 2}


def model_named(name: str) -> VideoAdapter:
    clip = ClipConfig(past=1, frames=FRAMES[name], num_inference_steps=1)
    embeddings = torch.randn(1, 6, TEXT, generator=torch.Generator().manual_seed(0))
    arguments = {"prompt_embeds": embeddings} if name == "wan-vace" else {}
    model: Any = model_of(PIPELINES[name](), clip, arguments)
    return model


def clip_of(name: str, act: int = 2) -> Clip:
    generator = torch.Generator().manual_seed(0)

    def noise(count: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, 3, 64, 64), generator=generator).to(torch.uint8)

    known = torch.ones(FRAMES[name], 64, 64, dtype=torch.bool)
    motion = torch.tensor([0.0, 0, 0.1, 0, 0, 0])
    inputs = VideoInputs(noise(1), noise(FRAMES[name]), known, None, 5, torch.tensor(act), motion)
    return Clip(inputs, noise(FRAMES[name]))


def loss_of(model: VideoAdapter, clip: Clip) -> float:
    video = torch.cat([clip.inputs.past, clip.frames]).float() / 255
    with torch.no_grad(), model.acting(clip.inputs):
        found = LOSSES[model.name](
            model, capture(model, clip.inputs), video, torch.Generator().manual_seed(1)
        )
    return float(found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of wan-vace with an action input, of a few steps."""
    out = tmp_path_factory.mktemp("lora") / "ice"
    config = LoraConfig(rank=1, steps=6, actions=7, learning_rate=0.1)
    return train_lora(model_named("wan-vace"), [clip_of("wan-vace")], out, config)


@pytest.mark.parametrize("name", FRAMES)
def test_it_is_trained_beside_the_model(name: str, tmp_path: Path) -> None:
    """The model keeps its bits; the adapter lowers the loss of its clip, and can be turned off."""
    model, clip = model_named(name), clip_of(name)
    weights, own = checksum(weights_of_parts(model.pipeline.components)), model.identify()
    before, loss = model.generate(clip.inputs), loss_of(model, clip)
    config = LoraConfig(rank=1, steps=8, actions=7, learning_rate=0.05)
    out = train_lora(model, [clip], tmp_path / "ice", config)
    assert checksum(weights_of_parts(model.pipeline.components)) == weights
    assert {p.name for p in out.iterdir()} == {CONFIG, WEIGHTS, ACTION_INPUT}
    assert sum(p.stat().st_size for p in out.iterdir()) < 100_000
    assert bool(load_file(out / ACTION_INPUT)["weight"].any())

    key = model.load_adapter(out)
    assert model.spec.action and torch.equal(model.generate(clip.inputs), before)
    model.use_adapters({key: 1.0})
    assert loss_of(model, clip) < loss
    with model.acting(clip.inputs):
        changed = model.generate(clip.inputs)
    assert not torch.equal(changed, before)
    model.use_adapters({})
    assert torch.equal(model.generate(clip.inputs), before) and model.identify() == own


def test_worlds_scale_and_stack_them(trained: Path, tmp_path: Path) -> None:
    """Twice half an adapter is the adapter; worlds that share a model keep their own scales."""
    copied = tmp_path / "same"
    shutil.copytree(trained, copied)
    tensors = load_file(copied / WEIGHTS)
    # Another file with the same numbers.
    save_file(tensors, copied / WEIGHTS, {"format": "pt", "copy": "1"})
    dynamics = PretrainedDynamics(model_named("wan-vace"), Brightness(), SIZE, SIZE, actions=7)
    plain = world_of(dynamics)

    def first(**settings: Any) -> np.ndarray:
        env = gym.make("worldsim/PretrainedDream-v0", pipeline=plain, scenes=scene(), **settings)
        env.reset(seed=3)
        return env.step(FORWARD)[0].astype(int)

    before = first()
    whole = first(adapters=str(trained))
    assert np.abs(whole - before).max() > 2
    halves = first(adapters={str(trained): 0.5, str(copied): 0.5})
    assert np.abs(halves - whole).max() <= 2
    np.testing.assert_array_equal(first(adapters={str(trained): 0.0}), before)
    np.testing.assert_array_equal(first(), before)
    adapted = plain.with_adapters(trained)
    assert plain.adapters == {} and adapted.adapters == {"ice": 1.0}
    assert plain.weights_id != adapted.weights_id
    with pytest.raises(InvalidInputError, match="cannot be fused"):
        adapted.fuse_adapters()


def test_what_does_not_fit_is_refused(trained: Path, tmp_path: Path) -> None:
    model = model_named("wan-vace")
    for content, error, text in (
        ({"bias": torch.zeros(2)}, DamagedFileError, "one matrix 'weight'"),
        ({"weight": torch.zeros(3, 13)}, InvalidInputError, r"shape \(3, 13\), and this model"),
    ):
        bad = tmp_path / text[:3]
        shutil.copytree(trained, bad)
        save_file(content, bad / ACTION_INPUT)
        with pytest.raises(error, match=text):
            model.load_adapter(bad)
    other = model_named("stable-video")
    with pytest.raises(InvalidInputError, match="changes transformer.blocks.0.* does not have"):
        other.load_adapter(trained)
    key = model.load_adapter(trained)
    model.use_adapters({key: 1.0})
    strange = clip_of("wan-vace", act=7).inputs
    with pytest.raises(InvalidInputError, match="7 actions.*action 7"), model.acting(strange):
        pass
    with pytest.raises(InvalidInputError, match="rank 9 has .* at most 3 fits"):
        train_lora(model_named("wan-vace"), [clip_of("wan-vace")], tmp_path, LoraConfig(rank=9))
    with pytest.raises(InvalidInputError, match="no clips"):
        train_lora(model, [], tmp_path, LoraConfig())
    model.name = "mine"  # type: ignore[misc]
    with pytest.raises(InvalidInputError, match="mine models cannot be trained here, only of wan"):
        train_lora(model, [clip_of("wan-vace")], tmp_path, LoraConfig())


def test_clips_of_a_recording_show_the_memory_of_their_past(tmp_path: Path) -> None:
    """In a still room the memory of the past frames shows most of the frames that follow."""
    dataset = EpisodeDataset(recording(tmp_path / "rooms"))
    spec = VideoSpec(past=5, frames=4)
    clips = RecordedClips(dataset, spec, 3, PointMemoryConfig(capacity=8192))
    assert len(clips) == 3
    clip, episode = clips[1], dataset[clips.moments[1][0]]
    start = clips.moments[1][1]
    np.testing.assert_array_equal(clip.frames.permute(0, 2, 3, 1), episode.rgb[start + 5 :][:4])
    assert clip.inputs.act == episode.act[start + 4]
    known = clip.inputs.known[0]
    assert known.float().mean() > 0.3
    error = (clip.inputs.control[0].float() - clip.frames[0]).abs().mean(0)[known]
    assert error.mean() < 0.5 * clip.frames[0].float().std()
    with pytest.raises(InvalidInputError, match="0 moments with 128 frames"):
        RecordedClips(dataset, VideoSpec(past=64, frames=64), 3)
