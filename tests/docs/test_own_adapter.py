"""The adapter of the page on pretrained models runs, and keeps the contract of dynamics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.video_pipelines import TEXT, wan_video_to_video
from tests.helpers.video_worlds import SIZE, Brightness
from worldsim.errors import InvalidInputError
from worldsim.pretrained.adapter import ClipConfig
from worldsim.pretrained.dynamics import PretrainedDynamics
from worldsim.pretrained.loading import model_of
from worldsim.runtime.registries import VIDEO_MODELS
from worldsim.testing import check_dynamics

pytest.importorskip("transformers", reason="needs the extra pretrained")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how_to" / "pretrained.md"


def test_the_adapter_of_the_page_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[-1]
    assert "VideoAdapter" in code and len(code.splitlines()) <= 60
    arguments: dict[str, object] = {"prompt_embeds": torch.zeros(1, 4, TEXT)}
    # What is registered here goes when the test ends.
    monkeypatch.setattr(VIDEO_MODELS, "_entries", dict(VIDEO_MODELS._entries))
    names: dict[str, Any] = {"__name__": "own_adapter"}
    exec(compile(code, str(PAGE), "exec"), names)
    pipeline = wan_video_to_video()
    with pytest.raises(InvalidInputError, match="together 4 n"):
        model_of(pipeline, ClipConfig(past=1, frames=3), arguments)
    model = model_of(pipeline, ClipConfig(past=1, frames=4, num_inference_steps=2), arguments)
    assert isinstance(model, names["Redraw"])
    check_dynamics(PretrainedDynamics(model, Brightness(), SIZE, SIZE, actions=7))
