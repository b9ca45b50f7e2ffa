"""Pretrained video models of diffusers as the dynamics of a world.

``dynamics`` emits the frames of a chunk step by step (``chunks``), renders the memory as the
model's control, and estimates depth. ``adapter`` is what all adapters share. Each call convention
of pipelines has a file: ``wan_vace``, ``ltx_condition``, ``anyflow_far``, ``skyreels_forcing``,
``stable_video``, ``sana_wm``. ``loading`` reads models from folders and the hub, and ``worlds``
makes worlds of them. ``lora`` runs adapters of a model's weights, ``lora_training`` trains them on
the ``clips`` of a recording.

To add an adapter:

1. File: ``worldsim/pretrained/NAME.py``, a :class:`worldsim.pretrained.adapter.VideoAdapter`.
2. Protocol: :class:`worldsim.protocols.VideoModel`.
3. Registration: a line in ``VIDEO_MODELS`` of :mod:`worldsim.runtime.registries`.
4. Check: :func:`worldsim.testing.check_dynamics` on
   :class:`worldsim.pretrained.dynamics.PretrainedDynamics` with it.
5. Page: docs/how_to/pretrained.md says more.
"""
