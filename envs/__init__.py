"""Gymnasium environments: generated worlds, their real twins, and an adapter.

The environments: ``world_env`` (one dream), ``world_vector_env`` (a batch of them), ``doom``
(Freedoom, the real twin of the shipped walks), ``tiny_room`` (small and exact, for tests). Their
helpers: ``dream_common`` (of the two dreams), ``doom_geometry``, ``doom_survey`` and
``doom_textures`` (what Freedoom's maps hold). ``sb3`` shows vector environments to
Stable-Baselines3; ``ray_vector`` spreads dreams over a cluster, in the processes of ``ray_hosts``.

To add an environment:

1. File: ``envs/NAME.py``.
2. Protocol: ``gymnasium.Env``; with ``pose``, ``depth`` and ``intrinsics`` in ``info``, worlds
   trained on it can have a scene memory.
3. Registration: a ``gymnasium.register`` call in ``worldsim/__init__.py``, its class as a string.
4. Check: ``gymnasium.utils.env_checker.check_env``.
5. Page: docs/how_to/write_an_environment.md says more.
"""
