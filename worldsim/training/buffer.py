"""Training frames on the device, with the memory view before each of them.

Episodes pass through the real scene memory once, in lockstep: frame t's view is rendered from
earlier frames only, then frame t is integrated. Input frames are dropped and corrupted
(:mod:`worldsim.training.corruption`), so that the model neither relies on a perfect memory nor
ignores it. Windows are then cut from anywhere in the buffer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import Camera, relative_motion
from worldsim.diffusion.denoiser import frame_to_channels, view_to_channels
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.splat import MAP_CELLS, frame_surroundings
from worldsim.protocols import SceneMemory
from worldsim.runtime.progress import Progress
from worldsim.state import Frame, where_rows
from worldsim.training.corruption import Degradation, OwnFrames, PerturbConfig
from worldsim.training.painted import PaintedViews, PaintedWalks, check_camera
from worldsim.training.rollout import (
    PACKED_VIEW,
    Given,
    Lockstep,
    RolloutState,
    mark_invented,
    unpack_invented,
    unpack_view,
)
from worldsim.world.heads import HISTORY, MIRRORED_MOTION, Motions, to_world_axes
from worldsim.world.paint_ahead import Takes

PAINTING = 0x5EED
"""Changes a batch's seed to that of its painted views."""

OptionalTensor = TypeVar("OptionalTensor", Tensor, Tensor | None)


@dataclass(frozen=True)
class Windows:
    """A batch of training windows. b windows, t frames; frame i was reached by act[:, i].

    rgb: (b, t, 3, h, w) uint8. inverse_depth: (b, t, h, w) int32 or None. act: (b, t, ...). rew,
    term: (b, t) of the transition into the frame. motion: (b, t, 6). view: (b, t, 8, h, w) float32
    channels or None. own_rgb, own_inverse_depth: the frames that later ones attend to where these
    are not the true ones: dreamed or edited; or None. dreamed: (b, t) bool, whether the memory that
    is shown holds dreamed frames, or None. invented: (b, t, h, w) bool, pixels that show points
    which a painter painted, or None.

    Where episodes end, (b, t) bool each, or None for nowhere: padding: fills up the window past the
    end. synthetic_terminal: a last frame that the environment does not really show (see
    :func:`is_synthetic_terminal`). unsure: it ended by itself and was cut off at once.
    """

    rgb: Tensor
    inverse_depth: Tensor | None
    act: Tensor
    rew: Tensor
    term: Tensor
    motion: Tensor
    view: Tensor | None
    own_rgb: Tensor | None = None
    own_inverse_depth: Tensor | None = None
    dreamed: Tensor | None = None
    padding: Tensor | None = None
    synthetic_terminal: Tensor | None = None
    unsure: Tensor | None = None
    invented: Tensor | None = None

    @property
    def drawn(self) -> Tensor | None:
        """(b, t) bool, frames whose picture can be learned; None for all."""
        return _neither(self.padding, self.synthetic_terminal)

    @property
    def judged(self) -> Tensor | None:
        """(b, t) bool, frames whose reward and termination can be learned; None for all."""
        return _neither(self.padding, self.unsure)

    @property
    def x(self) -> Tensor:
        """(b, t, c, h, w) float32 channels in [-1, 1]."""
        return frame_to_channels(self.rgb, self.inverse_depth)

    @property
    def context(self) -> Tensor:
        """Return the windows of context frames, with generated frames where there are any."""
        return (
            self.x
            if self.own_rgb is None
            else frame_to_channels(self.own_rgb, self.own_inverse_depth)
        )


