"""What the painter receives, and that finished batches are read again."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.helpers.places import Wallpaperer, made_up_sets, make_small_painter
from worldsim.painting.evaluation.paintings import Known, Paintings, inputs_of, key_of
from worldsim.painting.evaluation.places import places_of
from worldsim.protocols import PaintInputs
from worldsim.state import Frame


class Counting(Wallpaperer):
    """Counts the places that it paints."""

    count = 0

    def paint(self, inputs: PaintInputs) -> Frame:
        self.count += len(inputs)
        return super().paint(inputs)


def test_finished_batches_are_read(tmp_path: Path) -> None:
    places = places_of(made_up_sets(5, 0))
    painter = Counting()
    first = Paintings(painter, tmp_path, 2, 0).paint("new", places, range(8), Known())
    assert painter.count == 5
    (tmp_path / "new-00002-00004.safetensors").unlink()
    seen: list[int] = []
    again = Paintings(painter, tmp_path, 2, 0, seen.append).paint("new", places, range(8), Known())
    assert painter.count == 7 and seen == [16, 16, 8]
    assert torch.equal(first.rgb, again.rgb) and torch.equal(first.code, again.code)
    Paintings(painter, tmp_path, 2, 0).remove()
    assert not tmp_path.exists()


def test_batches_of_any_size_give_the_same_views() -> None:
    places = places_of(made_up_sets(3, 0))
    painter = make_small_painter()
    one, all_ = (Paintings(painter, None, b, 7).paint("x", places, (0, 1), Known()) for b in (1, 3))
    assert (one.rgb.int() - all_.rgb.int()).abs().max() <= 1
    other = Paintings(painter, None, 3, 8).paint("x", places, (0, 1), Known())
    assert not torch.equal(other.rgb, all_.rgb)


def test_what_the_painter_receives() -> None:
    places = places_of(made_up_sets(2, 0))
    seed = torch.tensor([3, 4])
    nothing = inputs_of(places, (0, 1), Known(), seed)
    assert not nothing.view.mask.any() and nothing.attributes is None and nothing.given is None
    words = inputs_of(places, (0, 1), Known(attributes=True), seed, step=5)
    assert torch.equal(words.attributes, places.attributes) and words.step.tolist() == [5, 5]
    memory = inputs_of(places, range(8), Known(sources=(8, 9)), seed)
    assert 0.05 < float(memory.view.mask.float().mean()) < 0.9 and memory.given is None
    given = inputs_of(places, (3, 0), Known(given=1, sources=(3,)), seed)
    assert given.given.tolist() == [[True, False]] * 2
    assert torch.equal(given.view.rgb.unflatten(0, (2, 2))[:, 0], places.rgb[:, 3])
    assert torch.equal(given.view.inverse_depth.unflatten(0, (2, 2))[:, 0], places.code[:, 3])
    picture = inputs_of(places, (0,), Known(given=1, colour_only=True), seed)
    assert picture.colour_only.all() and not picture.view.inverse_depth.any()
    assert torch.equal(picture.view.rgb, places.rgb[:, 0])


def test_keys_differ() -> None:
    assert key_of([1, {"a": 2}]) == key_of([1, {"a": 2}]) != key_of([1, {"a": 3}])
