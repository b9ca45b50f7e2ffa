"""The protocol that measures a painter against look-arounds of its real twin's test maps.

- ``evaluate`` (start here): ``worldsim evaluate`` for painters. ``report``: its table.
- Data: ``places`` (look-arounds as tensors), ``recorded`` (the frozen test places and the train
  places of the floor), ``paintings`` (what the painter paints of them, kept on disk).
- Measures, one a file: ``yardstick`` (Fréchet and kernel distances), ``new_places``,
  ``completion``, ``memorisation``, ``joint``, ``depth_errors``, ``timing``; ``neighbours``
  (agreement of overlapping views), ``baselines`` (``cv2.inpaint`` and a world that turns round).
- Pictures: ``sheets``. Intervals: ``statistics``.

Whether painted places show what words ask for is measured by ``experiments/painter/words.py``.
"""
