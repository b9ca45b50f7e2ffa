"""Scene memories: what has been seen, kept in three dimensions.

The memories: ``points`` (the default), ``radiance``, ``retrieval``, ``none``. Their helpers:

- of ``points``: ``slots`` (its data), ``operations`` (its passes over the data), ``splat``,
  ``splat_triton`` and ``splat_kernels`` (drawing it), ``editing``;
- of ``radiance``: ``voxels``, ``sky``, ``keyframes``, ``fitting``; ``nerfacto`` is a field by
  itself;
- for users: ``handle``, with ``handle_results``, ``arguments``, ``maps`` and ``surfels``.

To add a memory:

1. File: ``worldsim/memory/NAME.py``, with a config dataclass above the class.
2. Protocol: :class:`worldsim.protocols.SceneMemory`; optional capabilities are below it there.
3. Registration: a line in ``KINDS`` of :mod:`worldsim.memory.registry`, so that snapshots name it.
4. Check: :func:`worldsim.testing.check_memory`, and a line in ``tests/memory/test_contract.py``.
5. Page: docs/how_to/write_a_memory.md says more.
"""

from worldsim.memory.handle import MemoryHandle
from worldsim.memory.none import NoMemory
from worldsim.memory.points import PointMemory, PointMemoryConfig, Points
from worldsim.memory.radiance import RadianceField, RadianceMemory, RadianceMemoryConfig
from worldsim.memory.retrieval import RetrievalMemory, RetrievalMemoryConfig, SeenFrames

__all__ = [
    "MemoryHandle",
    "NoMemory",
    "PointMemory",
    "PointMemoryConfig",
    "Points",
    "RadianceField",
    "RadianceMemory",
    "RadianceMemoryConfig",
    "RetrievalMemory",
    "RetrievalMemoryConfig",
    "SeenFrames",
]
