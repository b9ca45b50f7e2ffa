"""Agents and planners, one a file. Each is named by a string such as
``worldsim.agents.persistent:PersistentPolicy``."""
