"""Lets forked processes step worlds.

Importing this module is enough. It imports torch, so :mod:`worldsim` does not import it; the
modules that compute with torch do.
"""

from __future__ import annotations

import os

import torch


def use_one_thread() -> None:
    """Make torch compute in the calling thread alone."""
    torch.set_num_threads(1)


# A fork copies the memory of torch's thread pool but none of its threads: the first parallel
# operation in the child would wait for them forever. Gymnasium's AsyncVectorEnv forks after it has
# made an environment, as multiprocessing.Pool and tianshou's ShmemVectorEnv do after the user has.
# Processes that are spawned start anew, with as many threads as they like.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=use_one_thread)
