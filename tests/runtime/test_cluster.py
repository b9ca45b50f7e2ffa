"""Recording and dreaming on a Ray cluster, in a network namespace that reaches nothing outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "cluster_cases"
ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def can_unshare() -> bool:
    """Whether this system lets its users have networks of their own."""
    return (
        bool(shutil.which("unshare") and shutil.which("ip"))
        and not subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode
    )


@pytest.mark.slow
@pytest.mark.parametrize("names", [("record", "evaluate", "vector"), ("local",)])
def test_cases(names: tuple[str, ...]) -> None:
    """One process, and one cluster, for several files: it takes some twenty seconds to start."""
    pytest.importorskip("ray", reason="needs the extra cluster")
    if not can_unshare():
        pytest.skip("needs unshare and ip, and a system that allows them")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    cases = subprocess.run(
        [*ALONE, *command, *(str(CASES / f"cases_{name}.py") for name in names)],
        cwd=CASES.parents[2],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(cases.stdout[-8000:], cases.stderr[-4000:])
    assert cases.returncode == 0
