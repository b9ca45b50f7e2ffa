"""Training of the painter to predict clean views from noisy ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.painting.checkpoint import load_painter
from worldsim.painting.knots import knots_of
from worldsim.painting.levels import loss_of
from worldsim.painting.network import PainterNetwork
from worldsim.painting.training.batches import VIEW_COUNTS, BatchMaker
from worldsim.painting.training.store import FolderReader, ViewStore
from worldsim.painting.training.trainer import LegConfig, PainterTrainer, Place, resumed, run_leg
from worldsim.painting.training.widen import embed_words, widen
from worldsim.painting.words.attributes import AttributePrior
from worldsim.protocols import PainterSpec
from worldsim.runtime.json_config import to_json
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.ranges import Count
from worldsim.runtime.types import JsonObject


@dataclass(frozen=True)
class NetworkConfig:
    """Size of the painter's network; see :class:`worldsim.painting.network.PainterNetwork`."""

    dim: Count = 384
    """Features of a token."""
    depth: Count = 12
    """Blocks."""
    heads: Count = 6
    """Attention heads."""
    pixel: Count = 64
    """Channels at full resolution."""


@old_fields(clip="max_grad_norm")
@dataclass(frozen=True, kw_only=True)
class PainterTrainConfig(LegConfig):
    """Settings of :func:`train`."""

    start: Path | None = None
    """Painter to start from if ``out`` holds no checkpoint. The data may have further
    attributes."""
    knots: Path | None = None
    """Folder of an attribute table. The network embeds attributes by knots at the quantiles of its
    places (:mod:`worldsim.painting.knots`). A painter that has knots keeps its own."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Size of a new network."""


def read_knots(folder: Path, names: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """Return the knots of the attributes ``names`` in the attribute table of ``folder``.

    Raises NotFoundError, DamagedFileError, and InvalidInputError if the table lacks an attribute.
    """
    prior = AttributePrior.from_pretrained(folder)
    if missing := [name for name in names if name not in prior.names]:
        raise InvalidInputError(
            f"the table in {folder} has no attribute {missing[0]!r}: write one of the recording "
            "with experiments/painter/attribute_table.py."
        )
    return knots_of(prior.table[:, [prior.names.index(name) for name in names]] / 255.0)


class DenoisingTrainer(PainterTrainer):
    """Trains the network to predict clean views."""

    def __init__(self, config: PainterTrainConfig, store: ViewStore, place: Place) -> None:
        torch.manual_seed(config.seed)
        names = store.names
        self._spec = store.spec(max(VIEW_COUNTS))
        saved = resumed(config)
        if saved is None and config.start is not None:
            saved = load_painter(config.start)
        if saved is not None:
            saved = widen(saved, names)
        knots = () if config.knots is None else read_knots(config.knots, names)
        if saved is not None and knots:
            saved = embed_words(saved, knots)
        size = to_json(config.network)
        network = (
            saved.network(average=False)
            if saved
            else PainterNetwork(attributes=names, knots=knots, **size)
        )
        super().__init__(config, network, saved, names, place)

    def spec(self) -> PainterSpec:
        """See :meth:`worldsim.painting.training.trainer.PainterTrainer.spec`."""
        return self._spec

    def loss(self, maker: BatchMaker, views: int) -> Tensor:
        """See :meth:`worldsim.painting.training.trainer.PainterTrainer.loss`."""
        example = maker.make(self.config.views // views, views)
        predicted = self.predict(example.batch)
        return loss_of(predicted, example.clean, example.batch.level)


def train(config: PainterTrainConfig) -> JsonObject:
    """Train one leg and save it; returns its last log line.

    A checkpoint in ``config.out`` is resumed.
    """

    def build(reader: FolderReader, place: Place) -> DenoisingTrainer:
        return DenoisingTrainer(config, reader.store, place)

    return run_leg(config, build)
