"""The basis of planners: objectives, imagined walks, the walkable ground, and localisation.

Planners themselves are agents: see :mod:`worldsim.agents`. ``planner`` holds their base class and
the imagination of futures, ``objectives`` what futures cost. Their helpers: ``imagined_motion``,
``ground``, ``locate``.

To add an objective:

1. File: ``worldsim/planning/objectives.py``, or any module of yours.
2. Protocol: :class:`worldsim.planning.objectives.Objective`.
3. Registration: none; a planner takes the object.
4. Check: its costs on futures whose best one is known, as in ``tests/planning``.
5. Page: docs/how_to/plan.md says more.
"""
