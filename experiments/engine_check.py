"""Check and time the engine on a GPU: kernels against torch bit by bit, graphs against plain steps,
steps a second.

``python experiments/engine_check.py --json OUT`` takes at most four minutes and prints a short
table last; ``--speed`` looks where the network's time goes instead. A part that fails prints its
traceback and the rest goes on; what has been found is in the file from the beginning. Without a GPU
it says so and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldsim.camera import Camera
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.evaluation import stopwatch
from worldsim.memory import splat_triton
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.runtime.rng import Purpose, normal
from worldsim.runtime.triton import found, torch_only
from worldsim.state import WorldState, flatten, map_tensors
from worldsim.world import World
from worldsim.world.engine import EngineConfig
from worldsim.world.starts import DEFAULT_SCENES, Starts

CUDA = torch.device("cuda")
PLAIN = EngineConfig()
BF16 = EngineConfig(precision="bfloat16")
GRAPH32 = EngineConfig(graph=True)
GRAPH = EngineConfig(precision="bfloat16", graph=True)
WIDE = EngineConfig(precision="bfloat16", graph=True, compile="default", widen=True)
COMPILED = EngineConfig(precision="bfloat16", graph=True, compile="default")
AUTOTUNED = EngineConfig(precision="bfloat16", graph=True, compile="max-autotune-no-cudagraphs")
began = time.monotonic()
results: dict[str, Any] = {}
output: list[Path] = []
table: list[str] = []


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """A part of the check: what it says goes on, what it raises does not."""
    start = time.monotonic()
    print(f"--- {name} (at {start - began:.0f} s)", flush=True)
    try:
        yield
    except Exception:
        traceback.print_exc(limit=12, file=sys.stdout)
        note(name, "FAILED")
        with contextlib.suppress(Exception):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
    print(f"    took {time.monotonic() - start:.1f} s", flush=True)


def note(name: str, value: Any) -> None:
    """Keep a result for the table."""
    results[name] = value
    table.append(f"{name:44s} {value}")
    print("   ", table[-1], flush=True)
    for path in output:
        path.write_text(json.dumps(results, indent=1))


def milliseconds(function: Callable[[], Any], seconds: float = 0.5) -> float:
    """Mean time of a call on the GPU, after two warm ones."""
    function(), function()
    torch.cuda.synchronize()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or calls < 3:
        for _ in range(5):
            function()
        torch.cuda.synchronize()
        calls += 5
    return 1e3 * (time.perf_counter() - start) / calls


def differences(a: Any, b: Any) -> str:
    """Names and numbers of values that differ between two records."""
    left, right = flatten(a), flatten(b)
    found = {
        n: int((left[n] != right[n]).sum()) for n in left if not torch.equal(left[n], right[n])
    }
    return "equal" if not found else f"DIFFERENT {found}"


def walked(world: World, rows: int, steps: int, seed: int = 0) -> WorldState:
    """Worlds from different scenes after some random steps."""
    rng = np.random.default_rng(seed)
    starts = Starts(world, DEFAULT_SCENES)
    chosen = [starts.choose(rng, {}) for _ in range(rows)]
    state = world.initial([scene for scene, _ in chosen], [s for _, s in chosen])
    for _ in range(steps):
        act = torch.from_numpy(rng.choice([1, 1, 1, 3, 4], rows)).to(world.device)
        state, _ = world.step(state, act)
    return world.own(state)


def repeated(state: WorldState, rows: int) -> WorldState:
    """The environments over and over, up to so many."""
    return state.select(torch.arange(rows, device=CUDA) % len(state))


def check_kernels(world: World, state: WorldState) -> None:
    """The three passes over the slots, on dreams and on random full memories, with and without
    ``known``."""
    memory = world.memory
    assert isinstance(memory, PointMemory)
    camera = world.running.inner.camera(state.frame.pose, state.intrinsics)
    generator = torch.Generator(CUDA).manual_seed(0)
    full = map_tensors(torch.clone, state.memory)
    shape = full.kind.shape
    full.position.copy_(
        4.0 * torch.randn(full.position.shape, device=CUDA, generator=generator)
        + camera.pose[:, :3, 3:4]
    )
    full.kind.copy_(torch.randint(1, 3, shape, device=CUDA, generator=generator))
    full.seen.copy_(torch.randint(-30, 10, shape, device=CUDA, generator=generator))
    full.source.copy_(torch.randint(0, 256, shape, device=CUDA, generator=generator))
    full.confidence.copy_(torch.randint(250, 256, shape, device=CUDA, generator=generator))
    full.kind[0, 5:4000:20] = 0
    known = torch.rand(state.frame.rgb[:, 0].shape, device=CUDA, generator=generator) < 0.5
    small = PointMemory(PointMemoryConfig(capacity=5000))
    cases = {
        "dream": (memory, state.memory, None),
        "full": (memory, full, None),
        "known": (memory, full, known),
        "small": (small, small.empty(len(state), CUDA), None),
    }
    for name, (kind, data, mask) in cases.items():
        found, expected = [], []
        for results_of, torch_path in ((found, False), (expected, True)):
            with torch_only() if torch_path else contextlib.nullcontext():
                after = kind.integrate(data, state.frame, camera, state.step, mask)
                again = kind.integrate(after, state.frame, camera, state.step + 1, mask)
                views = [kind.render(m, camera) for m in (data, after, again)]
                results_of.append((after, again, *views, kind.surroundings(after, camera.pose)))
        note(f"kernels on a {name} memory", differences(found, expected))


def time_memory(world: World, state: WorldState) -> None:
    """Each pass by kernels, in place and not, and in torch, at 256 environments."""
    memory, batch = world.memory, repeated(state, 256)
    camera: Camera = world.running.inner.camera(batch.frame.pose, batch.intrinsics)
    owned = map_tensors(torch.clone, batch.memory)
    passes = {
        "surroundings": lambda: memory.surroundings(batch.memory, camera.pose),
        "render": lambda: memory.render(batch.memory, camera),
        "integrate": lambda: memory.integrate(batch.memory, batch.frame, camera, batch.step),
    }
    for name, function in passes.items():
        note(f"256: {name}, Triton / ms", round(milliseconds(function), 3))
    in_place = milliseconds(
        lambda: splat_triton.integrate_(memory.config, owned, batch.frame, camera, batch.step)
    )  # type: ignore
    note("256: integrate in place, Triton / ms", round(in_place, 3))
    nearest = milliseconds(
        lambda: splat_triton.nearest_slots(batch.memory.position, batch.memory.kind, camera)
    )
    note("256: z-buffer kernel alone / ms", round(nearest, 3))
    with torch_only():
        half = repeated(state, 64)
        near = world.running.inner.camera(half.frame.pose, half.intrinsics)
        note(
            "64: render, torch / ms",
            round(milliseconds(lambda: memory.render(half.memory, near), 0.3), 3),
        )
        slow = milliseconds(lambda: memory.integrate(half.memory, half.frame, near, half.step), 0.3)
        note("64: integrate, torch / ms", round(slow, 3))
        note(
            "64: surroundings, torch / ms",
            round(milliseconds(lambda: memory.surroundings(half.memory, near.pose), 0.3), 3),
        )


def follow(world: World, state: WorldState, acts: torch.Tensor) -> list[Any]:
    """The frames of a walk."""
    frames = []
    for act in acts:
        state, transition = world.step(state, act)
        frames.append((transition.frame, transition.rew, transition.coverage))
    return [*frames, state.clone()]


def check_graph(
    world: World, state: WorldState, engine: EngineConfig, name: str, reference: EngineConfig
) -> None:
    """The same walk with and without a graph; a second walk beside it; resets within the buffers; a
    clone goes on alike."""
    acts = torch.randint(0, 7, (12, len(state)), device=CUDA)
    plain, graphed = world.with_engine(reference), world.with_engine(engine)
    note(
        f"{name} against plain steps",
        differences(follow(plain, state, acts), follow(graphed, state, acts)),
    )
    first, second = state.clone(), state.select(torch.arange(len(state) - 1, -1, -1, device=CUDA))
    one, two = graphed.step(first, acts[0])[0], graphed.step(second, acts[0].flip(0))[0]
    for act in acts[1:5]:
        one, a = graphed.step(one, act)
        two, b = graphed.step(two, act.flip(0))
    turned = map_tensors(lambda x: x.flip(0), b.frame)
    note(f"{name}: two walks, rows turned round", differences(a.frame, turned))
    kept = one.clone()
    index = torch.tensor([1, 2], device=CUDA)
    one = graphed.put(one, index, state.select(index))
    one, after = graphed.step(one, acts[5])
    _, expected = graphed.step(kept.put(index, state.select(index)), acts[5])
    note(f"{name}: after a reset of two", differences(after, expected))


def check_precision(world: World, compiled: World, state: WorldState) -> None:
    """How far bfloat16 frames are from float32 ones, one step from the same states."""
    rows = repeated(state, 256)
    act = torch.ones(len(rows), dtype=torch.int64, device=CUDA)
    exact = world.step(rows, act)[1].frame.rgb.float()
    for name, engined in {
        "bfloat16": world.with_engine(GRAPH),
        "bfloat16 compiled": compiled,
    }.items():
        error = (engined.step(rows, act)[1].frame.rgb.float() - exact).square().mean()
        note(
            f"{name} against float32 / dB",
            round(float(10 * torch.log10(255.0**2 / error.clamp(min=1e-6))), 2),
        )


def time_steps(world: World, state: WorldState, rows: int, name: str) -> None:
    """Steps a second of ``World.step``, environments times steps."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    walk = {"state": repeated(state, rows)}
    act = torch.ones(rows, dtype=torch.int64, device=CUDA)

    def step() -> None:
        walk["state"], _ = world.step(walk["state"], act)

    prepared = time.monotonic()
    step()
    torch.cuda.synchronize()
    first = time.monotonic() - prepared
    ms = milliseconds(step, 1.0)
    memory = torch.cuda.max_memory_allocated() / 2**30
    note(
        f"{rows:5d} x {name}",
        f"{rows * 1e3 / ms:9.0f} steps/s {ms:8.3f} ms, first {first:5.1f} s, {memory:5.1f} GiB",
    )


