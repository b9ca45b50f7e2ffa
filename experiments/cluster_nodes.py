"""Ray nodes on this machine, in a network of their own, for the experiments on clusters."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psutil

ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""Runs a command where it reaches nothing but itself."""
INSIDE = "WORLDSIM_CLUSTER_ALONE"
NICENESS = "RAY_worker_niceness"
STORE_BYTES = 400 * 2**20
"""Shared memory of one node."""


def enter_own_network() -> None:
    """Run this script again in a network namespace of its own, unless it already is in one.

    Ray then listens where nothing outside this process tree can connect. Without ``unshare`` or
    ``ip`` the script goes on as it is.
    """
    if os.environ.get(INSIDE) or not (shutil.which("unshare") and shutil.which("ip")):
        return
    os.environ |= {INSIDE: "1", "RAY_USAGE_STATS_ENABLED": "0"}
    module = sys.modules["__main__"].__spec__
    script = ["-m", module.name] if module is not None else [sys.argv[0]]
    os.execvp(ALONE[0], [*ALONE, sys.executable, *script, *sys.argv[1:]])


@contextlib.contextmanager
def nodes(cpus: tuple[int, ...]) -> Iterator[Any]:
    """Context with a cluster of one node per entry, with so many CPUs each; the first is its head.

    Yields ``ray.cluster_utils.Cluster``. Its processes have the priority of this one: by default
    Ray gives them a lower one (niceness 15), which on a machine with other work measures that work.
    """
    os.environ[NICENESS] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": cpus[0], "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for count in cpus[1:]:
            cluster.add_node(num_cpus=count, object_store_memory=STORE_BYTES)
        yield cluster
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


class CpuTime:
    """Context that sums the CPU time of this process and of all below it, in ``total`` seconds.

    Looks twice a second, so that it misses little of what processes do before they end.

    ray: whether the processes of Ray count. They take a little while others work, too.
    """

    def __init__(self, ray: bool) -> None:
        self._ray, self._is_ray = ray, dict[psutil.Process, bool]()

    def __enter__(self) -> CpuTime:
        self._begun, self._seen = self._look(), dict[psutil.Process, float]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self._seen |= self._look()
        self.total = sum(used - self._begun.get(one, 0.0) for one, used in self._seen.items())

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self._seen |= self._look()

    def _look(self) -> dict[psutil.Process, float]:
        found = {}
        here = psutil.Process()
        for process in (here, *here.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                if process not in self._is_ray:
                    command = " ".join(process.cmdline())
                    self._is_ray[process] = "/ray/" in command or "ray::" in command
                if self._ray or not self._is_ray[process]:
                    used = process.cpu_times()
                    found[process] = used.user + used.system
        return found


def machine() -> dict[str, Any]:
    """Return what figures of this machine must say."""
    import ray
    import torch

    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        model = next((x.split(":")[1].strip() for x in lines if "model name" in x), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
    }
