"""Agents and planners, one per file, named like ``worldsim.agents.persistent:PersistentPolicy``."""
