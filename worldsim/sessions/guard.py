"""Lets in the server's own pages and programs that know its token, and bounds what they send."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worldsim.runtime.hosts import may_connect
from worldsim.sessions.protocol import (
    MEDIA_TYPE,
    STATUS,
    TEXT_LIMIT,
    CloseCode,
    Code,
    SessionError,
)

COOKIE = "worldsim_token"
"""Cookie that holds the token."""
API = "/api/v1"
"""Where the interface lies."""
OPEN = (f"{API}/health", f"{API}/login")
"""Paths that need no token."""


class Guard:
    """Middleware that checks host, origin, token and size of every request.

    app: the application.
    host: where the server listens, see :func:`worldsim.runtime.hosts.may_connect`.
    token: what clients must know; empty for nothing.
    upload_limit: bytes of a request's body; JSON bodies of the interface have a smaller limit.
    public: further paths that need no token. ``/`` is the root alone; a longer one that ends with
        ``/`` stands for all below it, except those of the interface.
    """

    def __init__(
        self, app: ASGIApp, host: str, token: str, upload_limit: int, public: Sequence[str] = ()
    ) -> None:
        self.app, self.host, self.token = app, host, token
        self.upload_limit, self.public = upload_limit, tuple(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not _is_known(headers, self.host):
            reason = "this server answers its own page and programs alone, not other sites"
            await _refuse(scope, receive, send, Code.FORBIDDEN_ORIGIN, reason)
            return
        if not self._may_enter(scope["path"], headers):
            reason = "a token is needed: the server has printed it when it started"
            await _refuse(scope, receive, send, Code.UNAUTHORIZED, reason)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        limit = self.limit_of(scope["path"], headers)
        told = headers.get("content-length", "0")
        if not told.isdigit() or int(told) > limit:
            if told.isdigit() and int(told) <= self.upload_limit:
                # A client that is still sending would not see the answer.
                while (await receive()).get("more_body"):
                    pass
            reason = f"a body of {told[:20]} bytes is longer than {limit}"
            await _refuse(scope, receive, send, Code.TOO_LARGE, reason)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise SessionError(Code.TOO_LARGE, f"a body is longer than {limit} bytes")
            return message

        await self.app(scope, counted, send)

    def limit_of(self, path: str, headers: Headers) -> int:
        """Return the most bytes of a request's body."""
        json = path.startswith(API) and not path.endswith("/snapshot")
        packed = headers.get("content-type", "").startswith(MEDIA_TYPE)
        return TEXT_LIMIT if json and not packed else self.upload_limit

    def _may_enter(self, path: str, headers: Headers) -> bool:
        if not self.token or path in OPEN:
            return True
        if not path.startswith(API) and any(
            path == one or (one != "/" and one.endswith("/") and path.startswith(one))
            for one in self.public
        ):
            return True
        return knows_token(headers, self.token)


def knows_token(headers: Headers, token: str) -> bool:
    """Return whether a request brings the token, as a bearer or as a cookie."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and same_token(given.strip(), token):
        return True
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return False
    return cookie is not None and same_token(cookie.value, token)


def same_token(given: str, token: str) -> bool:
    """Compare two tokens in constant time."""
    return secrets.compare_digest(given.encode(), token.encode())


def _is_known(headers: Headers, host: str) -> bool:
    try:
        return may_connect(headers, host)
    except ValueError:
        return False


async def _refuse(scope: Scope, receive: Receive, send: Send, code: Code, reason: str) -> None:
    if scope["type"] == "websocket":
        if code is Code.FORBIDDEN_ORIGIN:
            # Before the connection is accepted: the answer is 403.
            await send({"type": "websocket.close", "code": CloseCode.FORBIDDEN_ORIGIN})
            return
        await receive()
        await send({"type": "websocket.accept"})
        await send(
            {"type": "websocket.close", "code": CloseCode.UNAUTHORIZED, "reason": reason[:120]}
        )
        return
    body = {"error": {"code": code.value, "message": reason}}
    await JSONResponse(body, STATUS[code])(scope, receive, send)
