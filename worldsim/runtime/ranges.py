"""Named ranges for the fields of configs.

They are annotations, read by :func:`worldsim.runtime.json_config.from_json` and
:func:`worldsim.runtime.json_config.check_ranges`, so that files, the command line and Python apply
the same limits.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le

Share = Annotated[float, Ge(0.0), Le(1.0)]
"""A share or probability in [0, 1]."""
Rate = Annotated[float, Gt(0.0), Le(1.0)]
"""A learning rate: more than 0, at most 1."""
Count = Annotated[int, Ge(1), Le(10**9)]
"""A whole number of at least 1."""
Number = Annotated[int, Ge(0), Le(10**9)]
"""A whole number of at least 0."""
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]
"""What randomness comes from."""
Positive = Annotated[float, Gt(0.0), Le(1e9)]
"""A finite number of more than 0."""
NotNegative = Annotated[float, Ge(0.0), Le(1e9)]
"""A finite number of at least 0."""
Batch = Annotated[int, Ge(1), Le(65_536)]
"""Things that are computed at once."""
Scale = Annotated[int, Ge(1), Le(64)]
"""Pixels of a picture a pixel of a frame."""
Threads = Annotated[int, Ge(1), Le(1024)]
"""Threads of one process."""
Workers = Annotated[int, Ge(0), Le(1024)]
"""Processes; 0 works in this one."""
Capacity = Annotated[int, Ge(1), Le(2**24)]
"""Slots of a scene memory, an environment."""
