"""Names for types that many modules use.

``Any`` appears here once for each place where a library or a file format has no narrower type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = NDArray[Any]
"""A NumPy array of any dtype."""
Env: TypeAlias = gym.Env[Any, Any]
"""An environment with any observations and actions."""
VectorEnv: TypeAlias = gym.vector.VectorEnv[Any, Any, Any]
"""A vector environment with any observations, actions and arrays."""
Space: TypeAlias = gym.Space[Any]
"""An observation or action space of any kind."""
Batch: TypeAlias = "Array | Tensor"
"""Values of several environments: an array or a tensor with a leading batch axis."""
Action: TypeAlias = int | np.int64 | Array
"""One action of a ``Discrete`` space, or an array of any other space."""
Info: TypeAlias = dict[str, Any]
"""The ``info`` and ``options`` dicts of Gymnasium's API."""
JsonObject: TypeAlias = dict[str, Any]
"""A JSON object, as ``json.load`` returns it."""
NamedArrays: TypeAlias = dict[str, Any]
"""NumPy arrays or tensors by name; None, or a dict of them, where one is not an array."""
JsonMapping: TypeAlias = Mapping[str, Any]
"""A JSON object that is only read."""
