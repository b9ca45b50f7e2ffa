"""Names for types that many modules use.

``Any`` appears here once for each place where a library or a file format has no narrower type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import gymnasium as gym
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A NumPy array of any dtype."""
Env: TypeAlias = gym.Env[Any, Any]
"""An environment with any observations and actions."""
Space: TypeAlias = gym.Space[Any]
"""An observation or action space of any kind."""
Info: TypeAlias = dict[str, Any]
"""The ``info`` and ``options`` dicts of Gymnasium's API."""
JsonObject: TypeAlias = dict[str, Any]
"""A JSON object, as ``json.load`` returns it."""
NamedArrays: TypeAlias = dict[str, Any]
"""NumPy arrays or tensors by name; None, or a dict of them, where one is not an array."""
JsonMapping: TypeAlias = Mapping[str, Any]
"""A JSON object that is only read."""
