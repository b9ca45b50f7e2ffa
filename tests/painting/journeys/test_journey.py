"""Journeys: places that fit together, resumed with the same bits, coming back, and giving up."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import worldsim.runtime.limits
from tests.helpers.halls import HallPainter
from worldsim.camera import Camera, default_intrinsics, quantise_depth
from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    OutOfMemoryError,
    PaintingError,
)
from worldsim.memory.points import PointMemory
from worldsim.painting.depth import AlignConfig
from worldsim.painting.diffusers_painter import DiffusersPainter
from worldsim.painting.inpaint import InpaintConfig
from worldsim.painting.journeys.files import load_trip, travel
from worldsim.painting.journeys.journey import JourneyConfig, JourneyMaker
from worldsim.painting.journeys.openings import Opening
from worldsim.painting.journeys.site import MOST_DRAWS, MOST_TRIES, WAY_OUT, groups_of
from worldsim.painting.journeys.travel import align_depth
from worldsim.painting.journeys.trip import Stop, Trip
from worldsim.painting.journeys.words import descriptions_for, reader_of
from worldsim.painting.places.place import PlaceConfig, level_pose, ring
from worldsim.painting.validation.validator import Validator
from worldsim.protocols import PainterSpec, PaintInputs
from worldsim.state import Frame, MemoryView, flatten


def maker(painter: HallPainter | None = None, **changes: object) -> JourneyMaker:
    settings = {"length": 3, "headings": 6, "nearest": 3.0, "furthest": 4.0, **changes}
    return JourneyMaker(
        painter or HallPainter(),
        descriptions_for(None, HallPainter(), 3),
        reader_of(()),
        JourneyConfig(**settings),  # type: ignore[arg-type]
        Validator(names=("scale", "seen_past", "nearest", "room", "floor")),
    )


def made(one: JourneyMaker, folder: Path | None = None) -> Trip:
    *_, trip = travel(one, "", folder)
    return trip


def equal(a: Trip, b: Trip) -> bool:
    first, second = (flatten((trip.frames, trip.memory)) for trip in (a, b))
    return a.stops == b.stops and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def trip() -> Trip:
    return made(maker())


def test_groups_begin_ahead_and_end_behind():
    assert groups_of(8, 8) == [[0, 1, 7], [2, 6, 3, 5, 4]]
    assert groups_of(4, 1) == [[0], [1], [3], [2]]


def test_each_place_lies_ahead_on_free_ground_and_agrees_with_the_others(trip: Trip):
    assert [stop.painted for stop in trip.stops] == [True] * 3
    place = trip.pose[:, :3, 3]
    # From the nearest earlier place: a journey may go on from any of them.
    steps = [float((place[:i] - place[i]).norm(dim=1).min()) for i in (1, 2)]
    assert all(0.75 * 3.0 <= step <= 4.01 for step in steps)
    torch.testing.assert_close(place[:, 2], torch.full((3,), 41.0 / 32.0), atol=0.13, rtol=0.0)
    # No place stands in a pillar.
    for x, y, _ in place.tolist():
        gaps = [math.remainder(value - (-28.0), 8.0) for value in (x, y)]
        assert max(abs(gap) for gap in gaps) > 0.9
    # The memory shows the hall's own depth at each place.
    memory, lens = PointMemory(), torch.tensor([[21.3, 25.6, 16.0, 16.0]])
    for frames in trip.frames:
        assert frames.pose is not None and frames.inverse_depth is not None
        view = memory.render(trip.memory, Camera(frames.pose[:1], lens, 32, 32))
        assert float(view.coverage) > 0.9
        ratio = (view.depth[0] / frames.depth[0])[view.mask[0]]  # type: ignore[index]
        assert abs(float(ratio.log().median())) < 0.02


def test_painted_points_are_marked(trip: Trip):
    assert int(trip.memory.confidence[trip.memory.kind > 0].max()) == 0


def test_a_journey_that_resumes_has_the_same_bits(trip: Trip, tmp_path: Path):
    steps = travel(maker(), "", tmp_path)
    assert len(next(steps)) == 0 and len(next(steps)) == 1
    steps.close()
    painter = HallPainter()
    again = list(travel(maker(painter), "", tmp_path))
    assert [len(one) for one in again] == [1, 2, 3]
    assert equal(again[-1], trip)
    # A finished journey paints nothing, and a longer one goes on from it.
    calls = painter.calls
    assert equal(made(maker(painter), tmp_path), trip) and painter.calls == calls
    longer = made(maker(painter, length=4), tmp_path)
    assert longer.stops[:3] == trip.stops and len(longer) == 4
    # So does one with more patience.
    assert made(maker(painter, tries=9, accept=0.3), tmp_path).stops == trip.stops


def test_other_settings_do_not_resume(trip: Trip, tmp_path: Path):
    next(iter(list(travel(maker(length=1), "", tmp_path))))
    with pytest.raises(InvalidInputError, match="seed = 0, now it is 5"):
        made(maker(seed=5), tmp_path)
    with pytest.raises(InvalidInputError, match="prompt"):
        list(travel(maker(), "a hall", tmp_path))


def test_other_settings_of_a_pipeline_do_not_resume(tmp_path: Path):
    def travelled(config: InpaintConfig | None = None, align: AlignConfig | None = None) -> Trip:
        spec = PainterSpec(32, 32, default_intrinsics(32, 32), views=4)
        painter = DiffusersPainter(
            lambda image, mask_image, generator: [[image]],
            FlatDepth(),
            spec,
            inpaint=config,
            align=align,
        )
        words, settings = descriptions_for(None, painter, 1), JourneyConfig(length=1, headings=4)
        one = JourneyMaker(painter, words, reader_of(()), settings, Validator(names=()))
        return made(one, tmp_path)

    trip = travelled()
    assert equal(travelled(), trip)
    with pytest.raises(InvalidInputError, match=r"sampling.inpaint.paint_black = False"):
        travelled(InpaintConfig(paint_black=True))
    with pytest.raises(InvalidInputError, match=r"sampling.align.median_depth_m = 4.0"):
        travelled(align=AlignConfig(median_depth_m=3.0))


class FlatDepth:
    """Takes everything as equally near."""

    def estimate(self, rgb: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(rgb), *rgb.shape[2:])


def test_damaged_files_are_named(tmp_path: Path):
    made(maker(length=1), tmp_path)
    (tmp_path / "place-000.safetensors").write_bytes(b"nothing")
    with pytest.raises(DamagedFileError, match="place-000"):
        load_trip(tmp_path, HallPainter().spec)


def test_a_loop_finds_what_was_there_and_does_not_paint_over_it():
    painter = HallPainter()
    # Straight on, so that the way back sees the first places from where they were seen before.
    trip = made(maker(painter, length=5, loop=True, openings=False, repaints=0))
    assert [stop.painted for stop in trip.stops] == [True, True, True, False, False]
    pose = trip.pose
    torch.testing.assert_close(pose[3, :3, 3], pose[1, :3, 3])
    torch.testing.assert_close(pose[4, :3, 3], pose[0, :3, 3])
    # It looks back, and shows what it showed on the way out.
    out, back = trip.frames[0], trip.frames[4]
    gap = (out.rgb[3].int() - back.rgb[0].int()).abs().float()
    assert float(gap.median()) == 0.0 and float(gap.mean()) < 6.0
    assert trip.stops[4].coverage > 0.95 and not trip.stops[4].log
    longer = maker(painter, length=5, loop=True, openings=False, repaints=0)
    assert equal(longer.resume(trip.stops, trip.frames), trip)
    # The way back changes nothing in the memory.
    out_only = flatten(longer.resume(trip.stops[:3], trip.frames[:3]).memory)
    whole = flatten(trip.memory)
    assert all(torch.equal(whole[name], out_only[name]) for name in whole)


def test_refused_views_end_in_an_error_that_names_the_checks_and_keeps_the_places(
    trip: Trip, tmp_path: Path
):
    first = maker()
    next(iter(list(travel(maker(length=1), "", tmp_path))))
    # From the second place on, everything is a wall right before the camera.
    bad = HallPainter(metres=0.15)
    with pytest.raises(PaintingError, match=r"place 1 was refused .*nearest.*1 places before"):
        made(maker(bad, tries=6, hopeless=2, cameras=2), tmp_path)
    # Two attempts at two cameras at openings, and at two at the ends of straight ways.
    assert bad.calls == 2 * (2 + 2)
    saved = load_trip(tmp_path, first.painter.spec)
    assert len(saved.stops) == 1
    # The painter that works goes on from there.
    assert equal(made(first, tmp_path), trip)


def test_every_verdict_is_logged(trip: Trip, tmp_path: Path):
    made(maker(length=1), tmp_path)
    told = json.loads((tmp_path / "journey.json").read_text())
    log = told["stops"][0]["log"]
    names = {v["name"] for one in log for view in one["verdicts"] for v in view}
    assert names == {"scale", "seen_past", "nearest", "room", "floor"}
    assert all(one["kept"] == one["views"] for one in log)


def test_refused_openings_are_followed_by_those_of_earlier_places(
    trip: Trip, monkeypatch: pytest.MonkeyPatch
):
    at = {origin: level_pose(x=float(origin)) for origin in range(3)}
    found = {0: [at[0]] * 2, 1: [at[1]] * 2, 2: []}

    def openings(maker: JourneyMaker, trip: Trip, origin: int) -> list[Opening]:
        return [Opening(pose, 1.0, 1.0, 1.0, 1.0) for pose in found[origin]]

    monkeypatch.setattr(JourneyMaker, "_openings", openings)
    monkeypatch.setattr(JourneyMaker, "_straight_on", lambda self, trip, needed: [level_pose()])
    tried = [float(pose[0, 3]) for pose in maker()._cameras(trip)]
    assert tried == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_one_scale_for_views_that_are_painted_at_once():
    code = quantise_depth(torch.full((2, 16, 16), 4.0))
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[:, :, :8] = True
    rgb, zero = torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.zeros(2, 2, 16, 16).byte()
    known = MemoryView(rgb, torch.where(mask, code, 0), mask, zero, zero[:, 0])
    depth = torch.tensor([3.0, 2.0])[:, None, None].expand(2, 16, 16)
    painted = Frame(rgb, quantise_depth(depth), level_pose().expand(2, 4, 4))
    assert [round(float(x), 2) for x in align_depth(painted, known)[1]] == [0.75, 0.5]
    one = align_depth(painted, known, "group")[1]
    # The lower of the two middle values, as PyTorch's median has it.
    assert float(one[0]) == float(one[1]) == pytest.approx(0.5, abs=0.01)
    assert align_depth(painted, known, "none")[1].tolist() == [1.0, 1.0]


def test_wrong_depth_is_scaled_to_the_memory():
    memory_code = quantise_depth(torch.full((1, 16, 16), 4.0))
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, :, :8] = True
    rgb, zero = torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(1, 2, 16, 16).byte()
    known = MemoryView(rgb, torch.where(mask, memory_code, 0), mask, zero, zero[:, 0])
    painted = Frame(rgb, quantise_depth(torch.full((1, 16, 16), 3.0)), level_pose()[None])
    aligned, factor = align_depth(painted, known)
    assert abs(float(factor) - 0.75) < 1e-3
    assert abs(float(aligned.depth.max()) - 4.0) < 0.01  # type: ignore[union-attr]
    # Pixels that were copied stay, and without overlap nothing is scaled.
    whole = Frame(rgb, memory_code, level_pose()[None])
    assert torch.equal(align_depth(whole, known)[0].inverse_depth, memory_code)  # type: ignore


def test_a_painter_whose_depth_is_off_makes_the_same_hall():
    trip = made(maker(HallPainter(wrong=1.25)))
    scales = [one.scale for one in trip.stops[1].log if one.step >= 0]
    assert scales and all(0.6 < s < 1.6 for group in scales for s in group)


def test_random_numbers_depend_on_seed_place_and_attempt(trip: Trip):
    steps = [one.step for stop in trip.stops for one in stop.log if one.step >= 0]
    assert len(set(steps)) == len(steps)
    other = made(maker(seed=1, length=1))
    assert not torch.equal(other.frames[0].rgb, trip.frames[0].rgb)


def test_bad_settings_are_named():
    with pytest.raises(InvalidInputError, match="nearest = 9.0 is more than furthest"):
        JourneyConfig(nearest=9.0)
    with pytest.raises(InvalidInputError, match="length = 51"):
        JourneyConfig(length=51)
    with pytest.raises(InvalidInputError, match="understands no words"):
        descriptions_for("a hall", HallPainter(), 3)


def test_too_little_memory_is_named(monkeypatch: pytest.MonkeyPatch):
    """3 places of 6 views, and 8 views of one place."""
    monkeypatch.setattr(worldsim.runtime.limits, "available_memory", lambda: 2**19)
    spec = HallPainter().spec
    pixels = spec.height * spec.width
    with pytest.raises(OutOfMemoryError, match=f"a memory of {18 * pixels:,} points"):
        maker()
    with pytest.raises(OutOfMemoryError, match="a memory of 262,144 points"):
        PlaceConfig().memory(spec)


def test_words_are_told_to_painters_with_attributes():
    read = reader_of(("brick", "lava", "light"))
    values, told = read("a dark brick hall", np.random.default_rng(0))
    assert values is not None and told is not None
    assert told.tolist() == [True, False, True] and values[1] == 0.0


def test_free_text_reaches_painters_that_read_it():
    class Reader(HallPainter):
        heard: list[str] = []

        def with_prompt(self, prompt: str) -> HallPainter:
            self.heard.append(prompt)
            return self

    painter = Reader()
    one = maker(painter, length=2)
    one.descriptions = descriptions_for("a wood, then a beach", painter, 2)
    assert [stop.words for stop in made(one).stops] == ["a wood", "a beach"] == painter.heard


def test_rings_turn_right():
    assert torch.equal(ring(level_pose(), 4)[0], level_pose())


class ClosedAtFirst(HallPainter):
    """Paints a closed room of 3 m when a place is painted for the first time, the hall later."""

    def paint(self, inputs: PaintInputs) -> Frame:
        draw = int(inputs.step[0]) // MOST_TRIES**2 % MOST_DRAWS
        frame = super().paint(inputs)
        if draw:
            return frame
        assert frame.inverse_depth is not None
        near = frame.inverse_depth.clamp(min=int(quantise_depth(torch.tensor(3.0))))
        return dataclasses.replace(frame, inverse_depth=near)


def test_a_place_without_a_way_out_is_painted_again():
    def first_place(**changes: object) -> Stop:
        one = maker(ClosedAtFirst(), length=1, **changes)
        one.validator = Validator(names=())
        return made(one).stops[0]

    def metres(stop: Stop) -> list[float]:
        verdicts = [v for one in stop.log if one.step < 0 for v in one.verdicts[0]]
        assert {v.name for v in verdicts} == {WAY_OUT}
        return [float(v.value or 0.0) for v in verdicts]

    again = metres(first_place(repaints=3))
    # The first painting is closed; the second one is kept, and no third one is made.
    assert again[0] == 0.0 and again[1] > 8.0 and len(again) == 2
    # Without a repainting that suffices, the widest one is kept.
    assert len(metres(first_place(repaints=2, way_out=1e3))) == 3
    assert not [v for one in first_place(repaints=0).log if one.step < 0 for v in one.verdicts[0]]
