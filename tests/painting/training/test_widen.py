"""Widening: a painter with further attributes predicts what it did, and trains on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.errors import InvalidInputError
from worldsim.painting.checkpoint import Saved, load_painter, save_painter
from worldsim.painting.network import PainterBatch, PainterNetwork
from worldsim.painting.sampling import PaintConfig
from worldsim.painting.training.distil import PainterDistilConfig, distil
from worldsim.painting.training.store import ViewStore
from worldsim.painting.training.train import PainterTrainConfig, train
from worldsim.painting.training.views import ViewSets, save_view_sets
from worldsim.painting.training.widen import embed_words, widen
from worldsim.painting.words.attributes import AttributePrior
from worldsim.protocols import PainterSpec

OLD, NEW = ("brick", "sky"), ("sky", "stairs", "brick")


def saved_painter(folder: Path) -> Saved:
    torch.manual_seed(0)
    network = PainterNetwork(OLD, dim=32, depth=2, heads=2, pixel=8)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    weights = dict(network.named_parameters())
    spec = PainterSpec(16, 16, (8.0, 8.0, 8.0, 8.0), 2, OLD)
    save_painter(folder, network.settings, weights, weights, {"step": 3}, spec=spec)
    return load_painter(folder)


def batch_of(attributes: torch.Tensor, known: torch.Tensor) -> PainterBatch:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return PainterBatch(
        noisy=draw(2, 2, 5, 16, 16),
        level=draw(2, 2, 2).sigmoid(),
        memory=draw(2, 2, 5, 16, 16),
        rays=draw(2, 2, 6, 16, 16),
        attributes=attributes,
        known=known,
    )


def test_a_wider_painter_predicts_what_it_did(tmp_path: Path):
    old = saved_painter(tmp_path / "p")
    new = widen(old, NEW)
    assert tuple(new.card["settings"]["attributes"]) == NEW == new.spec().attributes
    assert tuple(old.card["settings"]["attributes"]) == OLD
    values, known = torch.tensor([[0.2, 0.9], [0.5, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    wide = torch.tensor([[0.9, 0.0, 0.2], [0.0, 0.0, 0.5]])
    wide_known = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    for average in (True, False):
        before = old.network(average)(batch_of(values, known))
        network = new.network(average)
        after = network(batch_of(wide, wide_known))
        torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)
        # Its weights are zero, so a new attribute that is given says nothing yet.
        wide_known[:, 1] = wide[:, 1] = 1.0
        torch.testing.assert_close(
            network(batch_of(wide, wide_known)), before, atol=1e-6, rtol=1e-6
        )
        assert float(before.detach().std()) > 0.01
    changed = batch_of(values.flip(1), known)
    assert not torch.allclose(old.network()(changed), before, atol=1e-3)


def test_only_new_attributes_may_differ(tmp_path: Path):
    saved = saved_painter(tmp_path / "p")
    assert widen(saved, OLD) is saved
    with pytest.raises(InvalidInputError, match="'sky', which is not among brick, stairs"):
        widen(saved, ("brick", "stairs"))
    with pytest.raises(InvalidInputError, match="name one twice"):
        widen(saved, (*OLD, "stairs", "stairs"))


@pytest.fixture
def data(tmp_path: Path, sets: ViewSets) -> Path:
    """A recording with a further attribute, in another order."""
    folder = tmp_path / "data"
    folder.mkdir()
    shown = torch.rand(5, 14, 3, generator=torch.Generator().manual_seed(0)).numpy()
    wide = ViewSets(**{**vars(sets), "names": NEW, "attributes": shown})
    save_view_sets(wide, folder / "views-00000.safetensors")
    return folder


def test_training_starts_from_a_painter_with_fewer_attributes(tmp_path: Path, data: Path):
    folder = tmp_path / "p"
    saved = saved_painter(folder)
    out = tmp_path / "out"
    train(PainterTrainConfig(data=data, out=out, start=folder, steps=5, views=24, warmup_again=1))
    trained = load_painter(out / "state")
    assert trained.card["step"] == 5
    assert trained.card["settings"] == {**saved.card["settings"], "attributes": list(NEW)}
    count = len(NEW)
    new = trained.weights["embed.0.weight"][:, -2 * count + NEW.index("stairs")]
    assert float(new.abs().max()) > 0


def test_knots_change_nothing_until_they_are_trained(tmp_path: Path):
    old = saved_painter(tmp_path / "p")
    new = embed_words(old, [(0.0, 0.1, 0.5), (0.2, 0.4, 0.6)])
    assert new.card["settings"]["knots"] == [[0.0, 0.1, 0.5], [0.2, 0.4, 0.6]]
    assert embed_words(new, [(0.0, 0.3), (0.0, 0.4)]) is new
    batch = batch_of(torch.tensor([[0.2, 0.9], [0.5, 0.0]]), torch.ones(2, 2))
    for average in (True, False):
        assert torch.equal(new.network(average)(batch), old.network(average)(batch))
    assert widen(new, OLD) is new
    with pytest.raises(InvalidInputError, match="knots"):
        widen(new, NEW)


def test_training_embeds_attributes_by_a_table_and_a_student_starts_from_another(
    tmp_path: Path, data: Path
):
    folder, out = tmp_path / "p", tmp_path / "out"
    saved_painter(folder)
    table = np.linspace(0, 255, 60).astype(np.uint8).reshape(20, 3)
    AttributePrior(table, NEW).save(tmp_path / "table")
    settings = {"data": data, "out": out, "start": folder, "views": 24, "warmup_again": 1}
    train(PainterTrainConfig(knots=tmp_path / "table", steps=5, **settings))
    trained = load_painter(out / "state")
    assert len(trained.card["settings"]["knots"]) == 3
    assert float(trained.weights["words.layers.2.weight"].abs().max()) > 0
    # A run keeps its knots.
    train(PainterTrainConfig(steps=6, **settings))
    assert load_painter(out / "state").card["step"] == 6

    student = PainterDistilConfig(
        painter=out / "state",
        start=out / "state",
        data=data,
        out=tmp_path / "student",
        steps=1,
        views=24,
        num_inference_steps=2,
        teacher=PaintConfig(4, noise_guidance_scale=1.0),
    )
    distil(student)
    assert load_painter(tmp_path / "student" / "state").spec().attributes == NEW
    with pytest.raises(InvalidInputError, match="other settings"):
        distil(replace(student, start=folder, out=tmp_path / "other"))
    AttributePrior(table[:, :2].copy(), OLD).save(tmp_path / "narrow")
    with pytest.raises(InvalidInputError, match="stairs"):
        train(replace(PainterTrainConfig(steps=5, **settings), knots=tmp_path / "narrow"))


def test_a_student_keeps_the_attributes_of_its_teacher(tmp_path: Path, data: Path):
    saved_painter(tmp_path / "p")
    distil(
        PainterDistilConfig(
            painter=tmp_path / "p",
            data=data,
            out=tmp_path / "student",
            steps=1,
            views=24,
            num_inference_steps=2,
            teacher=PaintConfig(4),
        )
    )
    assert load_painter(tmp_path / "student" / "state").spec().attributes == OLD


def test_a_store_selects_attributes_by_name(sets: ViewSets):
    store = ViewStore(sets, 8, torch.device("cpu"))
    store.add(sets)
    index = torch.tensor([3, 1])
    whole = store.get(index).attributes
    store.select(("sky", "brick"))
    assert store.names == ("sky", "brick")
    assert torch.equal(store.get(index).attributes, whole.flip(1))
    store.select(("brick",))
    assert torch.equal(store.get(index).attributes, whole[:, :1])
    with pytest.raises(InvalidInputError, match="attributes brick, sky, without 'stairs'"):
        store.select(("sky", "stairs"))
