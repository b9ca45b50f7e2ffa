"""Connections to a Ray cluster, and whether it can do what is asked for.

Addresses, room, and versions are checked here, so that messages say what to change.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    MissingDependencyError,
    NotFoundError,
    StorageError,
    UntrustedFileError,
)
from worldsim.runtime.extras import DISTRIBUTION, missing

AUTO, LOCAL = "auto", "local"
"""Addresses: of the cluster that ``RAY_ADDRESS`` names or that runs on this machine; and of one
that is started here and ends with the program."""

CONNECT_S = 10.0
"""Seconds that the head of a cluster may take to answer."""
PACKAGES = (DISTRIBUTION, "torch", "numpy")
"""Packages whose versions must be the same on all machines. Ray compares its own and Python's."""
_CURRENT = "ray/ray_current_cluster"
"""File in the folder for temporary files in which Ray keeps the address of this machine's
cluster."""
_ADDRESS = re.compile(r"[^\s/:]+:\d+|\[[0-9a-fA-F:]+\]:\d+")


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Context with a connection to a Ray cluster; yields the module ``ray``.

    A connection that is there already is used, and left open.

    address: ``auto``, ``local``, or ``host:port``, see :data:`AUTO`.

    Raises MissingDependencyError without Ray, InvalidInputError for what is no address, and
    NotFoundError if no cluster answers.
    """
    check_address(address)
    try:
        import ray
    except ImportError as error:
        raise missing("--cluster needs Ray", "cluster", error) from error
    if ray.is_initialized():
        yield ray
        return
    where = "runs on this machine" if address == AUTO else f"answers at {address!r}"
    remedy = (
        f"start one with `ray start --head`, join other machines with `ray start --address "
        f"HEAD:PORT`, or pass --cluster {LOCAL} to start one for this command alone"
    )
    known = _current_address() if address == AUTO else address
    try:
        if _ADDRESS.fullmatch(known):
            # Ray itself asks for many minutes.
            host, _, port = known.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise NotFoundError(f"no Ray cluster {where} ({error}): {remedy}") from error
    try:
        ray.init(
            address=address,
            # Nothing outside this machine reaches what is started here.
            _node_ip_address="127.0.0.1" if address == LOCAL else None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if "ersion mismatch" in str(error):
            raise MissingDependencyError(
                f"the cluster has another version of Ray or Python than this machine ({error}): "
                f"install the same everywhere"
            ) from error
        raise NotFoundError(
            f"no Ray cluster that can be used {where} ({error}): {remedy}. Commands run on a "
            f"machine of the cluster that has its token (docs/how_to/cluster.md)"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _current_address() -> str:
    """Return the address of the cluster that Ray would use, empty if it has to look for one.

    The file stays behind if a cluster does not end in order.
    """
    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    try:
        return (Path(os.environ.get("RAY_TMPDIR", "/tmp")) / _CURRENT).read_text().strip()
    except OSError:
        return ""


def using(address: str | None) -> contextlib.AbstractContextManager[Any]:
    """Context in which one connection serves all that uses a cluster; None has no effect."""
    return contextlib.nullcontext() if address is None else connected(address)


def with_cluster_value(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments in which a ``--cluster`` without a value has ``auto``.

    What follows is its value if it is an address, and an argument of the command otherwise.
    """
    completed = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue="-"):
        completed.append(argument)
        if argument == "--cluster" and not is_address(following) and "://" not in following:
            completed.append(AUTO)
    return completed


def is_address(text: str) -> bool:
    """Return whether ``text`` is ``auto``, ``local`` or ``host:port``."""
    return text in (AUTO, LOCAL) or bool(_ADDRESS.fullmatch(text))


def check_address(address: str) -> None:
    """Raise InvalidInputError unless ``address`` is ``auto``, ``local`` or ``host:port``."""
    if is_address(address):
        return
    hint = (
        ": Ray's client is not supported, run the command on a machine of the cluster"
        if address.startswith("ray://")
        else ""
    )
    raise InvalidInputError(
        f"--cluster takes {AUTO!r} (the cluster that runs on this machine), {LOCAL!r} (starts one) "
        f"or the address host:port of a cluster's head, got {address!r}{hint}"
    )


def result_of(ray: Any, reference: Any) -> Any:
    """Return the result of a remote call; raises what the call raised, as if it were made here."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None


def require_room(ray: Any, resources: Mapping[str, float], processes: int = 1) -> None:
    """Raise InvalidInputError unless the cluster has room for processes of these resources.

    What others have taken of it counts as free: their work ends.

    resources: of each process: ``num_cpus`` and ``num_gpus``.
    """
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    needs = {names[key]: value for key, value in resources.items() if value}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(_places(machine, needs) for machine in machines)
    if needs and room < processes:
        each = " and ".join(f"{value:g} {name}" for name, value in needs.items())
        have = "; ".join(
            ", ".join(f"{machine.get(name, 0.0):g} {name}" for name in names.values())
            for machine in machines
        )
        raise InvalidInputError(
            f"the cluster has room for {room} of {processes} processes of {each} each (its "
            f"machines have {have}): start more machines, or ask for fewer processes or threads "
            f"(--threads, OMP_NUM_THREADS)"
        )


def _places(machine: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Return how many processes find room on one machine."""
    shares = [machine.get(name, 0.0) / value for name, value in needs.items()]
    # Fractions such as 3 times 0.3 of 0.9.
    return int(min(shares, default=1.0) + 1e-9)


def versions_here() -> dict[str, str]:
    """Return the versions of :data:`PACKAGES` on this machine."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def require_versions(expected: Mapping[str, str]) -> None:
    """Raise MissingDependencyError if this machine's versions are not those of the caller's."""
    here = versions_here()
    wrong = [
        f"{name} {here.get(name, 'none')} instead of {text}"
        for name, text in expected.items()
        if here.get(name, "none") != text
    ]
    if wrong:
        raise MissingDependencyError(
            f"machine {machine_name()} of the cluster has {', '.join(wrong)}: install the same "
            f"versions everywhere, or results would differ from machine to machine"
        )


def enter_folder(folder: str) -> None:
    """Work in the caller's folder, where this machine has it: relative paths then mean the same.

    Ray's processes begin in the folder in which ``ray start`` was called.
    """
    with contextlib.suppress(OSError):
        os.chdir(folder)


def machine_name() -> str:
    """Return the name of this machine, for messages."""
    return socket.gethostname()


@contextlib.contextmanager
def naming_machine() -> Iterator[None]:
    """Context whose errors about files and packages name this machine."""
    try:
        yield
    except (
        *(NotFoundError, DamagedFileError, StorageError, UntrustedFileError),
        MissingDependencyError,
    ) as error:
        text = str(error)
        if "of the cluster" in text:
            raise
        raise type(error)(f"{text} (on machine {machine_name()} of the cluster)") from None
