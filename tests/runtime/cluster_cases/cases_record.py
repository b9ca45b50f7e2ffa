"""Recording on a cluster of two nodes. Run by tests/runtime/test_cluster.py."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from worldsim.data.play import RecordConfig
from worldsim.data.record import record
from worldsim.data.remote import RemoteDataset, open_dataset
from worldsim.errors import DamagedFileError, MissingDependencyError, NotFoundError
from worldsim.runtime.files import sha256_of
from worldsim.runtime.remote import RemoteFolder

SHARDS = 6


def settings(out: str | Path, **changes: Any) -> RecordConfig:
    """Six shards of some 80 frames."""
    given = {"frames": SHARDS * 80, "frames_per_shard": 80, "episode_steps": 40, "min_travel": 0.0}
    return RecordConfig(**{"env_id": "worldsim/TinyRoom-v0", "out": out, **given, **changes})


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of the files of a recording in this process."""
    return checksums(record(settings(tmp_path_factory.mktemp("local"), workers=0)).path)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a folder in an S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    import fsspec

    # Servers of one process share what they hold.
    name = f"recordings-{port}"
    # Those of the server before would be used.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    yield f"s3://{name}/rooms"
    server.stop()


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def test_to_a_store_and_from_there(
    bucket: str, local: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By processes of this machine: the same bytes; resumed, read shard by shard, and checked."""
    with pytest.raises(NotFoundError, match="No dataset"):
        open_dataset(bucket)
    record(settings(bucket, workers=0, frames=160))
    dataset = record(settings(bucket, workers=0))
    assert isinstance(dataset, RemoteDataset) and dataset.verify() == ()
    remote = RemoteFolder(bucket)
    assert {name: remote.sha256(name) for name in local} == local

    frames = sum(len(episode) for episode in dataset)
    assert frames == dataset.frames
    # The present one, the next one, and two more.
    assert len(list(dataset.path.glob("*.safetensors"))) <= 4

    (tmp_path / "shard-00002.safetensors").write_bytes(b"something else")
    remote.upload(tmp_path / "shard-00002.safetensors")
    with pytest.raises(DamagedFileError, match="shard-00002"):
        open_dataset(bucket).load_shard(2)
    record(settings(bucket, workers=0))
    assert remote.sha256("shard-00002.safetensors") == local["shard-00002.safetensors"]


def test_a_cluster_records_into_a_store(bucket: str, local: dict[str, str]) -> None:
    """Its processes write there themselves; one that is started here has this one's credentials."""
    record(settings(bucket, cluster="local"))
    remote = RemoteFolder(bucket)
    assert {name: remote.sha256(name) for name in local} == local


def test_a_process_and_a_node_are_killed(
    cluster: Any, local: dict[str, str], tmp_path: Path
) -> None:
    """Their shards are recorded again, on the others; no byte differs."""
    out = tmp_path / "shared"
    node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    killed: list[str] = []

    def wait_for(shards: int) -> None:
        while len(list(out.glob("shard-*.safetensors"))) < shards:
            time.sleep(0.02)

    def kill() -> None:
        wait_for(1)
        while not killed:
            for process in players():
                with contextlib.suppress(psutil.Error):
                    process.kill()
                    killed.append("a process of Ray")
                    break
        wait_for(2)
        cluster.remove_node(node, allow_graceful=False)
        killed.append("a node")

    killer = threading.Thread(target=kill)
    killer.start()
    record(settings(out, cluster=cluster.address))
    killer.join()
    assert killed == ["a process of Ray", "a node"] and checksums(out) == local
    assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_a_relative_folder(
    cluster: Any, local: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the caller's, although Ray's processes began in another one."""
    monkeypatch.chdir(tmp_path)
    record(settings("here", cluster=cluster.address))
    assert checksums(tmp_path / "here") == local


def players() -> list[psutil.Process]:
    """Return Ray's processes that play now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith("ray::_play"):
                found.append(process)
    return found


def test_other_versions(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before anything is recorded."""
    monkeypatch.setattr("worldsim.runtime.cluster.versions_here", lambda: {"numpy": "0.1"})
    with pytest.raises(MissingDependencyError, match=r"machine .* has numpy .* instead of 0\.1"):
        record(settings(tmp_path / "none", cluster=cluster.address))
    assert not (tmp_path / "none").exists()


def test_no_cluster() -> None:
    with pytest.raises(NotFoundError, match="no Ray cluster answers"):
        record(settings("unused", cluster="127.0.0.1:1"))
