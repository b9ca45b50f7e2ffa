"""Journeys: a painter invents one place after the other, and every place fits what was seen before.

After WonderJourney (Yu et al. 2023). Each place has words. The next camera lies ahead of the walker
on free ground. The painter completes views all around it, a validator judges them, their depth is
scaled to the memory's, and the memory integrates them. A place whose surroundings the memory
already knows is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.camera import Camera
from worldsim.errors import InvalidInputError, PaintingError
from worldsim.memory.gaps import close_mask
from worldsim.memory.painted import captured_from_afar, integrate_painted
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.slots import Points
from worldsim.memory.strays import hang_alone, in_free_space, stand_alone
from worldsim.painting.journeys.free_ground import FreeGround
from worldsim.painting.journeys.openings import Opening, find_openings
from worldsim.painting.journeys.site import (
    MOST_CAMERAS,
    MOST_REPAINTS,
    MOST_TRIES,
    WAY_OUT,
    Site,
    groups_of,
    nearest_headings,
    painted_views,
    split,
)
from worldsim.painting.journeys.straight import straighten
from worldsim.painting.journeys.travel import (
    Alignment,
    align_depth,
    fill_holes,
    next_cameras,
)
from worldsim.painting.journeys.trip import Attempt, Stop, Trip
from worldsim.painting.places.place import (
    EYE_HEIGHT,
    POINT_BYTES,
    frames_at,
    known_view,
    level_pose,
    ring,
)
from worldsim.painting.validation.checks import Views
from worldsim.painting.validation.validator import Validator, Verdict, failures, passed
from worldsim.protocols import DescriptionGenerator, Painter, PromptPainter
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.ranges import NotNegative, Positive, Seed, Share
from worldsim.runtime.types import Array
from worldsim.state import Frame, MemoryView, concatenate, map_tensors

LEAST_HOLE = 0.25
"""Share of the view ahead that the memory must not know for a camera to lead to a new place."""
LONELY_PIXELS = 2.0
"""Radius in pixels in which points have neighbours."""
MOST_POINTS = 2**22
"""Largest capacity of a journey's memory in points."""


Describe = Callable[[str, np.random.Generator], tuple[Array | None, Array | None]]
"""Converts words to attributes (a,) float32 in [0, 1] and which of them are told (a,) bool; None
stands for none."""


