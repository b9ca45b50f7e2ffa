"""The recogniser of attributes: what its probabilities mean, and its files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.painting.words.recogniser import (
    CARD,
    WEIGHTS,
    AttributeRecogniser,
    load_recogniser,
    open_recogniser,
    save_recogniser,
)

pytestmark = pytest.mark.fast


def small() -> AttributeRecogniser:
    torch.manual_seed(0)
    return (
        AttributeRecogniser(("brick", "light"), (0.02, 0.5), (0.3, 0.7), channels=(8, 16), hidden=8)
        .requires_grad_(False)
        .eval()
    )


def logit(p: float) -> float:
    return math.log(p / (1.0 - p))


def test_probabilities_of_what_is_wanted():
    """Brick: more than a trace with 0.9, clearly with 0.6. Light: not dark with 0.8, bright 0.3."""
    network = small()
    logits = torch.tensor([[[logit(0.9), logit(0.6)], [logit(0.8), logit(0.3)]]])
    for wanted, p in (
        ({"brick": 0.7}, 0.6),
        ({"brick": 0.25}, 0.9),
        ({"brick": 0.0}, 0.1),
        ({"light": 0.92}, 0.3),
        ({"light": 0.08}, 0.2),
        ({"light": 0.5}, 0.8 * 0.7),
    ):
        (found,) = network.agreement(logits, wanted).values()
        assert float(found) == pytest.approx(p, abs=1e-6)
    assert network.agreement(logits, {"lava": 0.7}) == {}


def test_looks_at_a_place_as_a_whole():
    network = small()
    rgb = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    found = network.look(rgb, {"brick": 0.7, "light": 0.1})
    assert list(found) == ["brick", "light"] and all(0.0 < p < 1.0 for p in found.values())
    turned = network.look(rgb.roll(1, 0), {"brick": 0.7, "light": 0.1})
    assert turned == pytest.approx(found, abs=1e-5)
    both = network(torch.stack([rgb, 255 - rgb]).float() / 127.5 - 1.0)
    assert both.shape == (2, 2, 2)
    p = network.agreement(both, {"brick": 0.7})["brick"]
    assert float(p[0]) == pytest.approx(found["brick"], abs=1e-5)


def test_thresholds_belong_to_attributes():
    with pytest.raises(InvalidInputError, match="2 attributes have 1 low and 2 high"):
        AttributeRecogniser(("brick", "light"), (0.1,), (0.2, 0.3), channels=(8,))


def test_saved_and_loaded(tmp_path: Path):
    network = small()
    save_recogniser(network, tmp_path / "p", {"source": "a test"})
    rgb = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    wanted = {"brick": 0.7, "light": 0.1}
    loaded = open_recogniser(tmp_path / "p")
    assert loaded.names == network.names
    assert loaded.look(rgb, wanted) == pytest.approx(network.look(rgb, wanted), abs=1e-2)
    path = tmp_path / "p" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(DamagedFileError, match=WEIGHTS):
        load_recogniser(tmp_path / "p")
    with pytest.raises(NotFoundError, match=f"give a folder with {CARD}"):
        open_recogniser(tmp_path)
