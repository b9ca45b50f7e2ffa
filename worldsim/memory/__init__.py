"""Scene memories: what has been seen, kept in three dimensions."""

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
