"""Pretrained models by name: pinned, checked before they are read, and saved by name only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.helpers.pipelines import tiny_depth, tiny_inpainting
from tests.helpers.video_pipelines import TEXT, stable_video, wan_vace
from worldsim.app.worlds import WorldsConfig, worlds
from worldsim.errors import (
    InvalidInputError,
    NotFoundError,
    OutOfMemoryError,
    UntrustedFileError,
)
from worldsim.pretrained import loading
from worldsim.pretrained.adapter import ClipConfig
from worldsim.pretrained.loading import (
    Offload,
    PretrainedSource,
    adapter_of,
    check_free_memory,
    dynamics_of_settings,
    licence_of,
    load_dynamics,
    model_of,
    part_bytes,
    pinned,
)
from worldsim.pretrained.worlds import pretrained_world
from worldsim.runtime.json_config import to_json
from worldsim.world import World

pytest.importorskip("transformers", reason="needs the extra pretrained")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_SOURCE = PretrainedSource(
    pipeline="hub:someone/video",
    revision=COMMIT,
    depth="hub:someone/depth",
    depth_revision=COMMIT,
    height=64,
    width=64,
    clip=ClipConfig(frames=2, num_inference_steps=1),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folders ``pipeline`` and ``depth``."""
    folder = tmp_path_factory.mktemp("saved")
    stable_video().save_pretrained(folder / "pipeline")
    depth = tiny_depth()
    depth.model.save_pretrained(folder / "depth")
    depth.image_processor.save_pretrained(folder / "depth")
    (folder / "depth" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Depth\n")
    return folder


@pytest.fixture
def hub(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub whose repositories are the saved folders."""
    monkeypatch.setattr(loading, "find_pipeline", lambda name: saved / "pipeline")
    monkeypatch.setattr(loading, "find_depth", lambda name: saved / "depth")
    monkeypatch.setattr(loading, "download", lambda name, *_: saved / name.partition("/")[2])


def picture(folder: Path) -> str:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    Image.fromarray(noise).save(folder / "photo.png")
    return f"picture:{folder / 'photo.png'}"


def test_gymnasium_makes_one_from_folders_and_a_picture(saved: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "pipeline": str(saved / "pipeline"),
        "depth": str(saved / "depth"),
        "scenes": picture(tmp_path),
        "height": 64,
        "width": 64,
        "clip": HUB_SOURCE.clip,
        "device": "cpu",
    }
    env = gym.make("worldsim/PretrainedDream-v0", render_mode="rgb_array", **arguments)
    obs, info = env.reset(seed=1)
    assert obs.shape == (64, 64, 3) and np.isfinite(info["depth"]).any()
    assert not np.array_equal(obs, env.step(1)[0])
    envs = gym.make_vec(
        "worldsim/PretrainedDream-v0", 2, vectorization_mode="vector_entry_point", **arguments
    )
    together, _ = envs.reset(seed=[1, 2])
    np.testing.assert_array_equal(together[0], obs)
    with pytest.raises(InvalidInputError, match="comes without start scenes"):
        gym.make("worldsim/PretrainedDream-v0", pipeline=str(saved / "pipeline"))


def test_a_world_is_saved_by_the_names_of_its_models(
    hub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = pretrained_world(HUB_SOURCE, device="cpu")
    folder = world.save_pretrained(tmp_path / "world")
    assert sum(x.stat().st_size for x in folder.rglob("*") if x.is_file()) < 30_000
    again = World.from_pretrained(folder, device="cpu")
    assert again.weights_id == world.weights_id
    assert again.card["models"]["revision"] == COMMIT
    told = "someone/video: no licence declared; someone/depth: apache-2.0"
    assert told in again.card["licence"]
    worlds(WorldsConfig(folders=(folder,)))
    printed = capsys.readouterr().out
    assert told in printed and f"pipeline hub:someone/video at {COMMIT}" in printed
    assert torch.equal(again.ego_motion.steps, world.ego_motion.steps)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "changes",
    [
        {"pipeline": "/tmp/pipeline", "revision": ""},
        {"revision": "main"},
        {"revision": ""},
        {"depth": "somewhere"},
    ],
)
def test_a_file_names_nothing_but_commits_on_the_hub(changes: dict[str, str]) -> None:
    with pytest.raises(UntrustedFileError, match="a file may only name hub:owner/name"):
        dynamics_of_settings({**to_json(HUB_SOURCE), **changes})


def test_revisions_are_pinned() -> None:
    assert pinned("hub:a/b", COMMIT) == pinned(f"hub:a/b@{COMMIT}", "") == f"hub:a/b@{COMMIT}"
    assert pinned("folder", "") == "folder"
    for name, revision in (("hub:a/b", ""), ("hub:a/b", "main"), ("hub:a/b@v1", "")):
        with pytest.raises(InvalidInputError, match="give the commit"):
            pinned(name, revision)
    with pytest.raises(InvalidInputError, match="two revisions"):
        pinned(f"hub:a/b@{COMMIT}", "f" * 40)
    with pytest.raises(InvalidInputError, match="needs a hub repository"):
        pinned("folder", COMMIT)


def test_a_commit_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object, **settings: object) -> None:
        raise ValueError("404")

    monkeypatch.setattr("huggingface_hub.snapshot_download", gone)
    with pytest.raises(NotFoundError, match=f"'someone/video' on the hub at revision {COMMIT}"):
        load_dynamics(HUB_SOURCE, "cpu")


def test_unknown_conventions_are_named_before_weights_are_read(saved: Path, tmp_path: Path) -> None:
    pipeline = tiny_inpainting(tmp_path / "tokenizer")
    with pytest.raises(InvalidInputError, match="no adapter calls StableDiffusionInpaintPipeline"):
        adapter_of(pipeline)
    (tmp_path / "pipeline").mkdir()
    index = {"_class_name": "StableDiffusionInpaintPipeline", "unet": ["diffusers", "UNet"]}
    (tmp_path / "pipeline" / "model_index.json").write_text(json.dumps(index))
    source = PretrainedSource(str(tmp_path / "pipeline"), str(saved / "depth"))
    with pytest.raises(InvalidInputError, match="known conventions are wan-vace, ltx-condition"):
        load_dynamics(source, "cpu")
    with pytest.raises(InvalidInputError, match="give both"):
        load_dynamics(PretrainedSource(str(saved / "pipeline"), ""), "cpu")
    with pytest.raises(NotFoundError, match="no pipeline 'nowhere'"):
        load_dynamics(PretrainedSource("nowhere", "depth"), "cpu")


def test_what_does_not_fit_a_pipeline_is_refused() -> None:
    pipeline = wan_vace()
    embeddings: dict[str, object] = {"prompt_embeds": torch.zeros(1, 4, TEXT)}
    with pytest.raises(InvalidInputError, match="has no text encoder: pass prompt_embeds"):
        model_of(pipeline)
    with pytest.raises(InvalidInputError, match="together they must be a multiple of 4, plus 1"):
        model_of(pipeline, ClipConfig(past=2, frames=4), embeddings)
    with pytest.raises(InvalidInputError, match="takes no argument colour"):
        model_of(pipeline, ClipConfig(past=1, frames=4), {**embeddings, "colour": 1})
    model = model_of(pipeline, ClipConfig(past=1, frames=4), embeddings)
    with pytest.raises(InvalidInputError, match="multiples of 16 pixels, not 64x72"):
        model.check_size(64, 72)
    with pytest.raises(InvalidInputError, match="past must be 1"):
        model_of(stable_video(), ClipConfig(past=2))


def test_identities_tell_weights_and_settings_apart() -> None:
    embeddings: dict[str, object] = {"prompt_embeds": torch.zeros(1, 4, TEXT)}
    clip = ClipConfig(past=1, frames=4)
    first = model_of(wan_vace(), clip, embeddings)
    assert first.identify() == model_of(wan_vace(), clip, embeddings).identify()
    other = wan_vace()
    next(other.transformer.parameters()).data.add_(1.0)
    changed = [
        model_of(other, clip, embeddings),
        model_of(wan_vace(), ClipConfig(past=1, frames=8), embeddings),
        model_of(wan_vace(), clip, {"prompt_embeds": torch.ones(1, 4, TEXT)}),
    ]
    assert len({first.identify(), *(model.identify() for model in changed)}) == 4


def test_too_little_gpu_memory_names_the_offload_that_helps(saved: Path) -> None:
    folder = saved / "pipeline"
    sizes = part_bytes(folder)
    assert set(sizes) == {"image_encoder", "unet", "vae"}
    whole, largest = sum(sizes.values()), max(sizes.values())
    check_free_memory(folder, Offload.NONE, 2 * whole)
    with pytest.raises(OutOfMemoryError, match="offload='model' fits. Its largest part is unet"):
        check_free_memory(folder, Offload.NONE, int(1.3 * largest))
    with pytest.raises(OutOfMemoryError, match="offload='sequential' needs least"):
        check_free_memory(folder, Offload.MODEL, largest)
    check_free_memory(folder, Offload.SEQUENTIAL, 0)


def test_other_weights_than_safetensors_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(NotFoundError, match="no weights as safetensors"):
        check_free_memory(tmp_path, Offload.NONE, 10**12)


def test_licences_are_read_from_the_model_card(tmp_path: Path) -> None:
    assert licence_of(tmp_path) is None
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Model\n")
    assert licence_of(tmp_path) == "apache-2.0"
