"""Agents and planners, one per file.

Each is named by a string such as ``worldsim.agents.persistent:PersistentPolicy``.
"""
