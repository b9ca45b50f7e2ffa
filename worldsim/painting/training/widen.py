"""Painters that learn further attributes, or learn them better: weights with more inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.painting.checkpoint import Saved
from worldsim.painting.knots import KnotEmbedding

INPUT = "embed.0.weight"
"""Weights of the layer that receives noise levels, attributes, and flags of the given ones."""

WORDS = "words"
"""The network's embedding of attributes by knots."""


def widen(saved: Saved, names: Sequence[str]) -> Saved:
    """Return a checkpoint whose network receives the attributes ``names``, in this order.

    The weights of new attributes are zero, so they do not change what the network predicts until it
    is trained with them. A checkpoint that has these attributes already is returned as it is.

    saved: a checkpoint.
    names: all attributes of the checkpoint, and new ones.

    Raises InvalidInputError if ``names`` lacks an attribute of the checkpoint or repeats one.
    """
    settings, wanted = saved.card["settings"], tuple(names)
    known = tuple(settings["attributes"])
    if known == wanted:
        return saved
    if settings.get("knots"):
        raise InvalidInputError(
            f"the painter has knots for the attributes {', '.join(known)}, and the recording has "
            f"{', '.join(wanted)}: record with the version that it was trained with, or start from "
            "a painter without knots."
        )
    if missing := [name for name in known if name not in wanted]:
        raise InvalidInputError(
            f"the painter has the attribute {missing[0]!r}, which is not among "
            f"{', '.join(wanted) or 'none'}: record with the version that it was trained with, or "
            "start a new run."
        )
    if len(set(wanted)) < len(wanted):
        raise InvalidInputError(
            f"the attributes {', '.join(wanted)} name one twice: give each once."
        )
    card = {**saved.card, "settings": {**settings, "attributes": list(wanted)}}
    if "spec" in card:
        card["spec"] = {**card["spec"], "attributes": list(wanted)}
    weights, average = (_widen(part, known, wanted) for part in (saved.weights, saved.average))
    return replace(saved, weights=weights, average=average, card=card)


def embed_words(saved: Saved, knots: Sequence[Sequence[float]]) -> Saved:
    """Return a checkpoint whose network embeds attributes by ``knots``.

    The embedding is zero at first, so it does not change what the network predicts until it is
    trained. A checkpoint that has knots already is returned as it is.

    knots: see :class:`worldsim.painting.knots.KnotEmbedding`; one row for each attribute.
    """
    settings = saved.card["settings"]
    if settings.get("knots"):
        return saved
    wider = {**settings, "knots": [list(row) for row in knots]}
    fresh = KnotEmbedding(knots, int(settings["dim"])).state_dict()
    new = {f"{WORDS}.{name}": value for name, value in fresh.items()}
    weights, average = (
        {**part, **new} if part else part for part in (saved.weights, saved.average)
    )
    return replace(saved, weights=weights, average=average, card={**saved.card, "settings": wider})


def _widen(
    weights: Mapping[str, Tensor], known: tuple[str, ...], wanted: tuple[str, ...]
) -> dict[str, Tensor]:
    """Return weights by name, with input columns for ``wanted`` in place of those for ``known``."""
    if INPUT not in weights:
        return dict(weights)
    old = weights[INPUT]
    levels, count = old.shape[1] - 2 * len(known), len(wanted)
    new = old.new_zeros(len(old), levels + 2 * count)
    new[:, :levels] = old[:, :levels]
    for at, name in enumerate(known):
        to = levels + wanted.index(name)
        # The attributes come first, then a flag for each.
        new[:, to] = old[:, levels + at]
        new[:, to + count] = old[:, levels + len(known) + at]
    return {**weights, INPUT: new}
