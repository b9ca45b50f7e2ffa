"""Scenes: what a reset of a world starts from, one kind per file.

A reset calls ``Starts.choose`` (:mod:`worldsim.world.starts`), which calls the scene's
``start``; ``World.initial`` then ingests the frames (:mod:`worldsim.world.start_states`).
``recorded`` reads the scenes of a world's folder. To add a start to a world, record one with
:func:`worldsim.world.scene_files.record_scenes`: no class is needed.

To add a kind of scene:

1. File: ``scenes/NAME.py``.
2. Protocol: :class:`worldsim.protocols.Scene`; also ``fit_to`` if it adapts to the world
   (:class:`worldsim.protocols.FittingScene`).
3. Registration: a line in ``SCENES`` of :mod:`worldsim.runtime.registries`, for
   ``scenes="NAME:FOLDER"``, if it is constructed with a folder.
4. Check: :func:`worldsim.testing.check_scene`.
5. Page: docs/how_to/write_a_scene.md says more.
"""
