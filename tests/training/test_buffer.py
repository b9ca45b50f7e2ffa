"""The training buffer: what belongs to which frame, views from the past only, and augmentations
that keep the two together."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.recordings import SIZE, Shard, plain, room
from tests.helpers.training import CLEAN, CPU
from worldsim.camera import relative_motion
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.training.buffer import FrameBuffer, Windows, augment
from worldsim.training.corruption import OwnFrames, PerturbConfig
from worldsim.training.rollout import unpack_view
from worldsim.training.train import PRESETS
from worldsim.world.heads import to_world_axes

MIRROR = (0, 1, 2, 4, 3, 6, 5)
"""Turning and side-stepping change sides."""


def filled(
    shard: Shard, window: int = 4, perturb: PerturbConfig = CLEAN, seed: int = 0, **changes: Any
) -> FrameBuffer:
    """A buffer with a memory that holds one shard."""
    memory = PointMemory(PointMemoryConfig(capacity=2048))
    buffer = FrameBuffer(1000, window, memory, CPU, perturb, **{"episodes_at_once": 4} | changes)
    buffer.add(shard)
    buffer.remember(seed)
    return buffer


def drawn(buffer: FrameBuffer, count: int = 64, seed: int = 0, memory_drop: float = 0.0) -> Windows:
    return buffer.sample(count, torch.Generator().manual_seed(seed), memory_drop)


def every_frame(buffer: FrameBuffer) -> Windows:
    """All frames in order: windows of one frame, drawn until each was there. Needs a buffer of
    window 1 and 2x2 frames."""
    windows = drawn(buffer, 400)
    order = windows.rgb[:, 0, 0, 0, 0].argsort(stable=True)
    values, counts = windows.rgb[:, 0, 0, 0, 0][order].unique_consecutive(return_counts=True)
    assert values.tolist() == list(range(len(values)))
    pick = order[torch.cumsum(counts, 0) - 1]
    scene = {f.name: getattr(windows, f.name) for f in dataclasses.fields(windows)}
    return Windows(**{k: None if v is None else v[pick] for k, v in scene.items()})


def consistency(windows: Windows) -> float:
    """Mean difference of frame and view in [-1, 1], where the memory knows the pixel."""
    assert windows.view is not None
    mask = windows.view[:, :, 4:5] > 0
    return float(
        ((windows.x[:, :, :3] - windows.view[:, :, :3]).abs() * mask).sum() / (3 * mask.sum())
    )


def test_outcomes_belong_to_the_frame_they_lead_to() -> None:
    """Episodes of 3 and 4 frames: act[i], rew[i] and term[i] of the file come with frame i + 1, and
    no frame 0 has any."""
    buffer = FrameBuffer(100, 1, None, CPU)
    buffer.add(plain(3, 4, ended=True))
    frames = every_frame(buffer)
    assert frames.act[:, 0].tolist() == [0, 1, 2, 0, 4, 5, 6]
    assert frames.rew[:, 0].tolist() == [0.0, 0.0, 0.5, 0.0, 1.5, 2.0, 2.5]
    assert frames.term[:, 0].tolist() == [False, False, True, False, False, False, True]
    assert not frames.motion.any() and frames.view is None and frames.inverse_depth is None
    assert frames.x.shape == (7, 1, 3, 2, 2)


def test_windows_never_cross_episodes() -> None:
    """Of episodes of 5, 2 and 4 frames, windows of 3 start at 0, 1, 2 and 7, 8."""
    buffer = FrameBuffer(100, 3, None, CPU)
    buffer.add(plain(5, 2, 4))
    assert len(buffer) == 5
    first = drawn(buffer).rgb[:, :, 0, 0, 0].int()
    assert {tuple(row) for row in first.tolist()} == {
        (0, 1, 2),
        (1, 2, 3),
        (2, 3, 4),
        (7, 8, 9),
        (8, 9, 10),
    }


def test_windows_run_past_an_end_of_its_own() -> None:
    """Of 5 frames, windows of 3: all of two frames and more, so that the last frame is in two
    windows, as the one before it is."""
    buffer = FrameBuffer(100, 3, None, CPU)
    buffer.add(plain(5, ended=True))
    assert len(buffer) == 4
    windows = drawn(buffer, 400)
    assert (
        windows.padding is not None
        and windows.synthetic_terminal is None
        and windows.unsure is None
    )
    rows = {
        (tuple(a), tuple(b))
        for a, b in zip(windows.rgb[:, :, 0, 0, 0].tolist(), windows.padding.tolist(), strict=True)
    }
    whole = (False, False, False)
    assert rows == {
        ((0, 1, 2), whole),
        ((1, 2, 3), whole),
        ((2, 3, 4), whole),
        ((3, 4, 4), (False, False, True)),
    }
    assert torch.equal(windows.judged, ~windows.padding) and torch.equal(
        windows.drawn, ~windows.padding
    )
    # Without the first frames, which are not judged: frame 4, the end, is there as often as frame
    # 3.
    judged = windows.rgb[:, 1:, 0, 0, 0][~windows.padding[:, 1:]]
    assert [int((judged == k).sum()) for k in (3, 4)] == pytest.approx([200, 200], abs=30)
    # Cut off, it ends where full windows end, and no mask is needed.
    buffer.add(plain(5))
    assert len(buffer) == 4 + 3
    cut = FrameBuffer(100, 3, None, CPU)
    cut.add(plain(5))
    assert len(cut) == 3 and drawn(cut).drawn is None and drawn(cut).judged is None


def test_made_up_last_frames_are_known() -> None:
    """A black last frame, one that repeats the frame before, and one that is as good as any; ended
    and cut off alike."""
    for ended in (True, False):
        shard = plain(3, 3, 3, ended=ended)
        shard["rgb"][2] = 0
        shard["rgb"][5] = shard["rgb"][4]
        buffer = FrameBuffer(100, 3, None, CPU)
        buffer.add(shard)
        windows = drawn(buffer, 100)
        assert windows.synthetic_terminal is not None
        last = {2: 1, 5: 4}
        for row in range(100):
            index = (windows.act[row] - 1).tolist()
            for t in range(3):
                assert bool(windows.synthetic_terminal[row, t]) == (index[t] + 1 in last), (
                    index,
                    t,
                )
        assert not bool((windows.drawn & windows.synthetic_terminal).any())
    # One colour in the middle of an episode is a frame like others.
    shard = plain(4)
    shard["rgb"][1] = 7
    buffer = FrameBuffer(100, 3, None, CPU)
    buffer.add(shard)
    assert drawn(buffer).synthetic_terminal is None


def test_what_was_cut_off_teaches_no_end() -> None:
    """ViZDoom says of its own time limit that it ended and was cut off at once: nobody knows
    which."""
    shard = plain(4)
    shard["term"] = shard["trunc"].copy()
    buffer = FrameBuffer(100, 4, None, CPU)
    buffer.add(shard)
    windows = drawn(buffer, 50)
    assert not windows.term.any() and windows.unsure is not None
    whole = (
        (windows.padding.sum(1) == 0)
        if windows.padding is not None
        else torch.ones(50, dtype=torch.bool)
    )
    assert windows.unsure[whole].tolist() == [[False, False, False, True]] * int(whole.sum())
    assert windows.judged[whole].tolist() == [[True, True, True, False]] * int(whole.sum())


def test_old_shards_make_room() -> None:
    """Room for 10 frames, shards of 4: the third takes the first one's place, the fourth the second
    one's."""
    buffer = FrameBuffer(10, 2, None, CPU)
    for number, expected in enumerate([{0}, {0, 1}, {1, 2}, {2, 3}, {3, 4}]):
        buffer.add(plain(4, first=4 * number))
        assert len(buffer) == 3 * len(expected)
        windows = drawn(buffer).rgb[:, :, 0, 0, 0].int()
        assert set((windows // 4).flatten().tolist()) == expected
        assert bool((windows[:, 1] == windows[:, 0] + 1).all())
    with pytest.raises(
        InvalidInputError, match="11 frames does not fit a buffer of 10: raise --buffer-frames"
    ):
        buffer.add(plain(11))


def test_space_is_taken_as_needed() -> None:
    """A small recording must not take the memory of the largest one that would fit."""
    buffer = FrameBuffer(1_000_000, 2, None, CPU)
    for number in range(20):
        buffer.add(plain(4, first=4 * number))
        assert 4 * (number + 1) <= len(buffer._data["rgb"]) <= 5 * (number + 1)
    windows = drawn(buffer, 400).rgb[:, :, 0, 0, 0].int()
    assert set((windows // 4).flatten().tolist()) == set(range(20))


def test_an_empty_buffer_says_what_to_record() -> None:
    buffer = FrameBuffer(10, 5, None, CPU)
    buffer.add(plain(4))
    assert len(buffer) == 0
    with pytest.raises(InvalidInputError, match="no window of 5 frames"):
        drawn(buffer)


def test_memory_needs_geometry() -> None:
    with pytest.raises(MissingGeometryError, match="--no-memory"):
        FrameBuffer(10, 2, PointMemory(), CPU).add(plain(4))


def test_motion_is_that_of_the_poses() -> None:
    """Zero for an episode's first frame, else from the frame before."""
    shard = room(6, 5)
    buffer = filled(shard, window=5)
    pose = torch.from_numpy(shard["pose"])
    expected = torch.cat([torch.zeros(1, 6), relative_motion(pose[:-1], pose[1:])])
    expected[6] = 0.0
    windows = drawn(buffer)
    starts = set()
    for rgb, motion in zip(windows.rgb, windows.motion, strict=True):
        start = next(
            s
            for s in (0, 1, 6)
            if np.array_equal(rgb.permute(0, 2, 3, 1).numpy(), shard["rgb"][s : s + 5])
        )
        assert torch.equal(motion, expected[start : start + 5])
        starts.add(start)
    assert starts == {0, 1, 6}
    assert float(expected.abs().max()) > 0.1


def test_views_come_from_the_past_only() -> None:
    """The first frame of an episode has an empty view, and a later frame's colours change the views
    after it alone."""
    shard = room(6, 6)
    before = filled(shard)._data
    empty = before["view"][:12].flatten(1).any(1).logical_not()
    assert [i for i in range(12) if bool(empty[i])] == [0, 6]
    mattered = []
    for j in range(6):
        changed = dict(shard, rgb=shard["rgb"].copy())
        changed["rgb"][j] = 255 - changed["rgb"][j]
        after = filled(changed)._data
        same = [torch.equal(before["view"][i], after["view"][i]) for i in range(12)]
        assert all(same[: j + 1]) and all(same[6:])
        mattered.append(not all(same))
    # Not every frame has something new to show, but the first has.
    assert mattered[0] and sum(mattered) > 1
    # The map stands for what the head knows once the frame is there: it includes the frame itself.
    assert bool(before["around"][:12].any())


def test_the_view_agrees_with_the_frame() -> None:
    """Clean memories of a still room show nearly the same colours; degraded ones less, and not
    every frame is in them."""
    shard = room(12)
    clean = filled(shard)
    assert consistency(drawn(clean)) < 0.15
    noisy = filled(shard, perturb=PerturbConfig(sparse=1.0, blurred=1.0, depth_noise=1.0))
    known = [float(unpack_view(b._data["view"][:12]).mask.float().mean()) for b in (clean, noisy)]
    assert known[1] < known[0]
    # The same seed degrades alike, so that a resumed training goes on with the same views.
    again, other = (filled(shard, perturb=PerturbConfig(1.0, 1.0, 1.0), seed=s) for s in (0, 1))
    assert torch.equal(noisy._data["view"], again._data["view"])
    assert not torch.equal(noisy._data["view"], other._data["view"])


def test_parts_of_walks_are_dreamed() -> None:
    """The walk goes on from dreamed frames here and there, never among the first eight; targets
    stay true, views follow."""
    torch.manual_seed(0)
    own = OwnFrames(SpaceTimeTransformer(height=SIZE, width=SIZE, **PRESETS["debug"]))
    shard, perturb = room(40, 40, 40, 40), dataclasses.replace(CLEAN, own=1.0)
    memory = PointMemory(PointMemoryConfig(capacity=2048))
    buffer = FrameBuffer(1000, 40, memory, CPU, perturb, episodes_at_once=4)
    buffer.add(shard)
    buffer.remember(0, own)
    windows, clean = drawn(buffer, 16), drawn(filled(shard, 40), 16)
    assert windows.own_rgb is not None and windows.view is not None and clean.view is not None
    dreamed = (windows.own_rgb != windows.rgb).flatten(2).any(2)
    assert not dreamed[:, :8].any() and 0.1 < float(dreamed[:, 8:].float().mean()) < 0.8
    assert torch.equal(windows.rgb, clean.rgb) and torch.equal(
        windows.context[~dreamed], windows.x[~dreamed]
    )
    assert torch.equal(windows.view[:, :9], clean.view[:, :9]) and not torch.equal(
        windows.view, clean.view
    )
    assert clean.own_rgb is None and torch.equal(clean.context, clean.x)
    # The memory holds dreamed frames from the first one on; the maps of surroundings never do.
    assert windows.dreamed is not None and clean.dreamed is None
    assert (
        torch.equal(windows.dreamed[:, 1:], dreamed.cummax(1).values[:, :-1])
        and not windows.dreamed[:, 0].any()
    )
    assert torch.equal(buffer._data["around"][:160], filled(shard, 40)._data["around"][:160])


def test_walks_are_dreamed_without_a_memory() -> None:
    own = OwnFrames(
        SpaceTimeTransformer(
            height=8, width=8, channels=3, view_channels=0, actions=64, **PRESETS["debug"]
        )
    )
    shard = plain(60)
    shard["rgb"] = np.broadcast_to(shard["rgb"][:, :1, :1], (60, 8, 8, 3))
    buffer = FrameBuffer(100, 60, None, CPU, PerturbConfig(own=1.0), episodes_at_once=1)
    buffer.add(shard)
    buffer.remember(0, own)
    windows = drawn(buffer, 1)
    assert windows.own_rgb is not None and windows.own_inverse_depth is None
    assert bool((windows.own_rgb != windows.rgb).any()) and windows.context.shape == (
        1,
        60,
        3,
        8,
        8,
    )


def test_batching_of_episodes_changes_nothing() -> None:
    """Five episodes of other lengths in one go, or one after the other: a short one's last frame is
    not in its own view."""
    shard = room(3, 6, 2, 5, 4)
    together, apart = (
        filled(shard, episodes_at_once=8)._data,
        filled(shard, episodes_at_once=1)._data,
    )
    for name in ("view", "around"):
        assert torch.equal(together[name][:20], apart[name][:20])


def test_a_shard_in_an_old_ones_place_shows_nothing_of_it() -> None:
    """Until it went through the memory itself, also where another shard's views were."""
    buffer = FrameBuffer(
        6, 2, PointMemory(PointMemoryConfig(capacity=1024)), CPU, CLEAN, episodes_at_once=4
    )
    buffer.add(room(6))
    buffer.remember(0)
    assert bool(buffer._data["view"].any())
    buffer.add(room(5))
    assert not bool(buffer._data["view"][:5].any())
    buffer.remember(0)
    assert bool(buffer._data["view"][1:5].flatten(1).any(1).all())


def test_moments_line_up_with_the_walk() -> None:
    """Past motions and actions end at the present frame, the action leads on, the target is where
    it led; maps are the frame's."""
    shard = room(14)
    buffer = filled(shard, window=12)
    motions = buffer.sample_motions(60, torch.Generator().manual_seed(0))
    pose = torch.from_numpy(shard["pose"])
    step = to_world_axes(relative_motion(pose[:-1], pose[1:]), pose[:-1])
    act = torch.from_numpy(shard["act"])
    # Frames 8 to 12 have a past of 8 motions and a next frame inside one of the three windows.
    now = [int((pose == p).all(-1).all(-1).nonzero()[-1]) for p in motions.pose]
    assert set(now) == {8, 9, 10, 11, 12}
    for i, t in enumerate(now):
        torch.testing.assert_close(motions.motion[i], step[t - 8 : t])
        torch.testing.assert_close(motions.target[i], step[t])
        assert torch.equal(motions.acts[i], act[t - 8 : t]) and motions.act[i] == act[t]
        assert torch.equal(motions.around[i], buffer._data["around"][t]) and bool(
            motions.around[i].any()
        )


def test_moments_without_a_memory_see_one_frame() -> None:
    shard = room(14)
    buffer = FrameBuffer(100, 12, None, CPU)
    buffer.add(shard)
    motions = buffer.sample_motions(20, torch.Generator().manual_seed(0))
    with_memory = filled(shard, window=12).sample_motions(20, torch.Generator().manual_seed(0))
    assert torch.equal(motions.pose, with_memory.pose) and torch.equal(
        motions.target, with_memory.target
    )
    alone, all_seen = (m.around.bool().sum() for m in (motions, with_memory))
    assert 0 < alone < all_seen


def test_moments_need_poses_and_a_past() -> None:
    buffer = FrameBuffer(100, 12, None, CPU)
    buffer.add(plain(14))
    with pytest.raises(MissingGeometryError, match="poses"):
        buffer.sample_motions(1, torch.Generator())
    with pytest.raises(InvalidInputError, match="9 frames"):
        filled(room(12), window=9).sample_motions(1, torch.Generator())


def test_share_of_windows_without_memory() -> None:
    """Whole windows lose their view, about as many as asked for."""
    buffer = filled(room(12))
    windows = drawn(buffer, 400, memory_drop=0.25)
    assert windows.view is not None
    dark = ~windows.view.flatten(1).any(1)
    # Four standard deviations of 400 draws are 0.087.
    assert float(dark.float().mean()) == pytest.approx(0.25, abs=0.09)
    assert not drawn(buffer, memory_drop=1.0).view.any()  # type: ignore[union-attr]


def test_mirror_keeps_view_and_frame_together() -> None:
    """A mirrored window is the window of the mirrored world; mirrored once more, it is the window
    itself."""
    buffer = filled(room(12))
    windows = drawn(buffer, 32)
    mirrored = augment(windows, torch.Generator().manual_seed(1), MIRROR, 0.0)
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(mirrored.rgb, windows.rgb, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(mirrored.rgb, windows.rgb, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True)) and 8 <= sum(flipped) <= 24
    assert consistency(mirrored) == pytest.approx(consistency(windows), abs=1e-6)
    i = flipped.index(True)
    assert mirrored.act[i].tolist() == [MIRROR[a] for a in windows.act[i].tolist()]
    sign = torch.tensor([-1.0, 1, 1, 1, -1, -1])
    assert torch.equal(mirrored.motion[i], windows.motion[i] * sign)
    again = augment(mirrored, torch.Generator().manual_seed(1), MIRROR, 0.0)
    for field in dataclasses.fields(windows):
        before, after = getattr(windows, field.name), getattr(again, field.name)
        assert (before is None and after is None) or torch.equal(after, before), field.name


def test_mirror_by_hand() -> None:
    """One column of offset 0 at the left edge: it changes sides."""
    view = torch.zeros(1, 1, 8, 1, 4)
    view[0, 0, :, 0, 0] = torch.tensor([0.5, 0.5, 0.5, 0.2, 1.0, -15 / 16, -7 / 16, 0.3])
    windows = Windows(
        rgb=torch.zeros(1, 1, 3, 1, 4, dtype=torch.uint8),
        inverse_depth=torch.tensor([[[[1, 2, 3, 4]]]], dtype=torch.int32),
        act=torch.tensor([[3]]),
        rew=torch.zeros(1, 1),
        term=torch.zeros(1, 1, dtype=torch.bool),
        motion=torch.arange(1.0, 7.0)[None, None],
        view=view,
    )
    seed = next(
        s
        for s in range(20)
        if float(torch.rand(1, generator=torch.Generator().manual_seed(s))) < 0.5
    )
    mirrored = augment(windows, torch.Generator().manual_seed(seed), MIRROR, 0.0)
    assert mirrored.inverse_depth is not None and mirrored.view is not None
    assert mirrored.inverse_depth.flatten().tolist() == [4, 3, 2, 1]
    assert mirrored.act.tolist() == [[4]]
    assert mirrored.motion.flatten().tolist() == [-1.0, 2.0, 3.0, 4.0, -5.0, -6.0]
    torch.testing.assert_close(
        mirrored.view[0, 0, :, 0, 3], torch.tensor([0.5, 0.5, 0.5, 0.2, 1.0, 15 / 16, -7 / 16, 0.3])
    )
    assert not mirrored.view[..., :3].any()


def test_mirrored_motion_is_the_mirrored_poses_motion() -> None:
    """Poses mirrored at the plane x = 0 of the world and of the camera: M P M with M = diag(-1, 1,
    1, 1)."""
    pose = torch.from_numpy(room(8)["pose"])
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    other = mirror @ pose @ mirror
    sign = torch.tensor([-1.0, 1, 1, 1, -1, -1])
    torch.testing.assert_close(
        relative_motion(other[:-1], other[1:]),
        relative_motion(pose[:-1], pose[1:]) * sign,
        atol=1e-5,
        rtol=0,
    )


def test_colours_change_in_view_and_frame_alike() -> None:
    buffer = filled(room(12))
    windows = drawn(buffer, 32)
    varied = augment(windows, torch.Generator().manual_seed(1), None, 1.0)
    assert windows.view is not None and varied.view is not None
    assert not torch.equal(varied.rgb, windows.rgb)
    # Gains are at most 1.3, and the frame is rounded to whole codes.
    assert consistency(varied) < 1.3 * consistency(windows) + 1 / 127.5
    # Where frame and view agreed, they agree: make them agree everywhere.
    mask = windows.view[:, :, 4:5]
    exact = dataclasses.replace(
        windows, view=torch.cat([windows.x[:, :, :3] * mask, windows.view[:, :, 3:]], 2)
    )
    varied = augment(exact, torch.Generator().manual_seed(1), None, 1.0)
    assert varied.view is not None
    assert (
        float(((varied.x[:, :, :3] - varied.view[:, :, :3]) * mask).abs().max())
        <= 0.5 / 127.5 + 1e-5
    )
    assert torch.equal(varied.view[:, :, 3:], exact.view[:, :, 3:])  # type: ignore[index]
    assert not ((varied.view[:, :, :3] != 0) & (mask == 0)).any()
    for name in ("act", "motion", "inverse_depth"):
        assert torch.equal(getattr(varied, name), getattr(exact, name))


def test_share_of_recoloured_windows() -> None:
    windows = drawn(filled(room(12)), 400)
    varied = augment(windows, torch.Generator().manual_seed(1), None, 0.5)
    changed = (varied.rgb != windows.rgb).flatten(1).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.5, abs=0.1)
    assert torch.equal(
        augment(windows, torch.Generator().manual_seed(1), None, 0.0).rgb, windows.rgb
    )
