"""The commands that train: options of painted walks, and the painter that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.painters import make_tiny_painter
from worldsim.app import cli
from worldsim.app.training import open_painter_of
from worldsim.errors import NotFoundError
from worldsim.painting.checkpoint import save_painter
from worldsim.painting.painter import NetworkPainter
from worldsim.training.painted import PaintedConfig


def test_both_commands_have_the_options_of_painted_walks(tmp_path: Path) -> None:
    options = ["--painted.share", "0.4", "--painted.level", "0.3", "0.6"]
    train = cli.parse("train", ["--data", "d", "--out", str(tmp_path), *options])
    distil = cli.parse("distil", ["world", "--data", "d", "--out", str(tmp_path), *options])
    assert train.painted == distil.painted == PaintedConfig(share=0.4, level=(0.3, 0.6))


def test_the_painter_is_opened_only_if_walks_are_painted(tmp_path: Path) -> None:
    assert open_painter_of(PaintedConfig(painter="nowhere")) is None
    with pytest.raises(NotFoundError, match="nowhere"):
        open_painter_of(PaintedConfig(share=0.4, painter="nowhere"))
    made = make_tiny_painter()
    settings = {k: v for k, v in made.network.config.items() if not k.startswith("_")}
    save_painter(tmp_path / "p", settings, made.network.state_dict(), spec=made.spec)
    config = PaintedConfig(share=0.4, painter=str(tmp_path / "p"), num_inference_steps=3, places=7)
    painter = open_painter_of(config)
    assert isinstance(painter, NetworkPainter)
    used = painter.config
    assert (used.num_inference_steps, used.places) == (3, 7)
    assert used.guidance_scale == used.memory_guidance_scale == 1.0
