"""Passes many episodes through the scene memory in lockstep, to render the training views.

A step is a function of records without random numbers or synchronisation, so that a GPU can replay
it as one CUDA graph. Without a graph, some hundred small kernels per frame would wait for their
launch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from worldsim.camera import Camera
from worldsim.diffusion.dynamics import Context, last_frames
from worldsim.protocols import EngineMemory, MemoryT, SceneMemory, SkipsUnknown
from worldsim.runtime.cuda_graphs import capture_graph, copy_in
from worldsim.state import Frame, LastFrames, MemoryView, map_tensors, where_rows
from worldsim.training.corruption import Damage, Draft, OwnFrames, degrade
from worldsim.world.engine import reason, tell_once
from worldsim.world.paint_ahead import Takes, taken_pixels

PACKED_VIEW = 8
"""Bytes a pixel of a stored memory view: rgb, inverse depth (2), offset, source, mask."""
KNOWN, INVENTED = 1, 2
"""Bits of the mask's byte: the memory covers the pixel, and it shows a painted point."""


@dataclass(frozen=True)
class RolloutState:
    """State of b walks.

    past: the memory that is shown, with generated frames.
    truth: the memory of true frames; None if it is the same or there is none.
    context: context of the dynamics; None if nothing is generated.
    dreaming: (b,) bool, whether the last frame was generated.
    before: (b,) bool, whether any frame was.
    newest: the last frame without its pose, for networks that see previous frames.
    """

    past: Any
    truth: Any
    context: Context | None
    dreaming: Tensor
    before: Tensor
    newest: Frame | None = None


@dataclass(frozen=True)
class Given:
    """Input of a step.

    frame: the true frame.
    act, motion: (b, ...), (b, 6), what leads to it.
    intrinsics: (b, 4) pixels.
    step: (b,) int64.
    damage: degradation of the frame for each of the memories.
    draft: None if nothing is generated.
    closed: (b,) bool, the walks whose shown memory takes only some pixels of the frame, see
        :class:`worldsim.training.painted.PaintedWalks`.
    """

    frame: Frame
    act: Tensor
    motion: Tensor
    intrinsics: Tensor
    step: Tensor
    damage: tuple[Damage, ...]
    draft: Draft | None
    closed: Tensor

    @property
    def camera(self) -> Camera:
        """Camera of the frame, which needs a pose."""
        assert self.frame.pose is not None
        return Camera(self.frame.pose, self.intrinsics, *self.frame.rgb.shape[-2:])


class Lockstep:
    """Steps walks through ``memory``, or none; ``own`` generates parts of them.

    It owns the memories' data and may change them in place.

    graphs: replay steps as CUDA graphs, one for each number of walks, with and without generated
        frames and a memory of true frames. If capture fails, it warns once and runs without graphs.
    takes: what memories of painted walks take from frames.
    """

    def __init__(
        self,
        memory: SceneMemory | None,
        own: OwnFrames | None,
        device: torch.device,
        graphs: bool = False,
        takes: Takes = Takes.ALL,
    ) -> None:
        self.memory, self.takes = memory, takes
        if isinstance(memory, EngineMemory):
            self.memory = memory.in_place_with()
        self.own, self.device, self.graphs = own, device, graphs
        self._replayed: dict[tuple[int, bool, bool], Replayed] = {}

    def memories(self, dreams: bool, painted: bool = False) -> int:
        """Return how many memories the walks have.

        Generated and painted walks have one of true frames as well: a map of generated walls does
        not show what stops the body in the engine.
        """
        return 0 if self.memory is None else 2 if dreams or painted else 1

    def begin(self, rows: int, dreams: bool, painted: bool = False) -> RolloutState:
        """Return ``rows`` walks that have seen nothing.

        dreams: whether parts of them will be generated.
        painted: whether the shown memory of some will hold painted views.
        """
        never = torch.zeros(rows, dtype=torch.bool, device=self.device)
        past, truth = (
            self.memory.empty(rows, self.device)
            if self.memory is not None and i < self.memories(dreams, painted)
            else None
            for i in range(2)
        )
        context = (
            self.own.dynamics.empty(rows, self.device) if self.own is not None and dreams else None
        )
        return RolloutState(
            past,
            truth,
            context,
            never,
            never.clone(),
            self._no_frame(rows) if context is not None else None,
        )

    def _no_frame(self, rows: int) -> Frame | None:
        """Return the placeholder for the frame before the first one.

        Only for networks that see last frames.
        """
        assert self.own is not None
        n = self.own.network.config
        if not n.last_frames:
            return None
        rgb = torch.zeros(rows, 3, n.height, n.width, dtype=torch.uint8, device=self.device)
        return Frame(
            rgb, torch.zeros_like(rgb[:, 0], dtype=torch.int32) if n.channels == 4 else None, None
        )

    def step(self, walks: RolloutState, given: Given) -> tuple[RolloutState, dict[str, Tensor]]:
        """Advance the walks by one frame; returns them and the tensors to store.

        The next step may overwrite these tensors. They are ``view``, packed, and the map ``around``
        if there is a memory; and, where walks are generated, ``own_rgb``, ``own_inverse_depth`` and
        ``dreamed`` (b,), whether the shown memory holds generated frames.
        """
        if not self.graphs:
            return self._step(walks, given)
        key = (len(walks.before), given.draft is not None, walks.truth is not None)
        if key not in self._replayed:
            try:
                self._replayed[key] = Replayed(self._step, walks, given, self.device)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                tell_once(
                    f"no CUDA graph ({reason(error)}): episodes are taken in step by step, slower"
                )
                self.graphs = False
                return self._step(walks, given)
        return self._replayed[key](walks, given)

    def _step(self, walks: RolloutState, given: Given) -> tuple[RolloutState, dict[str, Tensor]]:
        frame, found = given.frame, dict[str, Tensor]()
        view = self.memory.render(walks.past, given.camera) if self.memory is not None else None
        if view is not None:
            found["view"] = pack_view(view)
        dreamed = torch.zeros_like(walks.before)
        if given.draft is not None:
            assert self.own is not None and walks.context is not None
            shown: MemoryView | LastFrames | None = view
            if walks.newest is not None:
                shown = last_frames(walks.newest, walks.context)
            frame, dreamed, context = self.own.dream(
                walks.context,
                walks.dreaming,
                frame,
                given.act,
                given.motion,
                shown,
                given.intrinsics,
                given.draft,
            )
            if walks.newest is not None:
                walks = dataclasses.replace(walks, newest=dataclasses.replace(frame, pose=None))
            found["own_rgb"], found["dreamed"] = frame.rgb, walks.before
            if frame.inverse_depth is not None:
                found["own_inverse_depth"] = frame.inverse_depth.to(torch.int16)
            walks = dataclasses.replace(
                walks, context=context, dreaming=dreamed, before=walks.before | dreamed
            )
        if self.memory is not None:
            pixels = None
            if view is not None and self.takes != Takes.ALL:
                pixels = taken_pixels(self.takes, view) | ~given.closed[:, None, None]
            past = self._taken_in(walks.past, frame, dreamed, given, given.damage[0], pixels)
            truth = past
            if walks.truth is not None:
                truth = self._taken_in(
                    walks.truth, given.frame, torch.zeros_like(dreamed), given, given.damage[1]
                )
            assert given.frame.pose is not None
            found["around"] = self.memory.surroundings(truth, given.frame.pose)
            walks = dataclasses.replace(
                walks, past=past, truth=None if walks.truth is None else truth
            )
        return walks, found

    def _taken_in(
        self,
        data: MemoryT,
        frame: Frame,
        dreamed: Tensor,
        given: Given,
        damage: Damage,
        pixels: Tensor | None = None,
    ) -> MemoryT:
        """Return a memory with the frames integrated.

        dreamed: (b,) bool, generated frames, which are not degraded.
        pixels: (b, h, w) bool, those that a point memory takes; None for all.
        """
        assert self.memory is not None
        worse = map_tensors(partial(where_rows, dreamed), frame, degrade(frame, damage))
        kept = damage.keep | dreamed
        if isinstance(self.memory, SkipsUnknown):
            # Frames that say nothing change nothing, which saves a copy of all points.
            known = kept[:, None, None].expand_as(frame.rgb[:, 0])
            if pixels is not None:
                known = known & pixels
            return self.memory.integrate(data, worse, given.camera, given.step, known)
        updated = self.memory.integrate(data, worse, given.camera, given.step)
        return map_tensors(partial(where_rows, kept), updated, data)


