"""The prior of attributes: real attribute vectors, from which the rest of a prompt is completed.

A prompt names few attributes. The others come from a real place that is like what is named, so
that a painter receives combinations of the kind that it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.painting.painter import DEFAULT_PAINTER, painter_folder
from worldsim.painting.words.vocabulary import NONE, PLAIN, SCALES, STRIKING
from worldsim.runtime.files import (
    check_files,
    inside,
    load_tensors,
    make_writable_folder,
    save_tensors,
    sha256_of,
)
from worldsim.runtime.json_config import (
    check_format,
    check_ranges,
    check_seal,
    read_json,
    write_sealed,
)
from worldsim.runtime.ranges import Positive
from worldsim.runtime.types import Array, JsonMapping

FORMAT, VERSION = "worldsim-attributes", 1
CARD, TABLE = "attributes.json", "attributes.safetensors"
PRESENT = 5
"""A place shows an attribute if its code in the table is at least this: a share of 2%."""
CANDIDATES = 16
"""Nearest real places, one of which completes a prompt."""
UNASKED = 1e6
"""Added to the squared distance of a place for each striking attribute that nobody asked for."""
LEAST_SPREAD = 0.02
"""Smallest standard deviation by which differences of an attribute are divided."""


def open_prior(name: str | Path = DEFAULT_PAINTER) -> AttributePrior:
    """Load the table of a shipped painter by its name, or of a painter's folder.

    Raises NotFoundError or DamagedFileError.
    """
    folder = painter_folder(name, CARD)
    if folder is not None:
        return AttributePrior.from_pretrained(folder)
    raise NotFoundError(
        f"no table of attributes for the painter {str(name)!r}: give a folder with {CARD}, or "
        "write one with AttributePrior.save."
    )


@dataclass(frozen=True)
class CompletionConfig:
    """How a prompt becomes a whole attribute vector."""

    scale_stretch: Positive = 1.0
    """Factor by which ``light`` and ``openness`` lie further from their medians than the quantiles
    that words ask for. Values stay in [0, 1]."""
    share_stretch: Positive = 1.0
    """Factor of the other values that words ask for. Values stay in [0, 1]."""
    plain: bool = False
    """Whether the real place that completes a prompt shows none of the striking attributes
    (:data:`worldsim.painting.words.vocabulary.STRIKING`) that the prompt does not name."""

    def __post_init__(self) -> None:
        check_ranges(self)


class AttributePrior:
    """A table of real places' attributes.

    table: (n, a) uint8, attribute values times 255.
    names: the attributes, in the painter's order.
    exclusive: groups of attributes whose values sum to 1 at most, such as the shares of a view's
        columns.

    Raises InvalidInputError for another shape or type.
    """

    def __init__(
        self, table: Array, names: Sequence[str], exclusive: Sequence[Sequence[str]] = ()
    ) -> None:
        names, groups = tuple(names), tuple(tuple(group) for group in exclusive)
        if table.dtype != np.uint8 or table.ndim != 2 or table.shape[1:] != (len(names),):
            raise InvalidInputError(
                f"a table of attributes has shape {table.shape} and type {table.dtype}: give "
                f"(n, {len(names)}) uint8 for the attributes {', '.join(names)}."
            )
        if not len(table):
            raise InvalidInputError("a table of attributes is empty: give at least one place.")
        if unknown := [name for group in groups for name in group if name not in names]:
            raise InvalidInputError(
                f"exclusive names {unknown[0]!r}, which is not among {', '.join(names)}."
            )
        self.table, self.names, self.exclusive = table, names, groups
        self._values = table.astype(np.float32) / 255.0
        self._spread = np.maximum(self._values.std(0), LEAST_SPREAD)

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def from_pretrained(cls, folder: Path) -> AttributePrior:
        """Load the table of a painter's folder.

        Raises NotFoundError or DamagedFileError.
        """
        path = Path(folder) / CARD
        card = read_json(path)
        check_format(path, card, FORMAT, VERSION)
        check_seal(path, card)
        check_files(path, card.get("sha256"))
        tensors = load_tensors(inside(folder, TABLE, path))
        try:
            return cls(tensors["attributes"].numpy(), card["names"], card["exclusive"])
        except (KeyError, TypeError, InvalidInputError) as error:
            raise DamagedFileError(
                f"{path} and {TABLE} do not fit ({error}): copy the folder again."
            ) from error

    def save(self, folder: Path, told: JsonMapping | None = None) -> None:
        """Write ``attributes.safetensors`` and ``attributes.json`` into ``folder``.

        told: further entries of the card, such as the maps.

        Raises StorageError.
        """
        folder = make_writable_folder(folder)
        save_tensors({"attributes": torch.from_numpy(self.table)}, folder / TABLE)
        card = {
            "format": FORMAT,
            "version": VERSION,
            "names": self.names,
            "exclusive": self.exclusive,
            "places": len(self),
            **dict(told or {}),
        }
        write_sealed(folder / CARD, {**card, "sha256": {TABLE: sha256_of(folder / TABLE)}})

    def values(self, wanted: Mapping[str, float]) -> dict[str, float]:
        """Convert amounts of attributes to values in [0, 1].

        wanted: amounts in [0, 1] by attribute, as
            :func:`worldsim.painting.words.prompt.parse_prompt` returns them. 0 is absence; other
            amounts are quantiles of the places that show the attribute, or of all places for
            ``light`` and ``openness``.

        Raises InvalidInputError for other attributes and amounts.
        """
        self._check(wanted)
        return {name: self._value(name, amount) for name, amount in wanted.items()}

    def complete(
        self,
        wanted: Mapping[str, float],
        rng: np.random.Generator,
        config: CompletionConfig | None = None,
    ) -> Array:
        """Draw a whole attribute vector, (a,) float32 in [0, 1].

        The other attributes are those of a real place, drawn with ``rng`` among the places nearest
        in the wanted ones; then the wanted values replace its own. Without wanted attributes it is
        any real place. Where attributes exclude each other, the others give way.

        wanted: see :meth:`values`.
        config: how far values go, and which places complete them; by default those of real places,
            and any place.

        Raises InvalidInputError.
        """
        config = config or CompletionConfig()
        values = self.values(wanted)
        at = [self.names.index(name) for name in values]
        target = np.array(list(values.values()), np.float32)
        difference = (self._values[:, at] - target) / self._spread[at]
        # The noise breaks ties, of which there are many: most places have no lava at all.
        distance = (difference**2).sum(1) + 1e-6 * rng.random(len(self), np.float32)
        if config.plain:
            distance += UNASKED * self._shown_of(STRIKING, wanted).sum(1)
        near = np.argsort(distance, kind="stable")[: CANDIDATES if at else None]
        found = self._values[near[rng.integers(len(near))]].copy()
        found[at] = [self._stretched(name, value, config) for name, value in values.items()]
        self._fit_groups(found, at)
        return found

    def opposite(self, found: Array, wanted: Mapping[str, float]) -> Array:
        """Return the attributes ``found`` (a,) with the wanted ones reversed, (a,) float32.

        What a prompt asks for is absent, what it excludes is as usual, and ``light`` and
        ``openness`` lie on the other side of their medians.

        wanted: see :meth:`values`.

        Raises InvalidInputError.
        """
        self._check(wanted)
        against = found.copy()
        at = [self.names.index(name) for name in wanted]
        for i, (name, amount) in zip(at, wanted.items(), strict=True):
            if name in SCALES:
                against[i] = np.clip(2.0 * np.median(self._values[:, i]) - found[i], 0.0, 1.0)
            else:
                against[i] = self._value(name, PLAIN) if amount == NONE else 0.0
        self._fit_groups(against, at)
        return against

    def _stretched(self, name: str, value: float, config: CompletionConfig) -> float:
        if name not in SCALES:
            return min(1.0, config.share_stretch * value)
        middle = float(np.median(self._values[:, self.names.index(name)]))
        return min(1.0, max(0.0, middle + config.scale_stretch * (value - middle)))

    def _shown_of(self, names: Sequence[str], wanted: Mapping[str, float]) -> Array:
        """Return (n, k) bool: which places show those of ``names`` that are not wanted."""
        at = [i for i, name in enumerate(self.names) if name in names and name not in wanted]
        return self.table[:, at] >= PRESENT

    def _fit_groups(self, found: Array, wanted: list[int]) -> None:
        for group in self.exclusive:
            self._fit(found, [self.names.index(name) for name in group], wanted)

    def _value(self, name: str, amount: float) -> float:
        if amount == 0.0:
            return 0.0
        column = self._values[:, self.names.index(name)]
        shown = column if name in SCALES else column[column >= PRESENT / 255.0]
        # Painters may know attributes that no place of the table shows.
        return float(np.quantile(shown, amount)) if len(shown) else amount

    def _check(self, wanted: Mapping[str, float]) -> None:
        for name, amount in wanted.items():
            if name not in self.names:
                raise InvalidInputError(
                    f"{name!r} is not an attribute of this painter: it has {', '.join(self.names)}."
                )
            if not 0.0 <= amount <= 1.0:
                raise InvalidInputError(
                    f"the amount of {name!r} is {amount}: give a number from 0 to 1."
                )

    @staticmethod
    def _fit(found: Array, group: list[int], wanted: list[int]) -> None:
        """Scale the attributes of a group down to a sum of 1, those that are not wanted first."""
        named = [i for i in group if i in wanted]
        others = [i for i in group if i not in wanted]
        if (total := float(found[named].sum())) > 1.0:
            found[named] /= total
        room, rest = max(0.0, 1.0 - total), float(found[others].sum())
        if rest > room:
            found[others] *= room / rest
