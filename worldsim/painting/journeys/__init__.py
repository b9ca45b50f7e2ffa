"""Journeys: places painted one after another, each where the last one leads.

- ``journey`` (start here) makes them. ``travel`` chooses cameras ahead.
- ``trip`` is what a journey holds so far, ``files`` saves it and ``scene`` makes it a scene.
- ``words``: the descriptions of its places.
"""
