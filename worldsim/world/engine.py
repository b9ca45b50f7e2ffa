"""Engines: how a world's step is run (number format, compilation, CUDA graphs).

An engine does not change what ``World`` computes. Three settings have names:

- ``plain``: eager torch in float32.
- ``fast``: bfloat16 where the device supports it; on a GPU the whole step is one CUDA graph.
- ``compiled``: ``fast``, with the network compiled by inductor, and on a CPU all parts of the step.
  The first step takes about a minute.

Results are reproducible bit for bit with one setting on one device. Two settings differ by
rounding.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import worldsim.runtime.forks  # noqa: F401  for processes forked after a world is loaded
from worldsim.diffusion.attention import few
from worldsim.diffusion.network import Attention
from worldsim.errors import InvalidInputError
from worldsim.memory.operations import Passes
from worldsim.memory.splat_triton import Between
from worldsim.runtime.compiling import COMPILING
from worldsim.runtime.cuda_graphs import capture_graph, copy_in
from worldsim.runtime.limits import available_memory
from worldsim.runtime.triton import usable
from worldsim.state import Frame, Transition, WorldState, map_tensors

if TYPE_CHECKING:
    from torch._dynamo.types import GuardFilterEntry

    from worldsim.world.paint_ahead import Look

P = ParamSpec("P")
T = TypeVar("T")
Network = TypeVar("Network", bound=nn.Module)
Options = dict[str, str | int | bool | Callable[..., object]]
"""Inductor's options."""
StepFunction = Callable[[WorldState, Tensor], tuple[WorldState, Transition]]
"""Advances states by one action; :class:`worldsim.world.step.Step` is one."""
_told: set[str] = set()
_prepared: weakref.WeakKeyDictionary[
    nn.Module, weakref.WeakValueDictionary[tuple[object, ...], nn.Module]
] = weakref.WeakKeyDictionary()
"""Copies of networks that engines run, by network, setting and state of the weights."""


@dataclass(frozen=True)
class EngineConfig:
    """How steps are run."""

    precision: str = "float32"
    """``float32`` or ``bfloat16``: dtype of the network's weights, activations, and cached keys and
    values. Heads always use float32."""
    compile: str = ""
    """Inductor's mode for the network, for example ``default`` or ``max-autotune-no-cudagraphs``.
    An empty string disables compilation."""
    graph: bool = False
    """Whether a GPU replays the whole step as one CUDA graph, in place: see
    :meth:`worldsim.world.World.with_engine`."""

    whole: bool = False
    """Whether ``compile`` covers everything between the memory's passes instead of the network
    alone. It needs one sampling step."""
    widen: bool = False
    """Whether the first and the last convolution are padded with zeros to a multiple of 8 channels,
    which tensor cores require."""

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise InvalidInputError(
                f"precision must be 'float32' or 'bfloat16', got {self.precision!r}"
            )


PLAIN = EngineConfig()