def _neither(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    both = [x for x in (one, other) if x is not None]
    return ~torch.stack(both).any(0) if both else None


def is_synthetic_terminal(before: np.ndarray, last: np.ndarray) -> bool:
    """Return whether an episode's last frame (h, w, 3) uint8 is synthetic.

    It is if it has a single colour (ViZDoom renders no terminal frame and returns zeros) or repeats
    the frame before.
    """
    return bool((last == last[:1, :1]).all() or (last == before).all())


def bytes_per_frame(
    height: int, width: int, geometry: bool, memory: bool, own: bool = False
) -> int:
    """Return the bytes per frame of a :class:`FrameBuffer`, without actions of many dimensions.

    own: whether generated frames are stored beside true ones.
    """
    pixel = (3 + 2 * geometry) * (1 + own) + PACKED_VIEW * memory
    return height * width * pixel + 2 * MAP_CELLS**2 * memory + 128


class FrameBuffer:
    """A ring buffer of episodes on the device, from which windows are sampled.

    capacity: frames.
    window: frames per window.
    memory: None for data without geometry.
    graphs: pass episodes through the memory with CUDA graphs.
    painted: paints ahead of a share of the walks.
    """

    def __init__(
        self,
        capacity: int,
        window: int,
        memory: SceneMemory | None,
        device: torch.device,
        perturb: PerturbConfig | None = None,
        episodes_at_once: int = 256,
        graphs: bool = False,
        painted: PaintedViews | None = None,
    ) -> None:
        self.capacity, self.window, self.memory, self.device = capacity, window, memory, device
        self.perturb = perturb or PerturbConfig()
        self.episodes_at_once, self.graphs, self.painted = episodes_at_once, graphs, painted
        self.intrinsics: Tensor | None = None
        self.frames = 0
        self._data: dict[str, Tensor] = {}
        self._shards: list[tuple[int, int]] = []
        self._starts: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._fresh: dict[int, list[tuple[int, int]]] = {}
        # First frames of full windows; of all, those that run past an episode's end included; and
        # the last frame of each's episode.
        self._full_starts, self._all_starts, self._last = (
            torch.zeros(0, dtype=torch.int64, device=device) for _ in range(3)
        )
        self._has_synthetic_terminals = self._has_unsure = self._runs_over = False

    def __len__(self) -> int:
        """Return the number of windows that can be sampled."""
        return len(self._all_starts)

    def add(self, shard: Mapping[str, np.ndarray]) -> None:
        """Add the arrays of one shard and evict the oldest shards.

        See :mod:`worldsim.data.dataset` for the arrays. The shard's memory views are empty until
        :meth:`remember`, which is faster for many episodes at once.
        """
        count = len(shard["rgb"])
        if count > self.capacity:
            raise InvalidInputError(
                f"a shard of {count} frames does not fit a buffer of {self.capacity}: raise "
                f"--buffer-frames"
            )
        if self.memory is not None and "pose" not in shard:
            raise MissingGeometryError(
                "the scene memory needs poses and depth, this recording has none: train with "
                "--no-memory"
            )
        at = self.frames if self.frames + count <= self.capacity else 0
        self._evict(at, at + count)
        lengths = np.diff(shard["episode_start"])
        self._write(at, shard)
        self._shards.append((at, at + count))
        self.frames = at + count
        ended = np.asarray(shard["term"])[shard["episode_start"][1:] - 2] & (lengths > 1)
        self._starts[at] = self._windows(shard["episode_start"][:-1] + at, lengths, ended)
        self._full_starts, self._all_starts, self._last = (
            torch.cat(parts) for parts in zip(*self._starts.values(), strict=True)
        )
        self._fresh[at] = [
            (int(at + s), int(n)) for s, n in zip(shard["episode_start"][:-1], lengths, strict=True)
        ]

    @torch.no_grad()
    def remember(self, seed: int, own: OwnFrames | None = None, shown: bool = False) -> None:
        """Pass new episodes through the scene memory and store each frame's view and map.

        Has no effect without a memory.

        seed: seed of the corruption.
        own: generates parts of the walks, in the share of batches that the corruption sets.
        shown: show progress, in frames.
        """
        episodes = [e for fresh in self._fresh.values() for e in fresh]
        self._fresh.clear()
        if self.memory is None and own is None:
            return
        # Kept no longer than this: what CUDA graphs hold is memory that training can use.
        takes = Takes.ALL if self.painted is None else self.painted.config.takes
        lockstep = Lockstep(self.memory, own, self.device, self.graphs, takes)
        if self.painted is not None and episodes:
            size = self._data["rgb"].shape[-2:]
            check_camera(self.painted.painter.spec, self.intrinsics, *size)
        with Progress(
            sum(n for _, n in episodes), "memory views of the recording", "frame", shown=shown
        ) as progress:
            for i in range(0, len(episodes), self.episodes_at_once):
                generator = torch.Generator(self.device).manual_seed(seed * 7919 + i)
                self._remember_batch(
                    episodes[i : i + self.episodes_at_once], generator, own, lockstep, progress
                )

    def sample(self, batch: int, generator: torch.Generator, memory_drop: float = 0.0) -> Windows:
        """Sample windows uniformly.

        memory_drop: share of windows without any memory.
        """
        if not len(self):
            raise InvalidInputError(
                f"the buffer holds no window of {self.window} frames: record longer episodes"
            )
        pick = torch.randint(len(self), (batch,), generator=generator, device=self.device)
        index = self._all_starts[pick][:, None] + torch.arange(self.window, device=self.device)
        last = self._last[pick][:, None]
        padding, index = index > last, torch.minimum(index, last)
        flat = index.flatten()

        def get(name: str) -> Tensor:
            return self._data[name][flat].unflatten(0, index.shape)

        view = depth = invented = None
        if "inverse_depth" in self._data:
            depth = get("inverse_depth").int() & 0xFFFF
        if self.memory is not None:
            keep = torch.rand(batch, generator=generator, device=self.device) >= memory_drop
            view = view_to_channels(unpack_view(self._data["view"][flat])).unflatten(0, index.shape)
            view = view * keep[:, None, None, None, None]
            if self.painted is not None:
                invented = unpack_invented(self._data["view"][flat]).unflatten(0, index.shape)
        own_rgb = own_depth = dreamed = None
        if "own_rgb" in self._data:
            own_rgb, dreamed = get("own_rgb"), get("dreamed")
            own_depth = get("own_inverse_depth").int() & 0xFFFF if depth is not None else None
        return Windows(
            get("rgb"),
            depth,
            get("act"),
            get("rew"),
            get("term"),
            get("motion"),
            view,
            own_rgb,
            own_depth,
            dreamed,
            padding=padding if self._runs_over else None,
            synthetic_terminal=get("synthetic_terminal") if self._has_synthetic_terminals else None,
            unsure=get("unsure") if self._has_unsure else None,
            invented=invented,
        )

    def transitions(self) -> Tensor:
        """Return the frames to which a transition with a known outcome led, (n,) int64.

        They are indices for :meth:`outcomes` and :meth:`before`.
        """
        held = [torch.arange(a, b, device=self.device) for a, b in self._shards]
        index = torch.cat([*held, torch.zeros(0, dtype=torch.int64, device=self.device)])
        known = (index != self._data["first"][index]) & ~self._data["unsure"][index]
        return index[known]

    def some_frames(self, most: int) -> Tensor:
        """Return up to ``most`` frames, spread evenly, (n, 3, h, w) uint8."""
        held = torch.cat([torch.arange(a, b, device=self.device) for a, b in self._shards])
        return self._data["rgb"][held[:: max(1, -(-len(held) // most))]]

    def outcomes(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return rewards (n,) float32 and terminations (n,) bool of the transitions to frames."""
        return self._data["rew"][index].float(), self._data["term"][index]

    def before(self, last: Tensor, frames: int, since: Tensor) -> Windows:
        """Return windows of ``frames`` frames that end with the frames ``last`` (n,).

        Frames before an episode's first one, or before ``since`` (n,), repeat that one. Actions and
        outcomes that led to repeated frames are 0. The windows have no depth and no view.
        """
        first = torch.maximum(self._data["first"][last], since)[:, None]
        place = last[:, None] + torch.arange(1 - frames, 1, device=self.device)
        index, led = torch.maximum(place, first), place > first

        def get(name: str) -> Tensor:
            values = self._data[name][index]
            return values * led.reshape(*led.shape, *[1] * (values.dim() - 2)).to(values.dtype)

        return Windows(
            self._data["rgb"][index], None, get("act"), get("rew"), get("term"), get("motion"), None
        )

    def sample_motions(self, batch: int, generator: torch.Generator) -> Motions:
        """Sample moments with a full past uniformly from the windows, for the ego-motion head.

        Needs poses.
        """
        if "pose" not in self._data:
            raise MissingGeometryError("motions need poses, this recording has none")
        if self.window < HISTORY + 2:
            least = HISTORY + 2
            raise InvalidInputError(
                f"windows of {self.window} frames hold no {HISTORY} motions and a next one: at "
                f"least {least}"
            )
        if not len(self._full_starts):
            raise InvalidInputError(
                f"the buffer holds no full window of {self.window} frames: record longer episodes"
            )
        pick = torch.randint(
            len(self._full_starts), (batch,), generator=generator, device=self.device
        )
        late = torch.randint(
            HISTORY, self.window - 1, (batch,), generator=generator, device=self.device
        )
        now = self._full_starts[pick] + late
        # Motion i led to frame i, from the camera of frame i - 1.
        index = now[:, None] + torch.arange(1 - HISTORY, 2, device=self.device)
        motion = to_world_axes(self._data["motion"][index], self._data["pose"][index - 1])
        acts, pose = self._data["act"][index], self._data["pose"][now]
        around = self._data["around"][now] if self.memory is not None else self._seen_alone(now)
        return Motions(around, pose, motion[:, :-1], acts[:, :-1], acts[:, -1], motion[:, -1])

    def _seen_alone(self, index: Tensor) -> Tensor:
        """Return maps of the surroundings from single frames, as without a memory."""
        assert self.intrinsics is not None
        rgb, depth, pose = (self._data[name][index] for name in ("rgb", "inverse_depth", "pose"))
        camera = Camera(pose, self.intrinsics.expand(len(rgb), 4), *rgb.shape[-2:])
        return frame_surroundings(Frame(rgb, depth.int() & 0xFFFF, pose), camera)

    def _windows(
        self, first: np.ndarray, lengths: np.ndarray, ended: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first frames of full windows and of all windows, and their episodes' ends.

        Windows of episodes that terminated may extend past the end. A frame's share of the windows
        then depends on how much lies before it, never on how soon the end comes, so the sampled
        share of terminations is the true one.
        """
        full, whole, last = [], [], []
        for start, length, over in zip(first, lengths, ended, strict=True):
            full.append(np.arange(start, max(start, start + length - self.window + 1)))
            # Past the end: still two frames, one that was there and the last one.
            past = (
                np.arange(full[-1][-1] + 1 if len(full[-1]) else start, start + length - 1)
                if over
                else full[-1][:0]
            )
            whole.append(np.concatenate([full[-1], past]))
            last.append(np.full(len(whole[-1]), start + length - 1))
            self._runs_over |= len(past) > 0
        parts = (np.concatenate(part).astype(np.int64) for part in (full, whole, last))
        return tuple(torch.from_numpy(part).to(self.device) for part in parts)  # type: ignore[return-value]

    def _evict(self, start: int, stop: int) -> None:
        gone = [s for s in self._shards if s[0] < stop and start < s[1]]
        self._shards = [s for s in self._shards if s not in gone]
        for s in gone:
            del self._starts[s[0]]
            self._fresh.pop(s[0], None)

    def _write(self, at: int, shard: Mapping[str, np.ndarray]) -> None:
        """Copy a shard's arrays to the device.

        Actions and outcomes are shifted to the frame that they lead to.
        """
        stop = at + len(shard["rgb"])
        first = np.zeros(stop - at, bool)
        first[shard["episode_start"][:-1]] = True
        term, trunc, rgb = (np.asarray(shard[name]) for name in ("term", "trunc", "rgb"))
        over, invented = term | trunc, np.zeros(stop - at, bool)
        for i in shard["episode_start"][1:] - 1:
            invented[i] = not first[i] and over[i - 1] and is_synthetic_terminal(rgb[i - 1], rgb[i])
        unsure = term & trunc
        self._has_synthetic_terminals |= bool(invented.any())
        self._has_unsure |= bool(unsure.any())

        def led_to(x: np.ndarray) -> np.ndarray:
            shifted = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
            shifted[first] = 0
            return shifted

        lengths = np.diff(shard["episode_start"])
        episode = np.repeat(np.asarray(shard["episode_start"][:-1], np.int64) + at, lengths)
        arrays: dict[str, Tensor] = {
            "first": torch.from_numpy(episode).to(self.device),
            "rgb": torch.from_numpy(np.array(shard["rgb"]))
            .to(self.device)
            .permute(0, 3, 1, 2)
            .contiguous(),
            "act": torch.from_numpy(led_to(shard["act"])).to(self.device),
            "rew": torch.from_numpy(led_to(shard["rew"])).to(self.device),
            # What was cut off did not end by itself; where both are said, nobody knows.
            "term": torch.from_numpy(led_to(term & ~trunc)).to(self.device),
            "synthetic_terminal": torch.from_numpy(invented).to(self.device),
            "unsure": torch.from_numpy(led_to(unsure)).to(self.device),
            "motion": torch.zeros(stop - at, 6, device=self.device),
        }
        if "pose" in shard:
            pose = torch.from_numpy(np.array(shard["pose"], np.float32)).to(self.device)
            arrays["pose"] = pose
            arrays["inverse_depth"] = torch.from_numpy(
                np.array(shard["inverse_depth"]).view(np.int16)
            ).to(self.device)
            motion = relative_motion(pose[:-1], pose[1:])
            arrays["motion"][1:] = torch.where(
                torch.from_numpy(first[1:, None]).to(self.device), torch.zeros_like(motion), motion
            )
            self.intrinsics = torch.from_numpy(np.array(shard["intrinsics"], np.float32)).to(
                self.device
            )
        if self.memory is not None:
            h, w = shard["rgb"].shape[1:3]
            arrays["view"] = torch.zeros(
                0, PACKED_VIEW, h, w, dtype=torch.uint8, device=self.device
            )
            arrays["around"] = torch.zeros(
                0, 2, MAP_CELLS, MAP_CELLS, dtype=torch.uint8, device=self.device
            )
        if self.perturb.own > 0:
            # The walk went on from the true frames, as long as none are dreamed.
            arrays |= {
                f"own_{name}": arrays[name] for name in ("rgb", "inverse_depth") if name in arrays
            }
            arrays["dreamed"] = torch.zeros(stop - at, dtype=torch.bool, device=self.device)
        for name, values in arrays.items():
            held = self._grown(name, values, stop)
            held[at : at + len(values)] = values
            held[at + len(values) : stop] = 0

    def _grown(self, name: str, values: Tensor, frames: int) -> Tensor:
        """Return the tensor that stores ``values`` (n, ...), with capacity for ``frames``."""
        held = self._data.get(name)
        if held is None or len(held) < frames:
            # A GPU's memory is taken at once: what does not fit shows at the start, and nothing is
            # held twice while it grows. Elsewhere by quarters: not the whole capacity, which most
            # recordings never fill, nor a copy for every shard.
            size = (
                self.capacity
                if self.device.type == "cuda"
                else self._next_size(frames, 0 if held is None else len(held))
            )
            grown = torch.zeros(size, *values.shape[1:], dtype=values.dtype, device=self.device)
            if held is not None:
                grown[: len(held)] = held
            self._data[name] = held = grown
        return held

    def _next_size(self, frames: int, held: int) -> int:
        return min(self.capacity, max(frames, held * 5 // 4))

    def _remember_batch(
        self,
        episodes: list[tuple[int, int]],
        generator: torch.Generator,
        own: OwnFrames | None,
        lockstep: Lockstep,
        progress: Progress,
    ) -> None:
        # Padded to a fixed size so that compiled code is made once.
        real = len(episodes)
        size = (
            self.episodes_at_once
            if 4 * real > self.episodes_at_once
            else -(-self.episodes_at_once // 4)
        )
        padded = episodes + [episodes[0]] * (size - real)
        start = torch.tensor([s for s, _ in padded], device=self.device)
        length = torch.tensor([n for _, n in padded], device=self.device)
        dreams = (
            own is not None
            and float(torch.rand((), generator=generator, device=self.device)) < self.perturb.own
        )
        walk = (
            own.walk(size, generator, self.perturb.own_frames)
            if own is not None and dreams
            else None
        )
        # Random numbers of its own: those of other walks do not depend on what is painted.
        painting = torch.Generator(self.device).manual_seed(generator.initial_seed() ^ PAINTING)
        painted = None if self.painted is None else self.painted.walks(real, painting)
        if not painted:
            painted = None
        first = 0 if painted is None else int(painted.since.min())
        unpainted = torch.zeros(size, dtype=torch.bool, device=self.device)
        drawn = [
            Degradation(self.perturb, size, generator)
            for _ in range(lockstep.memories(dreams, painted is not None))
        ]
        known = (
            self.intrinsics if self.intrinsics is not None else torch.ones(4, device=self.device)
        )
        intrinsics = known.expand(size, 4).contiguous()
        height, width = self._data["rgb"].shape[-2:]
        walks = lockstep.begin(size, dreams, painted is not None)
        for t in range(max(n for _, n in episodes)):
            index = start + torch.minimum(torch.full_like(length, t), length - 1)
            draft = walk.draw() if walk is not None else None
            given = Given(
                self._frame(index),
                self._data["act"][index],
                self._data["motion"][index],
                intrinsics,
                torch.full_like(length, t),
                tuple(degradation.draw(height, width) for degradation in drawn),
                draft,
                unpainted if painted is None else painted.closed(size, t),
            )
            shown = None
            if painted is not None and t > first:
                assert self.painted is not None
                shown = self.painted.shown_pixels(walks.past, painted, given.camera)
            walks, found = lockstep.step(walks, given)
            if painted is not None and shown is not None:
                found = found | {"view": mark_invented(found["view"], painted.painted, shown)}
            if painted is not None:
                walks = self._paint_ahead(walks, painted, t, start, length, painting)
            for name, value in found.items():
                self._put(name, index[:real], value[:real], t < length[:real])
            progress.update(sum(t < n for _, n in episodes))

    def _paint_ahead(
        self,
        walks: RolloutState,
        painted: PaintedWalks,
        t: int,
        start: Tensor,
        length: Tensor,
        generator: torch.Generator,
    ) -> RolloutState:
        """Return the walks after frame ``t``, painted ahead where that is due.

        start, length: (b,) int64, first frames and lengths of their episodes.
        """
        assert self.painted is not None

        def frame_at(rows: Tensor, ahead: Tensor) -> Frame:
            return self._frame(start[rows] + t + ahead)

        remaining = length - 1 - t
        past = self.painted.paint(walks.past, painted, t, remaining, frame_at, generator)
        return walks if past is walks.past else dataclasses.replace(walks, past=past)

    def _frame(self, index: Tensor) -> Frame:
        depth, pose = self._data.get("inverse_depth"), self._data.get("pose")
        return Frame(
            rgb=self._data["rgb"][index],
            inverse_depth=None if depth is None else depth[index].int() & 0xFFFF,
            pose=None if pose is None else pose[index],
        )

    def _put(self, name: str, index: Tensor, values: Tensor, going_on: Tensor) -> None:
        """Store values of frames, except for episodes that are over.

        The last frame of such an episode is in the memory by then.
        """
        going_on = going_on.reshape(-1, *[1] * (values.dim() - 1))
        self._data[name][index] = torch.where(going_on, values, self._data[name][index])


def augment(
    windows: Windows, generator: torch.Generator, mirror: tuple[int, ...] | None, colour: float
) -> Windows:
    """Mirror half of the windows and vary the colours.

    mirror: for discrete actions, the mirror image of each action.
    colour: share of windows whose colours, and those of their memory views, are scaled and
        permuted.
    """
    b, device = len(windows.rgb), windows.rgb.device
    if mirror is not None:
        flip = torch.rand(b, generator=generator, device=device) < 0.5
        windows = _mirror(windows, flip, torch.tensor(mirror, device=device))
    if colour > 0:
        chosen = torch.rand(b, generator=generator, device=device) < colour
        gain = 0.7 + 0.6 * torch.rand(b, 3, generator=generator, device=device)
        order = torch.rand(b, 3, generator=generator, device=device).argsort(1)
        gain = torch.where(chosen[:, None], gain, torch.ones_like(gain))
        order = torch.where(chosen[:, None], order, torch.arange(3, device=device).expand(b, 3))
        windows = _recolour(windows, order, gain)
    return windows


def _mirror(windows: Windows, flip: Tensor, mirror: Tensor) -> Windows:
    choose = partial(where_rows, flip)
    sign = torch.tensor(MIRRORED_MOTION, device=flip.device)
    view = windows.view
    if view is not None:
        turned = view.flip(-1)
        # The offset of a point in its pixel runs the other way in a mirror.
        turned = torch.cat([turned[:, :, :5], -turned[:, :, 5:6], turned[:, :, 6:]], 2)
        view = choose(turned, view)

    def mirror_rows(x: OptionalTensor) -> OptionalTensor:
        if x is None:
            return None
        return choose(x.flip(-1), x)

    return dataclasses.replace(
        windows,
        rgb=mirror_rows(windows.rgb),
        inverse_depth=mirror_rows(windows.inverse_depth),
        invented=mirror_rows(windows.invented),
        own_rgb=mirror_rows(windows.own_rgb),
        own_inverse_depth=mirror_rows(windows.own_inverse_depth),
        act=choose(mirror[windows.act], windows.act),
        motion=choose(windows.motion * sign, windows.motion),
        view=view,
    )


def _recolour(windows: Windows, order: Tensor, gain: Tensor) -> Windows:
    b, t, _, h, w = windows.rgb.shape
    index = order[:, None, :, None, None].expand(b, t, 3, h, w)
    scale = gain[:, None, :, None, None]

    def recolour_rgb(rgb: OptionalTensor) -> OptionalTensor:
        if rgb is None:
            return None
        return (rgb.gather(2, index).float() * scale).round().clamp(0, 255).to(torch.uint8)

    view = windows.view
    if view is not None:
        colour, mask = view[:, :, :3].gather(2, index), view[:, :, 4:5]
        colour = (((colour + 1.0) * scale).clamp(0, 2) - 1.0) * mask
        view = torch.cat([colour, view[:, :, 3:]], 2)
    return dataclasses.replace(
        windows, rgb=recolour_rgb(windows.rgb), own_rgb=recolour_rgb(windows.own_rgb), view=view
    )
