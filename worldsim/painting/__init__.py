"""Painters invent places: they complete partial views of a place to whole RGB-D frames.

- The painter: ``painter`` (start here), ``network``, ``sampling``, ``channels``, ``levels``,
  ``checkpoint``, ``pretrained``.
- ``training``, ``words``, ``places``, ``journeys``, ``validation``, ``evaluation``: each package
  names its parts.
- Other people's models: ``diffusers_painter``, ``inpaint``, ``depth``, ``holes``.

To add a painter: write a class with the protocol :class:`worldsim.protocols.Painter`, call
:func:`worldsim.testing.check_painter` in its tests, and pass it where a painter's name is accepted.
Painting ahead of a walker is part of a world: :mod:`worldsim.world.paint_ahead`.
"""
