"""Agents and planners, one per file, named like ``worldsim.agents.persistent:PersistentPolicy``.

The agents: ``random``, ``persistent``, ``sticky`` and ``road_follower`` (for recording and as
baselines), ``cem`` and ``mppi`` (planners), ``goal_walker``, ``image_goal_walker``, ``explorer``
and ``novelty``, ``actor_critic``. Their helpers: ``pursuit`` (follows paths), ``sightlines`` (of
``explorer``), ``actor_critic_args``, ``actor_critic_learner`` and ``actor_critic_policy``.

To add an agent:

1. File: ``agents/NAME.py``; it imports the core and its own folder only.
2. Protocol: :class:`worldsim.protocols.Policy`. A planner extends
   :class:`worldsim.planning.planner.Planner` and is constructed with a dream.
3. Registration: a line in ``POLICIES`` of :mod:`worldsim.runtime.registries`, if it is constructed
   with an action space and agent files shall name it.
4. Check: :func:`worldsim.testing.check_policy`.
5. Page: docs/how_to/write_an_agent.md says more.
"""