def time_parts(world: World, state: WorldState, rows: int, name: str) -> None:
    """Where a step's time goes, each part alone, without a graph."""
    batch = repeated(state, rows)
    act = torch.ones(rows, dtype=torch.int64, device=CUDA)
    n = world.network.config
    with torch.no_grad():
        parts = world.running.inner
        inputs = parts.inputs(batch, act)
        condition = world.dynamics.condition_on(batch.context, inputs)
        noise = normal(batch.seed, batch.step, Purpose.NOISE, (n.channels, n.height, n.width))
        _, features, context = world.dynamics.sample(batch.context, condition, noise)
        for what, function in {
            "inputs": lambda: parts.inputs(batch, act),
            "condition": lambda: world.dynamics.condition_on(batch.context, inputs),
            "noise": lambda: normal(
                batch.seed, batch.step, Purpose.NOISE, (n.channels, n.height, n.width)
            ),
            "predict": lambda: world.dynamics.sample(batch.context, condition, noise),
            "shift of the cache": lambda: world.dynamics._shift(
                batch.context, batch.context.cache[:, :, :, :1]
            ),
        }.items():
            note(f"{rows}: {what}, {name} / ms", round(milliseconds(function, 0.3), 3))


def time_environment(world: World, rows: int, name: str) -> None:
    """Steps a second of the vector environment with tensors in and out, with one reset in every
    tenth step."""
    env = WorldVectorEnv(rows, world, output="torch", autoreset_mode="Disabled")
    start = time.monotonic()
    env.reset(seed=0)
    torch.cuda.synchronize()
    reset = time.monotonic() - start
    act = torch.ones(rows, dtype=torch.int64, device=CUDA)
    mask = np.zeros(rows, bool)
    mask[rows // 2] = True
    count = {"steps": 0}

    def step() -> None:
        env.step(act)
        count["steps"] += 1
        if count["steps"] % 10 == 0:
            env.reset(options={"reset_mask": mask})

    ms = milliseconds(step, 1.0)
    alone = milliseconds(lambda: env.reset(options={"reset_mask": mask}), 0.3)
    steps = f"{rows * 1e3 / ms:9.0f} steps/s {ms:8.3f} ms"
    note(
        f"{rows:5d} x environment, {name}",
        f"{steps}, reset of all {reset:.1f} s, of one {alone:.2f} ms",
    )


def profile_network(world: World, state: WorldState, rows: int, name: str) -> None:
    """The kernels that a prediction spends its time in, longest first."""
    batch = repeated(state_for(world.engine, state), rows)
    act = torch.ones(rows, dtype=torch.int64, device=CUDA)
    n = world.network.config
    with torch.no_grad():
        parts = world.running.inner
        inputs = parts.inputs(batch, act)
        condition = world.dynamics.condition_on(batch.context, inputs)
        noise = normal(batch.seed, batch.step, Purpose.NOISE, (n.channels, n.height, n.width))
        world.dynamics.sample(batch.context, condition, noise)
        alone = milliseconds(lambda: world.dynamics.sample(batch.context, condition, noise))
        note(f"{rows}: predict, {name} / ms", round(alone, 3))
        kernels = stopwatch.longest(
            lambda: world.dynamics.sample(batch.context, condition, noise), CUDA, 24
        )
    for kernel in kernels:
        note(
            f"{rows}: {name}, {kernel['calls']} x {kernel['name'][:70]} / ms",
            round(kernel["ms"], 3),
        )


def time_suspects(rows: int) -> None:
    """Single layers at full resolution, two frames of so many environments, as the network has
    them."""
    frames = 2 * rows

    def features(channels: int, layout: torch.memory_format, size: int = 64) -> torch.Tensor:
        return torch.randn(frames, channels, size, size, device=CUDA, dtype=torch.bfloat16).to(
            memory_format=layout
        )

    def told(what: str, function: Callable[[torch.Tensor], Any], x: torch.Tensor) -> None:
        with torch.no_grad():
            note(f"{frames} frames: {what} / ms", round(milliseconds(lambda: function(x), 0.1), 3))

    last, first = torch.channels_last, torch.contiguous_format
    for layout, called in ((last, "channels last"), (first, "channels first")):
        for inputs, outputs in ((12, 32), (16, 32), (32, 32), (32, 4), (32, 8)):
            conv = (
                torch.nn.Conv2d(inputs, outputs, 3, padding=1)
                .to(CUDA, torch.bfloat16)
                .to(memory_format=layout)
            )
            told(f"conv {inputs}-{outputs}, {called}", conv, features(inputs, layout))
        norm = torch.nn.GroupNorm(8, 32).to(CUDA, torch.bfloat16)
        told(f"group norm, {called}", norm, features(32, layout))
        told(
            f"group norm compiled, {called}",
            torch.compile(norm, dynamic=False),
            features(32, layout),
        )


def left(seconds: float, limit: float) -> bool:
    """Whether so much time is left."""
    return time.monotonic() - began + seconds < limit


def check_and_time(world: World, state: WorldState, seconds: float) -> None:
    """Everything that must be equal, then every engine's speed."""
    with part("kernels"):
        check_kernels(world, state)
    with part("memory"):
        time_memory(world, state)
    with part("graph, float32"):
        check_graph(world, state, GRAPH32, "graph float32", PLAIN)
    with part("graph, bfloat16"):
        check_graph(world, state, GRAPH, "graph bfloat16", BF16)
    with part("plain times"):
        for rows in (1, 256):
            time_steps(world, state, rows, "plain")
        time_parts(world, state, 256, "float32")
    with part("bfloat16 parts"):
        time_parts(world.with_engine(BF16), state_for(BF16, state), 256, "bfloat16")
    graphed = world.with_engine(GRAPH)
    for rows in (1, 32, 256, 1024):
        with part(f"graph {rows}"):
            time_steps(graphed, state, rows, "bfloat16 graph")
    del graphed
    compiled = world.with_engine(COMPILED)
    for rows in (256, 1, 1024, 32):
        if left(40, seconds):
            with part(f"compiled {rows}"):
                time_steps(compiled, state, rows, "bfloat16 graph compiled")
                if rows == 256:
                    time_parts(compiled, state_for(BF16, state), 256, "compiled")
    for rows in (256, 1):
        if left(15, seconds):
            with part(f"environment {rows}"):
                time_environment(compiled, rows, "compiled")
    if left(10, seconds):
        with part("precision"):
            check_precision(world, compiled, state)


def look_for_speed(world: World, state: WorldState, seconds: float) -> None:
    """Kernels of the compiled network, wider convolutions, single layers, inductor's own search."""
    with part("suspects"):
        time_suspects(256)
    with part("compiled"):
        profile_network(world.with_engine(COMPILED), state, 256, "compiled")
    with part("eager"):
        profile_network(world.with_engine(GRAPH), state, 256, "eager")
    with part("wide"):
        wide = world.with_engine(WIDE)
        profile_network(wide, state, 256, "wide")
        time_steps(wide, state, 256, "bfloat16 graph compiled wide")
    if left(60, seconds):
        with part("autotuned"):
            time_steps(world.with_engine(AUTOTUNED), state, 256, "bfloat16 graph autotuned")


def main() -> None:
    """Run everything that fits into the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=225.0)
    parser.add_argument(
        "--speed",
        action="store_true",
        help="only look where the network's time goes, and what makes it faster",
    )
    args = parser.parse_args()
    output.extend([args.json] if args.json else [])
    if not torch.cuda.is_available():
        print("no CUDA here: nothing to check")
        return
    torch.manual_seed(0)
    print(
        torch.__version__,
        torch.cuda.get_device_name(),
        "with Triton" if found("triton") else "without Triton",
    )
    world = World.from_pretrained("freedoom-tiny", CUDA)
    state: Any = None
    with part("plain walk of 8"):
        with torch_only():
            state = walked(world, 8, 40)
        note("points an environment", world.memory.count(state.memory).tolist())  # type: ignore[attr-defined]
    if args.speed:
        look_for_speed(world, state, args.seconds)
    else:
        check_and_time(world, state, args.seconds)
    print("\n" + "\n".join(table), flush=True)
    print(f"took {time.monotonic() - began:.0f} s")


def state_for(engine: EngineConfig, state: WorldState) -> WorldState:
    """The state with the number format of an engine's cache."""
    cache = state.context.cache.to(getattr(torch, engine.precision))
    return dataclasses.replace(state, context=dataclasses.replace(state.context, cache=cache))


if __name__ == "__main__":
    main()
