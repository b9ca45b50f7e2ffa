"""Action-conditioned video diffusion: the dynamics of a world.

``dynamics`` is the :class:`worldsim.protocols.Dynamics`; ``network`` is what it runs. Their
helpers: ``denoiser`` (encoding of frames), ``sampling``, ``attention`` and ``attention_kernels``,
``cpu_layers``, ``module`` (saving), ``quantise``, ``shapes``.

To add a dynamics:

1. File: a package beside this one, or a module of yours.
2. Protocol: :class:`worldsim.protocols.Dynamics`; optional capabilities are below it there.
3. Registration: a line in ``DYNAMICS`` of :mod:`worldsim.runtime.registries`, so that worlds name
   it.
4. Check: :func:`worldsim.testing.check_dynamics`.
5. Page: docs/how_to/write_a_dynamics.md says more.
"""