class Replayed:
    """Steps on static buffers, replayed as one CUDA graph.

    The walks that it returns are those buffers.
    """

    def __init__(
        self,
        step: Callable[[RolloutState, Given], tuple[RolloutState, dict[str, Tensor]]],
        walks: RolloutState,
        given: Given,
        device: torch.device,
    ) -> None:
        self._step = step
        self.walks, self.given = map_tensors(torch.clone, walks), map_tensors(torch.clone, given)
        self.found: dict[str, Tensor] = {}
        # Warm-up and capture go on in place; the first call copies the walks in again.
        self._replay = capture_graph(self._run, device)

    def __call__(self, walks: RolloutState, given: Given) -> tuple[RolloutState, dict[str, Tensor]]:
        """Advance by one frame; the next call overwrites the result."""
        if walks is not self.walks:
            map_tensors(copy_in, self.walks, walks)
        map_tensors(copy_in, self.given, given)
        self._replay()
        return self.walks, self.found

    def _run(self) -> None:
        after, found = self._step(self.walks, self.given)
        # Copies: what is found may be part of the walks' state.
        self.found = {name: value.clone() for name, value in found.items()}
        map_tensors(copy_in, self.walks, after)


def pack_view(view: MemoryView) -> Tensor:
    """Pack a memory view as (b, 8, h, w) uint8, losslessly."""
    code = view.inverse_depth
    rest = [
        code >> 8,
        code & 255,
        view.offset[:, 0].int() * 16 + view.offset[:, 1].int(),
        view.source,
        view.mask,
    ]
    return torch.cat([view.rgb, torch.stack([r.to(torch.uint8) for r in rest], 1)], 1)


def mark_invented(packed: Tensor, rows: Tensor, invented: Tensor) -> Tensor:
    """Return packed views (b, 8, h, w) in which pixels of some rows are marked as invented.

    rows: (k,) int64.
    invented: (k, h, w) bool.
    """
    marked = packed.clone()
    marked[rows, -1] |= INVENTED * invented.to(torch.uint8)
    return marked


def unpack_invented(packed: Tensor) -> Tensor:
    """Return the pixels (b, h, w) bool that :func:`mark_invented` marked."""
    return (packed[:, -1] & INVENTED) > 0


def unpack_view(packed: Tensor) -> MemoryView:
    """Unpack a view from :func:`pack_view`."""
    high, low, offset, source, mask = packed[:, 3:].unbind(1)
    return MemoryView(
        rgb=packed[:, :3],
        inverse_depth=high.int() * 256 + low.int(),
        mask=(mask & KNOWN).bool(),
        offset=torch.stack([offset >> 4, offset & 15], 1),
        source=source,
    )
