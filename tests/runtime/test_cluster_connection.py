"""Addresses of clusters, and what is missing, without a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from worldsim.app import cli
from worldsim.errors import InvalidInputError, MissingDependencyError, NotFoundError
from worldsim.runtime.cluster_connection import (
    check_address,
    connected,
    require_room,
    require_versions,
    versions_here,
    with_cluster_value,
)

pytestmark = pytest.mark.fast


def test_an_option_without_a_value() -> None:
    """It is ``auto``, wherever it stands; what follows is its value only if it is an address."""
    for given, value in {
        "evaluate w --cluster": "auto",
        "evaluate --cluster w": "auto",
        "evaluate --cluster w --seed 1": "auto",
        "evaluate w --cluster --seed 1": "auto",
        "evaluate w --cluster local": "local",
        "evaluate w --cluster=10.0.0.1:6379": "10.0.0.1:6379",
        "evaluate --cluster [::1]:6379 w": "[::1]:6379",
        "evaluate-agent random --cluster --world w": "auto",
        "agreement --cluster head:6379 w": "head:6379",
        "record E-v0 --cluster --out o": "auto",
        "evaluate w": None,
    }.items():
        name, *arguments = given.split()
        assert cli.parse(name, arguments).cluster == value, given
    assert with_cluster_value([]) == [] and with_cluster_value(["a"]) == ["a"]


def test_what_is_no_address() -> None:
    for text in ("here", "host:", ":1", "host:x", "", "a b:1"):
        with pytest.raises(InvalidInputError, match="host:port"):
            check_address(text)
    with pytest.raises(InvalidInputError, match="on a machine of the cluster"):
        check_address("ray://head:10001")


def test_without_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"\[cluster\]"), connected("local"):
        pass
    assert cli.main(["record", "worldsim/TinyRoom-v0", "--out", "unused", "--cluster"]) == 2
    assert "--cluster needs Ray" in capsys.readouterr().err


def test_a_cluster_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's file of the present cluster is stale: Ray itself would ask there for minutes."""
    pytest.importorskip("ray", reason="needs the extra cluster")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    with pytest.raises(NotFoundError, match=r"runs on this machine .*ray start --head"):
        connected("auto").__enter__()
    monkeypatch.setenv("RAY_ADDRESS", "localhost:1")
    with pytest.raises(NotFoundError, match=r"ray start --head"):
        connected("auto").__enter__()


class Machines:
    """Stands for Ray: one machine of four CPUs and a GPU, one of two CPUs, and one that is gone."""

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
            {"Alive": True, "Resources": {"CPU": 2.0}},
            {"Alive": False, "Resources": {"CPU": 64.0}},
        ]


def test_room() -> None:
    """A process has room on one machine, not on the sum of them."""
    ray = Machines()
    for resources, processes in (
        ({"num_cpus": 2}, 3),
        ({"num_cpus": 0.1}, 60),
        ({"num_cpus": 1, "num_gpus": 0.25}, 4),
        ({"num_cpus": 0, "num_gpus": 0}, 1000),
    ):
        require_room(ray, resources, processes)
        if any(resources.values()):
            with pytest.raises(InvalidInputError, match=f"room for {processes} of"):
                require_room(ray, resources, processes + 1)
    with pytest.raises(InvalidInputError, match="4 CPU, 1 GPU; 2 CPU, 0 GPU"):
        require_room(ray, {"num_cpus": 5}, 1)


def test_versions() -> None:
    here = versions_here()
    require_versions(here)
    with pytest.raises(MissingDependencyError, match=r"numpy .* instead of 9"):
        require_versions({**here, "numpy": "9"})
