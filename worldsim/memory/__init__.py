"""Scene memories: what has been seen, kept in three dimensions."""

from worldsim.memory.none import NoMemory
from worldsim.memory.points import PointMemory, PointMemoryConfig, Points

__all__ = ["NoMemory", "PointMemory", "PointMemoryConfig", "Points"]