@dataclass(frozen=True)
class JourneyConfig:
    """Settings of a journey."""

    length: Annotated[int, Ge(1), Le(50)] = 12
    """Number of places."""
    loop: bool = False
    """Whether the journey comes back: its second half leads through the places of the first half in
    reverse order."""
    seed: Seed = 0
    """Seed of all random numbers."""
    headings: Annotated[int, Ge(3), Le(64)] = 8
    """Views around each place."""
    tries: Annotated[int, Ge(1), Le(MOST_TRIES)] = 4
    """Attempts per group of views. Views that pass are kept, the others are painted again."""
    hopeless: Annotated[int, Ge(1), Le(MOST_TRIES)] = 2
    """Attempts after which a camera is given up if no view of a group has passed in any of them.
    Refused cameras then cost half of the time or less."""
    cameras: Annotated[int, Ge(1), Le(MOST_CAMERAS)] = 3
    """Cameras at openings that are tried for a place, as many at the ends of straight ways, and as
    many at openings of earlier places, before the journey ends with an error."""
    accept: Share = 0.5
    """Share of a group's views that must pass after the last attempt. The best attempt stands in
    for the others."""
    nearest: Positive = 4.0
    """Smallest distance to the next place in metres. Shorter ways are taken if there are no
    others."""
    furthest: Positive = 8.0
    """Largest distance to the next place in metres."""
    openings: bool = True
    """Whether the next place is looked for at openings, borders of the known ground, first.
    Otherwise, and if views there are refused, it lies at the end of a straight free way."""
    repaints: Annotated[int, Ge(0), Le(MOST_REPAINTS)] = 0
    """Further paintings of a place that has no way out. The one with the widest way out is kept."""
    way_out: NotNegative = 1.5
    """Metres of open border from which a place has a way out."""
    open_words: bool = False
    """Whether these further paintings are told that the place is open."""
    align: Alignment = "view"
    """How painted depth is scaled to that of the memory
    (:func:`worldsim.painting.journeys.travel.align_depth`)."""
    straighten: Annotated[int, Ge(0), Le(8)] = 2
    """Passes that straighten the surfaces of accepted depth
    (:func:`worldsim.painting.journeys.straight.straighten`); 0 leaves it as it is."""
    finer: bool = True
    """Whether painted pixels replace points that were captured from much further away
    (``PointMemoryConfig.replace_ratio``), as frames do in any memory."""
    neighbours: Annotated[int, Ge(0), Le(64)] = 2
    """After each place, points with fewer others around them leave the memory
    (:func:`worldsim.memory.strays.stand_alone`, within two pixels); 0 keeps all."""
    free_ground: bool = False
    """Whether nothing new may stand where the floor was free before a place was painted
    (:mod:`worldsim.painting.journeys.free_ground`). Fewer walls, but the backs of pillars go too
    (docs/experiments/journeys.md)."""
    covered: Share = 0.95
    """A place of whose surroundings the memory knows more than this share is not painted."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.nearest > self.furthest:
            raise InvalidInputError(
                f"JourneyConfig.nearest = {self.nearest} is more than furthest = {self.furthest}: "
                "give the smaller distance first."
            )


class JourneyMaker:
    """Makes journeys place by place. Methods never change a trip.

    painter: paints the views.
    descriptions: writes the words.
    describe: reads the words.
    config: settings.
    validator: judges the views; by default that of the painter's views.

    Raises OutOfMemoryError if the memory of all places does not fit.
    """

    def __init__(
        self,
        painter: Painter,
        descriptions: DescriptionGenerator,
        describe: Describe,
        config: JourneyConfig | None = None,
        validator: Validator | None = None,
    ) -> None:
        self.painter, self.descriptions, self.describe = painter, descriptions, describe
        self.config = config or JourneyConfig()
        self.validator = validator or Validator.for_painter(painter)
        spec = painter.spec
        points = self.config.length * self.config.headings * spec.height * spec.width
        capacity = min(MOST_POINTS, points)
        require_memory_for(2 * POINT_BYTES * capacity, f"a memory of {capacity:,} points")
        self.memory = PointMemory(PointMemoryConfig(capacity=capacity))

    def begin(self) -> Trip:
        """Return a journey without places."""
        return Trip((), (), self.memory.empty(1))

    def resume(self, stops: Sequence[Stop], frames: Sequence[Frame]) -> Trip:
        """Return the journey of given places; its memory integrates their frames again."""
        trip = self.begin()
        for stop, views in zip(stops, frames, strict=True):
            trip = self._with(trip, stop, views)
        return trip

    def places(self, trip: Trip) -> Iterator[Trip]:
        """Yield the journey after each further place, up to the configured length."""
        while len(trip) < self.config.length:
            trip = self.extend(trip)
            yield trip

    def extend(self, trip: Trip) -> Trip:
        """Return the journey with one more place.

        Raises PaintingError, which names the failed checks, if no attempt at any camera is
        accepted.
        """
        place = len(trip)
        rng = np.random.default_rng([self.config.seed, place])
        words = self.descriptions.next([stop.words for stop in trip.stops], rng)
        attributes, told = self.describe(words, rng)
        painter = self.painter
        if isinstance(painter, PromptPainter) and words:
            painter = painter.with_prompt(words)
        log: list[Attempt] = []
        known_place: tuple[Stop, Frame] | None = None
        for number, pose in enumerate(islice(self._cameras(trip), 2 * MOST_CAMERAS)):
            poses = ring(pose, self.config.headings)
            site = Site(trip, painter, poses, number, attributes, told)
            known = self._known(trip.memory, site.poses)
            coverage = round(float(close_mask(known.mask).float().mean()), 6)
            stop = Stop(
                words=words,
                told=self._named(attributes, told),
                pose=pose.flatten().tolist(),
                coverage=coverage,
                painted=coverage <= self.config.covered,
                log=log,
            )
            if not stop.painted:
                # On the way out, a place that is new comes before one that is known already.
                known_place = known_place or (stop, fill_holes(known, site.poses))
                continue
            found = self._paint_open(site, stop, log)
            if found is not None:
                return found
        if known_place is not None:
            return self._with(trip, *known_place)
        raise PaintingError(self._complaint(place, log))

    def _paint_open(self, site: Site, stop: Stop, log: list[Attempt]) -> Trip | None:
        """Return the journey with the place of ``site``, None if its views are not accepted.

        A place without a way out is painted again, with other random numbers.
        """
        best: Trip | None = None
        widest = -1.0
        for draw in range(1 + self.config.repaints):
            if draw and self.config.open_words:
                site = site.told_open()
            frames = self._paint_place(replace(site, draw=draw), log)
            if frames is None:
                break
            told = self._named(site.attributes, site.told)
            longer = self._with(site.trip, replace(stop, told=told), frames)
            if not self.config.repaints:
                return longer
            out = self._way_out(longer)
            log[-1].verdicts[0].append(out)
            if out.value is not None and out.value > widest:
                best, widest = longer, out.value
            if out.passed:
                break
        return best

    def _way_out(self, trip: Trip) -> Verdict:
        """Judge whether ways lead on from the newest place of a journey."""
        openings = self._openings(trip, len(trip) - 1)
        metres = round(sum(one.metres for one in openings), 6)
        least = self.config.way_out
        return Verdict(WAY_OUT, metres, least, metres >= least)

    def _openings(self, trip: Trip, origin: int) -> list[Opening]:
        """Return the ways on from a place of a journey."""
        poses = trip.pose
        return find_openings(
            self.memory,
            trip.memory,
            self._camera(poses[origin : origin + 1]),
            torch.cat([poses[:origin], poses[origin + 1 :]]),
            self.config.nearest,
            self.config.furthest,
        )

    def _named(self, attributes: Array | None, told: Array | None) -> dict[str, float]:
        if attributes is None:
            return {}
        names = self.painter.spec.attributes
        given = np.ones(len(names), bool) if told is None else told
        return {
            name: round(float(value), 4)
            for name, value, is_told in zip(names, attributes, given, strict=True)
            if is_told
        }

    def _complaint(self, place: int, log: Sequence[Attempt]) -> str:
        attempts = [one for one in log if one.step >= 0]
        wrong = failures(view for one in log for view in one.verdicts)
        named = ", ".join(f"{name} ({count})" for name, count in list(wrong.items())[:5])
        cameras = len({one.camera for one in log})
        return (
            f"place {place} was refused in {len(attempts)} attempts at {cameras} cameras, most "
            f"often by the checks {named}: raise tries ({self.config.tries}), lower accept "
            f"({self.config.accept}), use more sampling steps, or start with another seed than "
            f"{self.config.seed}. The {place} places before it are kept."
        )

    def _cameras(self, trip: Trip) -> Iterator[Tensor]:
        """Yield the cameras to try for the next place.

        First at openings of the newest place that has some, then at the ends of straight ways, at
        last at openings of earlier places.
        """
        config, place = self.config, len(trip)
        if not place:
            yield from [level_pose(z=EYE_HEIGHT)] * config.cameras
            return
        if config.loop and place > config.length // 2:
            # Back along the way, looking back.
            yield from [ring(trip.pose[config.length - 1 - place], 2)[1]] * config.cameras
            return
        origins = reversed(range(place)) if config.openings else iter(())
        openings: list[Tensor] = []
        for origin in origins:
            openings = [one.pose for one in self._openings(trip, origin)[: config.cameras]]
            if openings:
                break
        yield from openings
        yield from self._straight_on(trip, needed=not openings)
        left = config.cameras
        for origin in origins:
            further = [one.pose for one in self._openings(trip, origin)[:left]]
            yield from further
            left -= len(further)
            if not left:
                break

    def _straight_on(self, trip: Trip, needed: bool) -> list[Tensor]:
        """Return cameras at the ends of straight free ways.

        Where nothing unknown lies ahead, on from an earlier place; else to what is known.

        Raises PaintingError if there are none and they are needed.
        """
        config, place = self.config, len(trip)
        known: list[Tensor] = []
        for origin in reversed(range(place)):
            found = next_cameras(
                self.memory,
                trip.memory,
                self._camera(trip.pose[origin : origin + 1]),
                torch.cat([trip.pose[:origin], trip.pose[origin + 1 :]]),
                config.nearest,
                config.furthest,
                config.cameras,
            )
            fresh = [one.pose for one in found if one.hole >= LEAST_HOLE]
            if fresh:
                return fresh
            known = known or [one.pose for one in found]
        if known or not needed:
            return known
        raise PaintingError(
            f"no free way leads on from any of the {place} places so far: lower nearest "
            f"({config.nearest} m) and resume, or start another journey with another seed than "
            f"{config.seed}. The places are kept."
        )

    def _camera(self, poses: Tensor) -> Camera:
        return self.painter.spec.cameras(poses)

    def _known(self, data: Points, poses: Tensor) -> MemoryView:
        return known_view(self.memory, data, self._camera(poses))

    def _with(self, trip: Trip, stop: Stop, frames: Frame) -> Trip:
        data, seen = trip.memory, painted_views(trip)
        if stop.painted:
            free = self._free_ground(trip)
            for i, frame in enumerate(split(frames)):
                step = len(trip) * self.config.headings + i
                data = self._integrate(data, frame, step, seen, free)
                seen.append(frame)
            if self.config.neighbours:
                focal = self.painter.spec.intrinsics[0]
                alone = stand_alone(data, focal, LONELY_PIXELS, self.config.neighbours)
                data = self.memory.remove(data, alone)
        return Trip((*trip.stops, stop), (*trip.frames, frames), data)

    def _free_ground(self, trip: Trip) -> FreeGround | None:
        """Return the floor that is free before the next place; None if nothing is known of it."""
        if not self.config.free_ground or not len(trip):
            return None
        return FreeGround.of(trip.memory, trip.pose[0])

    def _integrate(
        self,
        data: Points,
        frame: Frame,
        step: int,
        seen: Sequence[Frame],
        free: FreeGround | None,
    ) -> Points:
        """Add what the memory did not know as finely yet, but not what hangs in the air.

        seen: earlier views of the journey.
        free: floor on which nothing new may stand.
        """
        assert frame.pose is not None
        camera = self._camera(frame.pose)
        known = self.memory.render(data, camera)
        left_out = known.mask
        if self.config.finer:
            left_out = left_out & ~captured_from_afar(
                known, frame, self.memory.config.replace_ratio
            )
        left_out = left_out | hang_alone(frame)
        if free is not None:
            left_out = left_out | free.carries(frame, camera)
        if seen:
            others: Frame = concatenate(seen)
            assert others.pose is not None
            left_out |= in_free_space(frame, camera, others, self._camera(others.pose))
        return integrate_painted(self.memory, data, frame, camera, torch.tensor([step]), left_out)

    def _paint_place(self, site: Site, log: list[Attempt]) -> Frame | None:
        """Return the views of a place (headings, ...), None if they are not accepted."""
        config, data, first = self.config, site.trip.memory, len(site.trip) * self.config.headings
        done: dict[int, Frame] = {}
        seen, free = painted_views(site.trip), self._free_ground(site.trip)
        for number, group in enumerate(groups_of(config.headings, self.painter.spec.views)):
            painted = self._paint_group(site, data, group, number, done, log)
            if painted is None:
                return None
            done |= painted
            for i in group:
                data = self._integrate(data, painted[i], first + i, seen, free)
                seen.append(painted[i])
        frames: Frame = concatenate([done[i] for i in range(config.headings)])
        every = list(range(config.headings))
        verdicts = self.validator.place(data, Views(frames, self._camera(site.poses)))
        kept = every if passed(verdicts) else []
        log.append(Attempt(site.number, every, -1, [], [verdicts], kept))
        return frames if kept else None

    def _paint_group(
        self,
        site: Site,
        data: Points,
        group: Sequence[int],
        number: int,
        done: Mapping[int, Frame],
        log: list[Attempt],
    ) -> dict[int, Frame] | None:
        """Paint views of a place until they pass; returns them by heading, None if too few pass."""
        kept: dict[int, Frame] = {}
        best: dict[int, tuple[int, Frame]] = {}
        others = site.others(done)
        for attempt in range(self.config.tries):
            todo = [i for i in group if i not in kept]
            whole = {**done, **kept}
            beside = nearest_headings(todo, whole, len(site.poses), self.painter.spec.views)
            known = self._known(data, site.poses[todo])
            given = [whole[i] for i in beside]
            step = site.key(number, attempt)
            inputs = site.inputs([*todo, *beside], known, given, self.config.seed, step)
            painted = map_tensors(lambda x: x.cpu(), site.painter.paint(inputs))
            fresh, scale = align_depth(
                frames_at(painted, range(len(todo))), known, self.config.align
            )
            views = Views(fresh, self._camera(site.poses[todo]), known, *others)
            verdicts = self.validator.views(views, inputs, concatenate([fresh, *given]))
            for i, frame, found in zip(todo, split(fresh), verdicts, strict=True):
                wrong = sum(not verdict.passed for verdict in found)
                if not wrong:
                    kept[i] = frame
                if i not in best or wrong < best[i][0]:
                    best[i] = wrong, frame
            log.append(
                Attempt(
                    camera=site.number,
                    views=todo,
                    step=step,
                    scale=[round(float(x), 4) for x in scale],
                    verdicts=verdicts,
                    kept=[i for i in todo if i in kept],
                )
            )
            if len(kept) == len(group) or (not kept and attempt + 1 >= self.config.hopeless):
                break
        if len(kept) < self.config.accept * len(group):
            return None
        chosen = {i: kept[i] if i in kept else best[i][1] for i in group}
        if not self.config.straighten:
            return chosen
        # After the validator, whose thresholds are those of views as they are painted.
        known = self._known(data, site.poses[list(group)])
        return {
            i: straighten(chosen[i], known.mask[row : row + 1], self.config.straighten)
            for row, i in enumerate(group)
        }