def resolve_engine(name: str | EngineConfig, device: torch.device) -> EngineConfig:
    """Return the setting called ``name`` on ``device``.

    Raises InvalidInputError for an unknown name.
    """
    if isinstance(name, EngineConfig):
        return name
    if name == "plain":
        return PLAIN
    if name not in ("fast", "compiled"):
        raise InvalidInputError(
            f"engine must be 'plain', 'fast', 'compiled' or an EngineConfig, got {name!r}"
        )
    cuda = device.type == "cuda"
    precision = "bfloat16" if cuda or cpu_has_bfloat16() else "float32"
    compiled = name == "compiled"
    return EngineConfig(
        precision, "default" if compiled else "", graph=cuda, whole=compiled, widen=cuda
    )


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU has bfloat16 matrix instructions (AVX-512 BF16 or AMX).

    Without them float32 is faster.
    """
    checks = (
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(check() for check in checks if check is not None)


def prepare_network(network: Network, config: EngineConfig) -> Network:
    """Return a copy of the network for a setting; the network itself for the plain setting.

    Worlds of the same weights, such as those of several temperatures, share one copy as long as one
    of them lives and the weights stay as they are.
    """
    if config.precision == "float32" and not (config.compile or config.widen):
        return network
    if next(network.parameters()).is_meta:
        return _prepare(network, config)
    key = config.precision, config.widen, bool(config.compile), _weights_digest(network)
    copies = _prepared.setdefault(network, weakref.WeakValueDictionary())
    found = copies.get(key)
    if found is None:
        found = copies[key] = _prepare(network, config)
    return found  # type: ignore[return-value]


def _weights_digest(network: nn.Module) -> bytes:
    """Return the SHA-256 of all weights; their version counters miss writes through ``.data``."""
    digest = hashlib.sha256(str(next(network.parameters()).device).encode())
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.digest()


def _prepare(network: Network, config: EngineConfig) -> Network:
    twin = copy.deepcopy(network)
    if usable(next(twin.parameters())):
        for module in twin.modules():
            if isinstance(module, Attention) and module.fits_kernel:
                module.kernel = few
    if config.widen:
        twin.stem, twin.out = widen(twin.stem, inputs=8), widen(twin.out, outputs=8)  # type: ignore[arg-type]
    for parameter in twin.parameters():
        parameter.data = parameter.data.to(getattr(torch, config.precision))
    return twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def widen(layer: nn.Conv2d, inputs: int = 1, outputs: int = 1) -> nn.Conv2d:
    """Return the same convolution, padded to multiples of ``inputs`` and ``outputs`` channels.

    The new channels have zero weights and outputs.
    """
    more_in, more_out = -layer.in_channels % inputs, -layer.out_channels % outputs
    wide = copy.copy(layer)
    wide.in_channels, wide.out_channels = layer.in_channels + more_in, layer.out_channels + more_out
    wide._parameters = dict(layer._parameters)
    wide.weight = nn.Parameter(
        F.pad(layer.weight.detach(), (0, 0, 0, 0, 0, more_in, 0, more_out)), requires_grad=False
    )
    if layer.bias is not None:
        wide.bias = nn.Parameter(F.pad(layer.bias.detach(), (0, more_out)), requires_grad=False)
    return wide


def tell_once(what: str) -> None:
    """Warn, once per process, of something that makes steps slower."""
    if what not in _told:
        _told.add(what)
        warnings.warn(what, stacklevel=3)


def reason(error: Exception) -> str:
    """Return an error as one line: its type, its first line and its last line.

    The last line is the useful one where a compiler's own process failed.
    """
    lines = [
        line.strip()
        for line in str(error).splitlines()
        if line.strip() and "TORCHDYNAMO_VERBOSE" not in line
    ]
    lines = [line for line in lines if not line.startswith(("For even more", "Set TORCH"))] or [""]
    return f"{type(error).__name__}: {lines[0]}" + (f" ... {lines[-1]}" if len(lines) > 1 else "")


def cpu_options(mode: str) -> Options:
    """Return inductor's options for a mode.

    They must be set around each call, because dynamo reads them too.
    """
    # Constant weights: oneDNN converts their layout once instead of in every call.
    options: Options = {"freezing": True}
    if mode.startswith("max-autotune"):
        # Only inductor's matrix products: a choice between these and oneDNN's by their time would
        # make two runs round differently.
        options |= {"max_autotune_gemm": True, "max_autotune_gemm_backends": "CPP"}
    return options


def own_code(function: Callable[P, T]) -> Callable[P, T]:
    """Return a method with its own copy of the code object.

    dynamo stores compiled code with the code object, and weights are constants in it.
    """
    if not isinstance(function, MethodType):
        return function
    of = function.__func__
    own = FunctionType(
        of.__code__.replace(), of.__globals__, of.__name__, of.__defaults__, of.__closure__
    )
    own.__kwdefaults__ = of.__kwdefaults__
    return MethodType(own, function.__self__)


def depends_on(guards: Sequence[GuardFilterEntry]) -> list[bool]:
    """Return which of dynamo's guards to check in every call: those on arguments.

    Modules and settings never change under an engine, and checking all guards takes longer than a
    pass over the memory.
    """
    return [not (guard.is_global or "self" in guard.name or "__" in guard.name) for guard in guards]


def batch_of(args: Sequence[object]) -> int:
    """Return the batch size of a call: that of its first tensor, 0 without tensors.

    Every new size is compiled separately.
    """
    return next((len(one) for one in args if isinstance(one, Tensor) and one.dim()), 0)


class Compiled(Generic[P, T]):
    """A function compiled by inductor. If that fails, it warns once and runs uncompiled.

    function: the function.
    mode: inductor's mode.
    device: the device that it runs on.
    constant: whether weights never change after the first call. Otherwise new values may be copied
    into them.
    varying: axes whose size differs between calls, by the number of the argument. Other sizes are
    compiled for.
    instead: runs where inductor fails. By default it is the function itself.
    """

    def __init__(
        self,
        function: Callable[P, T],
        mode: str,
        device: torch.device,
        constant: bool = True,
        varying: Mapping[int, int] | None = None,
        instead: Callable[P, T] | None = None,
    ) -> None:
        self.plain, self.varying = instead or function, varying or {}
        self.options: Options = {}
        self.compiled: Callable[P, T] | None
        dynamic = None if varying else False
        if device.type == "cpu":
            function, self.options = own_code(function), cpu_options(mode) if constant else {}
            # fullgraph: a graph break would make the function slower without a warning.
            guards: Options = {"guard_filter_fn": depends_on}
            self.compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, options=guards)
        else:
            self.compiled = torch.compile(function, dynamic=dynamic, mode=mode)
        self._seen: set[int] = set()
        # Above dynamo's limit functions silently run uncompiled.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the compiled function, or the uncompiled one after a failure."""
        if self.compiled is not None:
            size = batch_of(args)
            new = size not in self._seen
            self._seen.add(size)
            try:
                for number, axis in self.varying.items():
                    torch._dynamo.maybe_mark_dynamic(args[number], axis)
                with (
                    COMPILING.part() if new else nullcontext(),
                    torch._inductor.config.patch(self.options) if self.options else nullcontext(),
                ):
                    return self.compiled(*args, **kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                    raise
                self.compiled = None
                tell_once(f"inductor failed ({reason(error)}): that part runs uncompiled, slower")
        return self.plain(*args, **kwargs)


def compiled_passes(mode: str, device: torch.device) -> Passes:
    """Return the point memory's passes compiled by inductor, for any number of slots."""

    def compiled(function: Callable[P, T], varying: Mapping[int, int]) -> Compiled[P, T]:
        return Compiled(function, mode, device, varying=varying)

    plain = Passes()
    return Passes(
        in_sight=compiled(plain.in_sight, {0: 2, 1: 1}),
        on_map=compiled(plain.on_map, {0: 2, 1: 1}),
        view=compiled(plain.view, {1: 1}),
        surroundings=compiled(plain.surroundings, {2: 1}),
        verdict=compiled(plain.verdict, {2: 1}),
    )


def compiled_between(mode: str, device: torch.device) -> Between:
    """Return the compiled operations between the point memory's kernels on a GPU."""
    plain = Between()
    return Between(
        view=Compiled(plain.view, mode, device),
        bounds=Compiled(plain.bounds, mode, device),
        points=Compiled(plain.points, mode, device),
    )


def total_memory(device: torch.device) -> int:
    """Return the memory of a device in bytes, used or not."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory(device: torch.device) -> int:
    """Return the bytes of a device's memory that this process may still allocate.

    They include what PyTorch has reserved on a GPU.
    """
    if device.type == "cuda":
        return (
            int(torch.cuda.mem_get_info(device)[0])
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    return available_memory()


def compile_in_place(module: torch.nn.Module, device: torch.device) -> None:
    """Compile the module in place, like its own ``compile``.

    If inductor fails, it warns once and the module runs uncompiled. Each module is compiled for its
    own few shapes: code shared by several modules or shapes would be slower.
    """
    module._compiled_call_impl = Compiled(module._call_impl, "default", device, constant=False)


class GraphedStep:
    """A step as one CUDA graph per batch size, with its own buffers.

    The returned state lives in these buffers. The next step overwrites it, and stepping from it
    twice is an error. States from elsewhere are copied in. Two states of the same batch size that
    are both in use get separate graphs and buffers. Transitions and frames are copies.
    """

    def __init__(self, step: StepFunction) -> None:
        self.step = step
        self._captured: dict[tuple[object, ...], list[_Captured]] = {}
        self._spent: weakref.WeakValueDictionary[int, WorldState] = weakref.WeakValueDictionary()

    def __call__(self, state: WorldState, act: Tensor) -> tuple[WorldState, Transition]:
        """Advance all worlds by one action; returns the new state and the transition.

        Raises InvalidInputError for a state that was stepped from before.
        """
        if self._spent.get(id(state)) is state:
            raise InvalidInputError(
                "this state has been stepped from before, in place: keep state.clone() to step "
                "from it again, or use engine='plain'"
            )
        key = (len(state), act.dtype, state.looked is None, *act.shape[1:])
        found = self._captured.setdefault(key, [])
        captured = next((c for c in found if c.newest() is state), None) or next(
            (c for c in found if c.newest() is None), None
        )
        if captured is None:
            captured = _Captured(self.step, state, act)
            found.append(captured)
        if captured.newest() is state:
            self._spent[id(state)] = state
        return captured(state, act)

    def put(self, state: WorldState, index: Tensor, other: WorldState) -> WorldState:
        """Replace some environments like ``state.put``, in place if the buffers hold the state.

        The cost depends on the number of replaced environments only.
        """
        captured = self._holding(state)
        if captured is None:
            return state.put(index, other)
        self._spent[id(state)] = state
        return captured.put(state, index, other)

    def take(self, state: WorldState, look: Look) -> WorldState:
        """Return the states after a look ahead, in place if the buffers hold the state."""
        captured = self._holding(state)
        if captured is None:
            return look.apply(state)
        self._spent[id(state)] = state
        return captured.take(state, look)

    def _holding(self, state: WorldState) -> _Captured | None:
        """Return the graph whose buffers hold the state."""
        return next(
            (c for found in self._captured.values() for c in found if c.newest() is state), None
        )

    def own(self, state: WorldState) -> WorldState:
        """Return the state outside the buffers, so that later steps do not overwrite it."""
        newest = any(c.newest() is state for found in self._captured.values() for c in found)
        return state.clone() if newest else state


class _Captured:
    def __init__(self, step: StepFunction, state: WorldState, act: Tensor) -> None:
        self.step, self.state, self.act = step, state.clone(), act.clone()
        self.newest: Callable[[], WorldState | None] = lambda: None
        # Warm-up and capture change the buffers; the first call copies the state in again.
        self.replay = self._capture()

    def _capture(self) -> Callable[[], None]:
        return capture_graph(self._run, self.act.device)

    def _run(self) -> None:
        after, self.transition = self.step(self.state, self.act)
        map_tensors(copy_in, self.state, after)

    def __call__(self, state: WorldState, act: Tensor) -> tuple[WorldState, Transition]:
        if self.newest() is not state:
            map_tensors(copy_in, self.state, state)
        self.act.copy_(act)
        self.replay()
        transition = map_tensors(torch.clone, self.transition)
        return self._after(transition.frame), transition

    def put(self, state: WorldState, index: Tensor, other: WorldState) -> WorldState:
        """Replace the environments ``index`` in the buffers by those of ``other``."""
        index = index.to(self.act.device)
        map_tensors(
            lambda mine, new: mine.index_copy_(0, index, new.to(mine.dtype)), self.state, other
        )
        frame = map_tensors(
            lambda mine, new: mine.index_copy(0, index, new), state.frame, other.frame
        )
        return self._after(frame)

    def take(self, state: WorldState, look: Look) -> WorldState:
        """Change what a look ahead changes in the buffers."""
        look.apply(self.state, in_place=True)
        return self._after(state.frame)

    def _after(self, frame: Frame) -> WorldState:
        """Return the state that the buffers hold, with its own frame."""
        after = dataclasses.replace(self.state, frame=frame)
        self.newest = weakref.ref(after)
        return after
