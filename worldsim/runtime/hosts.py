"""Who may connect to a local server: its own pages, and programs, but no other site's scripts."""

from __future__ import annotations

import ipaddress
import socket
import urllib.parse
from collections.abc import Mapping

from worldsim.errors import InvalidInputError

OWN_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this computer."""


def may_connect(headers: Mapping[str, str], served: str) -> bool:
    """Return whether a request comes from the server's own page, or from no page at all.

    Browsers send the page that asks as ``Origin`` and the requested address as ``Host``. Scripts of
    another page may connect to any address, this computer's included. A name that its owner points
    to this computer (DNS rebinding) would make the two equal, so only names of this computer count,
    or addresses where the server may be shared.

    headers: their names in any letter case that the mapping finds.
    served: the host at which the server listens.
    """
    host, origin = headers.get("Host", ""), headers.get("Origin")
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    known = OWN_HOSTS | {served.lower(), socket.gethostname().lower()}
    if name not in known and not (served in ("0.0.0.0", "::", "") and _is_address(name)):
        return False
    return origin is None or urllib.parse.urlsplit(origin).netloc.lower() == host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_own(host: str) -> bool:
    """Return whether only this computer reaches a server at ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_port(host: str, port: int) -> None:
    """Raise InvalidInputError unless a server can listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # A connection of before that is still winding down does not stop a new server.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"port {port} of {host} cannot be used ({error}): give another one with --port"
        ) from error
