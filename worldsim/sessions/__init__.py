"""Sessions: worlds that programs step through a server, each with its history.

``protocol`` (messages), ``session`` and ``history`` (one walk), ``batcher`` (steps of many sessions
in one forward), ``manager`` (limits and saved sessions), ``server`` (HTTP and WebSocket) and
``client`` (a Gymnasium environment over the network).
"""
