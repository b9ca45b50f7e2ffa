"""The protocols ``dreams`` and ``long-walks`` of ``worldsim evaluate``."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from worldsim.errors import MissingGeometryError
from worldsim.evaluation import dreams, long_walks
from worldsim.evaluation.benchmark_set import TestSetConfig, stack
from worldsim.evaluation.config import EvaluateConfig
from worldsim.evaluation.encoder import SIZE, encode, load_encoder
from worldsim.evaluation.metrics import area_average
from worldsim.evaluation.running import fitting, record, setting_of
from worldsim.runtime.progress import Progress
from worldsim.runtime.types import JsonObject
from worldsim.world import World
from worldsim.world.twin import twin_of

ENCODED = ("worldsim/FreedoomReal-v0",)
"""Real twins whose frames the shipped encoder of distances was trained on."""


def measure_dreams(config: EvaluateConfig, world: World) -> JsonObject:
    """Evaluate dreams at the true poses; as many other walks are what they are compared with."""
    settings = TestSetConfig(*twin_of(world), config.seed, config.history, config.dreamed)
    count = config.walks
    recorded = record(config, world, settings, range(2 * count), "walk")
    walks = stack(recorded, settings)
    test = walks.part(0, count, "cpu")
    chunks = range(0, count, config.batch)
    with Progress(len(chunks) * dreams.steps_of(config.history, config.dreamed), "dreaming") as bar:
        measured = (
            dreams.dream(
                world, walks.part(i, min(i + config.batch, count), world.device), bar.update
            )
            for i in chunks
        )
        found = dreams.join(fitting(config, world, lambda: list(measured)))
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


def measure_long_walks(config: EvaluateConfig, world: World) -> JsonObject:
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
    chunks = [(i, recorded[i : i + config.batch]) for i in range(0, len(recorded), config.batch)]
    with Progress(len(chunks) * (config.history - 1 + config.dreamed), "dreaming") as bar:
        parts = (
            long_walks.dream(world, chunk, settings, first, bar.update) for first, chunk in chunks
        )
        dreamed = np.concatenate(fitting(config, world, lambda: list(parts)))
    results = long_walks.compute(dreamed, recorded, settings, config.bootstrap, config.seed)
    return results | {"protocol": long_walks.PROTOCOL} | setting_of(config, world, recorded)
