"""Measurements of worlds, agents and speed against the real twin.

The commands: ``evaluate``, ``evaluate_agent``, ``agreement``, ``bench``. The protocols of
``evaluate``: walks (``benchmark_set``, ``measure``, ``figures``), return trips (``trip_recording``,
``return_trips``), worlds without geometry (``task``). Helpers: ``metrics`` (of single frames),
``statistics`` (means and intervals), ``frechet`` and ``encoder`` (distances between sets of
pictures), ``episodes``, ``policy_batch``, ``stopwatch``, ``strips``, ``memory_fitting``.

To add a figure to the walks:

1. A metric of frames or poses: a function in ``metrics``.
2. Its values: a field of ``measure.Measured``, one row per walk, filled in ``measure.measure``. A
   PSNR also joins ``measure.SCORES``.
3. Its key: ``figures.mean(key, measured[field], chosen)`` in ``figures.compute`` or a function that
   it calls. The interval over walks comes with it.
4. Its row: ``figures.TABLE``.
5. Check: its value by hand in ``tests/evaluation/test_metrics.py``, its key in
   ``tests/evaluation/test_evaluate.py``.
6. Page: the key in docs/reference/figures.md.
"""
