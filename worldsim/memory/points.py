"""The point-cloud memory: coloured points of all frames, each place once, from its finest view.

An integrated frame adds points only where the memory does not explain it, so memory grows with the
space seen and not with the number of steps. Infinitely far pixels (sky) are kept as directions.
Rows of a batch never influence one another, bit by bit; nothing here waits for a GPU.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import Camera, code_to_channel, quantise_depth
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory import splat_triton
from worldsim.memory.operations import Passes, Sight, write_fresh
from worldsim.memory.slots import PointMemoryConfig as PointMemoryConfig
from worldsim.memory.slots import Points as Points
from worldsim.memory.slots import beginning, oldest_slots, places
from worldsim.memory.splat import DIRECTION, EMPTY, POINT, hole_view
from worldsim.runtime.triton import usable
from worldsim.state import Frame, MemoryView, map_tensors


class PointMemory:
    """A :class:`worldsim.protocols.SceneMemory` of points.

    Methods return new data and leave the given data as it is; with :meth:`in_place_with`,
    ``integrate`` may overwrite it on a GPU. On a CPU the object keeps one cache: the slots that the
    last camera may see, since a step renders and then integrates at the same camera. The cache is
    used for that data and camera only, so it changes no result.
    """

    skips_unknown = True
    """``integrate`` leaves out the pixels that ``known`` excludes."""
    in_place = False
    """Whether integrating may overwrite what it is given: see :meth:`in_place_with`."""
    passes = Passes()
    """What reads many slots at once; an engine may have it compiled: see :meth:`with_passes`."""
    between = splat_triton.PLAIN
    """What lies between the kernels on a GPU; an engine may have it compiled, too."""
    _last_sight: Sight | None = None

    def __init__(self, config: PointMemoryConfig | None = None) -> None:
        self.config = config or PointMemoryConfig()

    def __getstate__(self) -> dict[str, object]:
        return {
            **self.__dict__,
            "_last_sight": None,
        }  # it refers weakly to tensors: a copy looks anew

    def empty(self, batch: int, device: torch.device | str = "cpu") -> Points:
        """Point clouds of ``batch`` worlds that have seen nothing."""
        c = self.config.capacity
        return Points(
            position=torch.zeros(batch, 3, c, device=device),
            colour=torch.zeros(batch, 3, c, dtype=torch.uint8, device=device),
            kind=torch.zeros(batch, c, dtype=torch.uint8, device=device),
            source=torch.zeros(batch, c, dtype=torch.uint8, device=device),
            seen=torch.zeros(batch, c, dtype=torch.int32, device=device),
            confidence=torch.zeros(batch, c, dtype=torch.uint8, device=device),
        )

    def render(self, memory: Points, camera: Camera) -> MemoryView:
        """Render the points at ``camera``, one pixel each: the nearest wins, holes stay holes."""
        if usable(memory.kind):
            return splat_triton.view_of(memory, camera, self.between)
        if memory.capacity == 0:
            return hole_view(camera)
        slot = self._in_sight(memory, camera)
        return self.passes.view(memory, slot, camera)

    def _in_sight(self, memory: Points, camera: Camera) -> Tensor | None:
        """Return the slots that ``camera`` may see, (b, m) int64; None for all of them on a GPU.

        Selecting them would make a GPU wait. Rows with fewer slots repeat slot 0, which changes
        nothing.
        """
        if memory.kind.device.type != "cpu" or memory.capacity == 0:
            return None
        # A step draws the memory and then integrates at the same camera.
        if self._last_sight is not None and self._last_sight.is_of(memory, camera):
            return self._last_sight.slot
        some = beginning(memory)
        slot = places(
            self.passes.in_sight(
                some.position,
                some.kind,
                camera.pose,
                camera.intrinsics,
                camera.height,
                camera.width,
            )
        )
        self._last_sight = Sight(memory, camera, slot)
        return slot

    def integrate(
        self,
        memory: Points,
        frame: Frame,
        camera: Camera,
        step: Tensor,
        known: Tensor | None = None,
    ) -> Points:
        """Points that also hold ``frame``, seen by ``camera`` at ``step`` (b,) int64.

        A pixel is explained if a point of the frame's depth falls into it that was not captured
        from much further away. Unexplained pixels become points; agreeing points are marked as
        seen; much coarser ones, those in front of what the frame sees and, if the config asks for
        that, those of other colours are dropped. Where ``known`` (b, h, w) bool is False, the frame
        says nothing.
        """
        if frame.inverse_depth is None or frame.pose is None:
            raise MissingGeometryError(
                "this frame has no depth or no pose: the point memory needs both (or use NoMemory)"
            )
        if frame.inverse_depth.shape != (len(memory), camera.height, camera.width):
            raise InvalidInputError(
                f"a frame of {tuple(frame.inverse_depth.shape)} (b, h, w) does not fit "
                f"{len(memory)} memories and a camera of {camera.height}x{camera.width}"
            )
        # The kernels compare no colours.
        if self.config.colour_tolerance is None and usable(memory.kind):
            mine = memory if self.in_place else map_tensors(torch.clone, memory)
            return splat_triton.integrate_(
                self.config, mine, frame, camera, step, known, self.between
            )
        slot = self._in_sight(memory, camera)
        self._last_sight = None
        found = self.passes.verdict(self.config, memory, slot, frame, camera, step, known)

        def back(whole: Tensor, values: Tensor) -> Tensor:
            return values if slot is None else whole.scatter(1, slot, values)

        kept = dataclasses.replace(
            memory,
            kind=back(memory.kind, found.kind),
            seen=back(memory.seen, found.seen),
            confidence=back(memory.confidence, found.confidence),
        )
        return write_fresh(kept, found, frame, step, own=slot is not None)

    def remove(self, memory: Points, chosen: Tensor) -> Points:
        """Return the memory without the points ``chosen`` (b, c), as ``in_box`` gives them."""
        return dataclasses.replace(memory, kind=memory.kind.masked_fill(chosen, EMPTY))

    def recolour(self, memory: Points, chosen: Tensor, colour: Tensor) -> Points:
        """Return the memory with the points ``chosen`` in another colour, (3,) or (b, 3, c)."""
        if colour.dtype != torch.uint8 or colour.shape not in ((3,), memory.colour.shape):
            raise InvalidInputError(
                f"colour is {colour.dtype} {tuple(colour.shape)}: give uint8 (3,) or "
                f"{tuple(memory.colour.shape)}"
            )
        other = colour[:, None] if colour.ndim == 1 else colour
        return dataclasses.replace(
            memory,
            colour=torch.where(chosen[:, None], other.to(memory.colour.device), memory.colour),
        )

    def paste(
        self,
        memory: Points,
        position: Tensor,
        colour: Tensor,
        pose: Tensor,
        step: Tensor,
        distance: float = 0.25,
    ) -> Points:
        """Return the memory with points added in every environment.

        Without free slots, the least recently seen points are replaced.

        position: (n, 3) metres in the axes of ``pose``, (4, 4) or (b, 4, 4) to world.
        colour: (n, 3) uint8.
        step: (b,) int64 of the state that the memory belongs to.
        distance: metres from which the points look sharp; frames from much closer replace them.
        """
        n = len(position)
        if position.shape != (n, 3) or colour.shape != (n, 3) or colour.dtype != torch.uint8:
            found = f"{tuple(position.shape)} and {colour.dtype} {tuple(colour.shape)}"
            raise InvalidInputError(
                f"pasted points are (n, 3) metres and (n, 3) uint8, not {found}"
            )
        if n > memory.capacity:
            raise InvalidInputError(
                f"{n} points do not fit a memory of {memory.capacity}: paste fewer, or with a "
                f"wider spacing"
            )
        device, b = memory.kind.device, len(memory)
        pose = pose.to(device, torch.float32).expand(b, 4, 4)
        local = position.to(device, torch.float32).T
        world = torch.stack(
            [
                (pose[:, axis, :3, None] * local).sum(1) + pose[:, axis, 3, None]
                for axis in range(3)
            ],
            1,
        )
        fresh = self.from_points(world.transpose(1, 2), colour.to(device).expand(b, n, 3), distance)
        slot = oldest_slots(memory, step, n)

        def put(old: Tensor, new: Tensor) -> Tensor:
            index = slot if old.ndim == 2 else slot[:, None].expand(b, 3, n)
            return old.scatter(old.ndim - 1, index, new[..., :n])

        pasted = map_tensors(put, memory, fresh)
        return dataclasses.replace(
            pasted, seen=memory.seen.scatter(1, slot, step[:, None].to(torch.int32).expand(b, n))
        )

    def surroundings(self, memory: Points, pose: Tensor) -> Tensor:
        """Return a map of the surroundings of ``pose`` (b, 4, 4).

        See :meth:`worldsim.protocols.SceneMemory.surroundings`.
        """
        if usable(memory.kind):
            return splat_triton.map_around(memory.position, memory.kind, pose, self.config.body_m)
        slot = None
        if memory.kind.device.type == "cpu" and memory.capacity:
            some = beginning(memory)
            slot = places(self.passes.on_map(some.position, some.kind, pose))
        return self.passes.surroundings(
            memory.position, memory.kind, slot, pose, self.config.body_m
        )

    def coverage(self, memory: Points, camera: Camera) -> Tensor:
        """(b,) float32 share of the pixels at ``camera`` that the memory knows."""
        return self.render(memory, camera).coverage

    def with_passes(self, passes: Passes) -> PointMemory:
        """The same memory with its passes over slots replaced, for example by compiled ones."""
        changed = copy.copy(self)
        changed.passes, changed._last_sight = passes, None
        return changed

    def in_place_with(self, between: splat_triton.Between | None = None) -> PointMemory:
        """The same memory for callers that own its data: on a GPU it then integrates in place.

        between: what it computes between its kernels there, for example compiled.
        """
        changed = copy.copy(self)
        changed.in_place, changed.between = True, between or self.between
        changed._last_sight = None
        return changed

    def to_points(self, memory: Points) -> Points:
        """The data itself."""
        return memory

    def count(self, memory: Points) -> Tensor:
        """(b,) int64 used slots."""
        return (memory.kind != EMPTY).sum(1)

    def statistics(self, memory: Points) -> dict[str, Tensor]:
        """Return points, directions, used share, mean confidence and extent_m, each (b,)."""
        point, used = memory.kind == POINT, memory.kind != EMPTY
        low = memory.position.masked_fill(~point[:, None], math.inf).amin(2)
        high = memory.position.masked_fill(~point[:, None], -math.inf).amax(2)
        confidence = (memory.confidence * used).sum(1) / used.sum(1).clamp(min=1)
        return {
            "points": point.sum(1),
            "directions": (memory.kind == DIRECTION).sum(1),
            "used": used.float().mean(1),
            "confidence": confidence,
            "extent_m": (high - low).amax(1).clamp(min=0.0),
        }

    def trim(self, memory: Points, capacity: int | None = None) -> Points:
        """Return the used slots alone, in order, to store a memory.

        There are as many as the fullest environment needs. :meth:`pad` is the inverse.

        capacity: maximum number of slots; the least recently seen points are left out.
        """
        unused = memory.kind == EMPTY
        size = int((~unused).sum(1).max()) if len(memory) else 0
        if capacity is not None and size > capacity:
            # Newest first, ties to the lower slot; what is not among the first ``capacity`` goes.
            age_order = torch.sort(
                memory.seen.masked_fill(unused, -(2**31)), dim=1, descending=True, stable=True
            ).indices
            kept = torch.zeros_like(unused).scatter_(1, age_order[:, :capacity], True)
            memory = dataclasses.replace(memory, kind=memory.kind.masked_fill(~kept, EMPTY))
            unused, size = memory.kind == EMPTY, capacity
        order = torch.sort(unused.to(torch.uint8), dim=1, stable=True).indices[:, :size]
        return map_tensors(
            lambda x: x.gather(
                x.ndim - 1, order if x.ndim == 2 else order[:, None].expand(-1, 3, -1)
            ),
            memory,
        )

    def pad(self, memory: Points) -> Points:
        """The same points with this memory's capacity again."""
        missing = self.config.capacity - memory.capacity
        if missing == 0:
            return memory
        if missing < 0:
            raise InvalidInputError(
                f"these points take {memory.capacity} slots and the memory has "
                f"{self.config.capacity}: "
                "trim them to that capacity first, or configure a larger one"
            )
        return map_tensors(lambda x: F.pad(x, (0, missing)), memory)

    def from_points(
        self, position: Tensor, colour: Tensor, distance: float | Tensor = 1.0, step: int = 0
    ) -> Points:
        """A memory of given points. position: (b, n, 3) world metres. colour: (b, n, 3) uint8.

        distance: metres, a number or (b, n): from how far the colours were taken; frames from much
        nearer replace them.
        """
        b, n, _ = position.shape
        if colour.shape != position.shape or colour.dtype != torch.uint8:
            found = f"{colour.dtype} {tuple(colour.shape)}"
            raise InvalidInputError(
                f"colour must be uint8 of shape {tuple(position.shape)}, not {found}"
            )
        metres = torch.as_tensor(distance, dtype=torch.float32, device=position.device).expand(b, n)
        flat = torch.ones(b, n, dtype=torch.uint8, device=position.device)
        points = Points(
            position=position.to(torch.float32).transpose(1, 2).contiguous(),
            colour=colour.transpose(1, 2).contiguous(),
            kind=POINT * flat,
            source=(code_to_channel(quantise_depth(metres)) * 255.0).round().to(torch.uint8),
            seen=torch.full_like(flat, step, dtype=torch.int32),
            confidence=flat,
        )
        return self.pad(points)

    def to_ply(self, memory: Points, path: str | Path, index: int = 0) -> None:
        """Write the points of one environment as a PLY file, world axes, metres, atomically."""
        from worldsim.runtime.ply import save_ply

        point = memory.kind[index] == POINT
        position = memory.position[index][:, point].T.cpu().numpy()
        colour = memory.colour[index][:, point].T.cpu().numpy()
        save_ply(position, colour, path)
