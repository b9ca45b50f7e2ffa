"""Measures a step from outside: time by part, computation, memory, and the device's limits."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import platform
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import ParamSpec, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from worldsim.protocols import CountsPoints
from worldsim.runtime.types import JsonObject
from worldsim.state import WorldState, bytes_of
from worldsim.world import World

P = ParamSpec("P")
T = TypeVar("T")
Moment: TypeAlias = float | torch.cuda.Event
"""Seconds of a clock, or an event of a GPU."""
PARTS = ("memory_render", "denoise", "heads", "integrate")
"""What a step is made of; the rest of its time is ``overhead``."""
STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PROCESSOR = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = PROCESSOR.read_text().splitlines() if PROCESSOR.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the wall-clock seconds of ``work``, with an idle device before and after."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


class Sections:
    """Adds up the seconds spent in named sections.

    On a GPU they are measured between events, so that nothing synchronises before the end.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._spans: list[tuple[str, Moment, Moment]] = []

    def _now(self) -> Moment:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def within(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        """Return ``function`` wrapped as a section."""

        def timed_call(*args: P.args, **kwargs: P.kwargs) -> T:
            began = self._now()
            result = function(*args, **kwargs)
            self._spans.append((name, began, self._now()))
            return result

        return timed_call

    def total(self) -> dict[str, float]:
        """Return the seconds by name."""
        wait(self.device)
        sums: dict[str, float] = defaultdict(float)
        for name, began, ended in self._spans:
            sums[name] += _seconds(began, ended)
        return sums


def _seconds(began: Moment, ended: Moment) -> float:
    if isinstance(began, float) and isinstance(ended, float):
        return ended - began
    assert isinstance(began, torch.cuda.Event) and isinstance(ended, torch.cuda.Event)
    return float(began.elapsed_time(ended)) / 1000


def in_sections(world: World, sections: Sections) -> World:
    """Return a copy of ``world`` with the same weights, whose parts are sections.

    ``world`` itself does not change. ``heads`` is ego-motion with the map of surroundings that it
    uses, reward and termination.
    """
    watched = copy.copy(world)
    watched.running = running = copy.copy(world.running)
    inner = running.inner
    memory = copy.copy(inner.memory)
    for method, section in (
        ("render", "memory_render"),
        ("integrate", "integrate"),
        ("surroundings", "heads"),
    ):
        setattr(memory, method, sections.within(section, getattr(memory, method)))
    running.inner = dataclasses.replace(
        inner,
        memory=memory,
        aim=None if inner.aim is None else sections.within("heads", inner.aim),
        predict=sections.within("denoise", inner.predict),
    )
    return watched


def shares(world: World, state: WorldState, acts: Tensor) -> dict[str, float]:
    """Return the share of each of ``PARTS``, and of ``overhead``, in the time of the steps.

    acts: (n, b, ...), one step each.
    """
    sections = Sections(world.device)
    watched = in_sections(world, sections)
    step = sections.within("step", watched.step)
    for act in acts:
        state, _ = step(state, act)
    total = sections.total()
    found = {part: total[part] / total["step"] for part in PARTS}
    return found | {"overhead": 1.0 - sum(found.values())}


def _attention_flop(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> int:
    b, h, n, d = query
    return int(2 * b * h * n * key[2] * (d + value[3]))


class _Types(TorchDispatchMode):
    """Counts floating-point operations by the type of their results."""

    def __init__(self, formulas: Mapping[object, Callable[..., int]]) -> None:
        super().__init__()
        self.formulas = formulas
        self.flop: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(
        self,
        function: OpOverload[..., Tensor | tuple[Tensor | None, ...]],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> Tensor | tuple[Tensor | None, ...]:
        out = function(*args, **(kwargs or {}))
        formula = self.formulas.get(function.overloadpacket)
        if formula is not None:
            # A backward pass gives None where no gradient is asked for.
            result = out if isinstance(out, Tensor) else next(x for x in out if x is not None)
            self.flop[result.dtype] += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


def longest(work: Callable[[], object], device: torch.device, most: int = 40) -> list[JsonObject]:
    """Return what takes the most time in ``work``, longest first: kernels, or operators on a CPU.

    Each entry has ``name``, ``ms``, ``calls`` and ``share``.
    """
    on_gpu = device.type == "cuda"
    activity = (
        torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    )
    with torch.profiler.profile(activities=[activity]) as profiler:
        work()
        wait(device)
    rows = [
        (float(e.self_device_time_total if on_gpu else e.self_cpu_time_total), e)
        for e in profiler.key_averages()
    ]
    total = sum(time for time, _ in rows) or 1.0
    rows.sort(key=lambda row: -row[0])
    return [
        {"name": e.key, "ms": time / 1e3, "calls": e.count, "share": time / total}
        for time, e in rows[:most]
    ]


def compute(work: Callable[[], object]) -> tuple[int, str]:
    """Return the floating-point operations of ``work``, and their type, such as ``float32``.

    Counts matrix products, convolutions and attention; a multiply-add counts as two.
    """
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    # The counter knows only the GPU's kernels of attention.
    names = (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_fused_attention_overrideable",
    )
    more = {
        getattr(torch.ops.aten, name): _attention_flop
        for name in names
        if hasattr(torch.ops.aten, name)
    }
    counter, types = FlopCounterMode(display=False, custom_mapping=more), _Types(flop_registry)
    # Compiled code shows no operations: count what it stands for.
    eager = (
        torch.compiler.set_stance("force_eager")
        if "torch._dynamo" in sys.modules
        else nullcontext()
    )
    with eager, counter, types:
        work()
    used = types.flop.most_common(1)
    return int(counter.get_total_flops()), str(used[0][0] if used else torch.float32).removeprefix(
        "torch."
    )


def weight_bytes(world: World) -> int:
    """Return the number of bytes of all weights."""
    return sum(
        p.numel() * p.element_size()
        for module in world.modules().values()
        for p in module.parameters()
    )


def step_bytes(world: World, state: WorldState) -> int:
    """Return the minimum number of bytes that a step moves.

    Weights count once per batch. For each environment, the cache of keys and values and the
    memory's slots are read and written (on a CPU the slots in use, on a GPU all); noise and the
    memory's view are read, float32; the frame is written.
    """
    n = world.network.config
    slots = float(bytes_of(state.memory))
    if isinstance(world.memory, CountsPoints) and world.device.type != "cuda":
        slots *= float(world.memory.count(state.memory).sum()) / state.memory.kind.numel()
    pixels = len(state) * n.height * n.width * 4 * (n.channels + n.view_channels)
    return int(
        weight_bytes(world)
        + 2 * (bytes_of(state.context.cache) + slots)
        + pixels
        + bytes_of(state.frame)
    )


def ceilings(device: torch.device, quick: bool = False) -> dict[str, float]:
    """Return what the device reaches on a large matrix product and on a large copy.

    FLOP/s by type, and bytes/s, reading and writing; the best of a few tries.

    quick: smaller ones, for tests.
    """
    side = 256 if quick else 8192 if device.type == "cuda" else 1536
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        found[f"{name}_flop_per_s"] = 2.0 * side**3 / _best(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
    source = torch.ones(
        (1 << 20) if quick else (1 << 28 if device.type == "cuda" else 1 << 25), device=device
    )
    target = torch.empty_like(source)
    found["copy_bytes_per_s"] = 2.0 * bytes_of(source) / _best(lambda: target.copy_(source), device)
    return found


def _best(work: Callable[[], object], device: torch.device, tries: int = 6) -> float:
    work()
    return min(seconds(work, device) for _ in range(tries))


class PeakMemory:
    """Measures peak memory in bytes since its creation.

    On a GPU, all of PyTorch's memory; on a CPU, the growth since creation.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._before = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError, AttributeError):
            # What was freed would be taken again without showing; 5 sets the peak back to what is
            # held now. Linux alone.
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            REFERENCES.write_text("5")
        self._before = _kilobytes(STATUS, "VmRSS")

    def read(self) -> int:
        """Return the peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return max(0, _kilobytes(STATUS, "VmHWM") - self._before)


def _kilobytes(path: Path, name: str) -> int:
    """Return a line of one of Linux's tables in bytes, 0 elsewhere."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


@contextmanager
def using_threads(count: int | None) -> Iterator[int]:
    """Context in which PyTorch uses ``count`` threads; None changes nothing. Yields the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return median, minimum and maximum."""
    return statistics.median(values), min(values), max(values)
