"""The protocols ``dreams`` and ``long-walks`` of ``worldsim evaluate``."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from worldsim.errors import MissingGeometryError
from worldsim.evaluation import dreams, long_walks
from worldsim.evaluation.benchmark_set import TestSet, TestSetConfig, stack
from worldsim.evaluation.config import EvaluateConfig
from worldsim.evaluation.encoder import SIZE, encode, load_encoder
from worldsim.evaluation.metrics import area_average
from worldsim.evaluation.running import over_chunks, record, setting_of
from worldsim.runtime.chunks import Chunks
from worldsim.runtime.progress import Progress
from worldsim.runtime.types import JsonObject
from worldsim.world import World
from worldsim.world.twin import twin_of

ENCODED = ("worldsim/FreedoomReal-v0",)
"""Real twins whose frames the shipped encoder of distances was trained on."""


def measure_dreams(config: EvaluateConfig, world: World, chunks: Chunks) -> JsonObject:
    """Evaluate dreams at the true poses; as many other walks are what they are compared with."""
    settings = TestSetConfig(*twin_of(world), config.seed, config.history, config.dreamed)
    count = config.walks
    recorded = record(config, world, settings, range(2 * count), "walk")
    walks = stack(recorded, settings)
    test = walks.part(0, count, "cpu")
    starts = range(0, count, config.batch)
    parts = [(walks.part(i, min(i + config.batch, count), "cpu"),) for i in starts]
    steps = dreams.steps_of(config.history, config.dreamed)
    with Progress(len(parts) * steps, "dreaming") as bar:
        found = dreams.join(over_chunks(config, chunks, _dream, parts, bar.update, steps))
    features = None
    if world.config.env_id in ENCODED and min(walks.rgb.shape[-2:]) >= SIZE:
        encoder, after = load_encoder(device=world.device), config.history

        def encoded(rgb: Tensor) -> Tensor:
            small = area_average(rgb.flatten(0, 1), SIZE, SIZE)
            return encode(encoder, small).cpu().unflatten(0, rgb.shape[:2])

        features = (
            encoded(found.rgb),
            encoded(test.rgb[:, after:]),
            encoded(walks.rgb[count:, after:]),
        )
    results = dreams.compute(
        found, test, features, world.spec.window, config.bootstrap, config.seed
    )
    told = setting_of(config, world, recorded) | {"episodes": count}
    return results | {"protocol": dreams.PROTOCOL, "horizon": config.dreamed} | told


def _dream(world: World, walks: TestSet, tick: dreams.Tick) -> dreams.Dreams:
    return dreams.dream(world, walks.part(0, len(walks), world.device), tick)


def measure_long_walks(config: EvaluateConfig, world: World, chunks: Chunks) -> JsonObject:
    """Evaluate the statistics of long walks, beside those of real ones from the same starts."""
    memory = world.config.memory
    if not world.has_geometry or memory is None:
        raise MissingGeometryError(
            f"world {config.world} has no poses or no memory: evaluate it with --protocol walks"
        )
    settings = long_walks.LongWalkConfig(
        *twin_of(world), config.seed, config.history, config.dreamed, memory=memory
    )
    recorded = record(config, world, settings, range(config.walks), "pair of walks")
    starts = range(0, len(recorded), config.batch)
    parts = [(recorded[i : i + config.batch], settings, i) for i in starts]
    steps = config.history - 1 + config.dreamed
    with Progress(len(parts) * steps, "dreaming") as bar:
        dreamed = np.concatenate(
            over_chunks(config, chunks, long_walks.dream, parts, bar.update, steps)
        )
    results = long_walks.compute(dreamed, recorded, settings, config.bootstrap, config.seed)
    return results | {"protocol": long_walks.PROTOCOL} | setting_of(config, world, recorded)
