"""Calls of inpainting pipelines: which arguments they get, and what they may return."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.pipelines import tiny_unconditional
from worldsim.errors import InvalidInputError, OutOfMemoryError, WorldsimError
from worldsim.painting.inpaint import InpaintCall, InpaintConfig

RGB = torch.full((3, 32, 48), 90, dtype=torch.uint8)
UNKNOWN = torch.zeros(32, 48, dtype=torch.bool)
UNKNOWN[:, 24:] = True


def fill(image: Image.Image, mask_image: Image.Image, generator: torch.Generator) -> list[Any]:
    """The least that a pipeline takes: paints the mask in one random colour."""
    colour = tuple(torch.randint(0, 256, (3,), generator=generator).tolist())
    return [[Image.composite(Image.new("RGB", image.size, colour), image, mask_image)]]


def test_a_function_is_enough() -> None:
    call = InpaintCall(fill)
    assert not call.takes_prompt
    first, again, other = (call(RGB, UNKNOWN, "", seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first[:, :, :24], RGB[:, :, :24]) and first.dtype == torch.uint8
    assert (first[:, :, 24:] != 90).any()


def test_arguments_follow_the_signature() -> None:
    got: dict[str, Any] = {}

    def full(
        prompt: str, image: Any, mask_image: Any, strength: float = 0.6,
        guidance_scale: float = 7.5, num_inference_steps: int = 50, height: int | None = None,
        width: int | None = None, generator: Any = None, output_type: str = "pil",
        negative_prompt: str = "",
    ) -> Any:  # fmt: skip
        got.update(locals())
        return SimpleNamespace(images=np.asarray(image, np.float32)[None] / 255)

    InpaintCall(full)(RGB, UNKNOWN, "a hall", 3)
    assert got["prompt"] == "a hall" and got["output_type"] == "np"
    assert got["strength"] == 1.0 and got["generator"].initial_seed() == 3
    # The pipeline's own defaults, and its own size.
    assert got["guidance_scale"] == 7.5 and got["num_inference_steps"] == 50
    assert got["height"] is None and got["image"].size == (48, 32)
    assert np.array_equal(np.asarray(got["mask_image"]) == 255, UNKNOWN.numpy())

    config = InpaintConfig(
        num_inference_steps=4, guidance_scale=2.0, height=64, width=96, strength=0.5
    )
    painted = InpaintCall(full, config, {"negative_prompt": "fog"})(RGB, UNKNOWN, "", 3)
    assert got["guidance_scale"] == 2.0 and got["num_inference_steps"] == 4
    assert (got["height"], got["width"]) == (64, 96) and got["image"].size == (96, 64)
    assert got["negative_prompt"] == "fog" and got["strength"] == 0.5
    assert torch.equal(painted, RGB)


@pytest.mark.parametrize("kind", ["pil", "numpy", "bytes", "tensor", "list", "tuple"])
def test_pictures_of_every_kind_are_read(kind: str) -> None:
    values = np.arange(32 * 48 * 3, dtype=np.uint8).reshape(32, 48, 3)
    made: dict[str, Any] = {
        "pil": SimpleNamespace(images=[Image.fromarray(values)]),
        "numpy": SimpleNamespace(images=values[None].astype(np.float32) / 255),
        "bytes": SimpleNamespace(images=values[None]),
        "tensor": SimpleNamespace(images=torch.from_numpy(values).permute(2, 0, 1)[None] / 255),
        "list": [[values.astype(np.float32) / 255]],
        "tuple": (values[None].astype(np.float32) / 255, None),
    }

    def pipeline(image: Any, mask_image: Any, generator: Any) -> Any:
        return made[kind]

    painted = InpaintCall(pipeline)(RGB, UNKNOWN, "", 0)
    assert np.array_equal(painted.permute(1, 2, 0).numpy(), values)


def test_a_pipeline_that_lacks_an_argument_is_named() -> None:
    def generate(prompt: str, generator: Any = None) -> None: ...

    def unseeded(image: Any, mask_image: Any) -> None: ...

    def embeds(image: Any, mask_image: Any, image_embeds: Any, generator: Any = None) -> None: ...

    with pytest.raises(InvalidInputError, match="generate takes no argument 'image'"):
        InpaintCall(generate)
    with pytest.raises(InvalidInputError, match="unseeded takes no argument 'generator'"):
        InpaintCall(unseeded)
    with pytest.raises(InvalidInputError, match="embeds requires image_embeds"):
        InpaintCall(embeds)
    InpaintCall(embeds, arguments={"image_embeds": 0})
    with pytest.raises(InvalidInputError, match="str cannot be called"):
        InpaintCall("stable-diffusion")


def test_settings_that_a_pipeline_cannot_follow_are_named() -> None:
    with pytest.raises(InvalidInputError, match="fill takes no guidance_scale"):
        InpaintCall(fill, InpaintConfig(guidance_scale=3.0))
    with pytest.raises(InvalidInputError, match="fill takes no num_inference_steps"):
        InpaintCall(fill, InpaintConfig(num_inference_steps=3))
    with pytest.raises(InvalidInputError, match="no argument 'eta': it takes generator"):
        InpaintCall(fill, arguments={"eta": 1.0})
    with pytest.raises(InvalidInputError, match="'image' is set by the painter"):
        InpaintCall(fill, arguments={"image": 1.0})
    for wrong in ({"height": 512}, {"strength": 0.0}, {"num_inference_steps": 0}):
        with pytest.raises(InvalidInputError, match=f"InpaintConfig.{next(iter(wrong))}"):
            InpaintConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, "returned NoneType"),
        (SimpleNamespace(images=np.full((1, 32, 48, 3), np.nan)), "not finite"),
        (SimpleNamespace(images=[], nsfw_content_detected=[True]), "safety checker"),
        (SimpleNamespace(images=np.zeros((1, 4, 8, 8))), "instead of pictures"),
    ],
)
def test_outputs_that_are_no_pictures_are_named(output: Any, words: str) -> None:
    def pipeline(image: Any, mask_image: Any, generator: Any) -> Any:
        return output

    with pytest.raises(WorldsimError, match=words):
        InpaintCall(pipeline)(RGB, UNKNOWN, "", 0)


def test_too_little_memory_is_named() -> None:
    def pipeline(image: Any, mask_image: Any, generator: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match="pipeline does not fit"):
        InpaintCall(pipeline)(RGB, UNKNOWN, "", 0)


def test_a_pipeline_without_prompt_and_guidance() -> None:
    """RePaint (Lugmayr et al. 2022) takes neither, and paints where the mask is black."""
    config = InpaintConfig(num_inference_steps=4, height=32, width=32, paint_black=True)
    call = InpaintCall(tiny_unconditional(), config, {"jump_length": 1, "jump_n_sample": 1})
    first, again, other = (call(RGB, UNKNOWN, "", seed) for seed in (1, 1, 2))
    assert first.shape == RGB.shape and torch.equal(first, again)
    assert not torch.equal(first[:, :, 28:], other[:, :, 28:])
    assert (first[:, :, :20].int() - 90).abs().max() <= 8
    assert (first[:, :, 28:].int() - 90).abs().float().mean() > 8
