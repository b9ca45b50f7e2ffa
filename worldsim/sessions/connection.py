"""One WebSocket and its session.

A reader takes messages, and a worker answers them in order. Pushed frames wait in a place for one
until a sender writes them: a slow reader gets the newest, and holds up nobody but itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Array
from worldsim.sessions import protocol as p
from worldsim.sessions.manager import QUEUE, SessionManager
from worldsim.sessions.operations import Answer, perform, show, show_twin
from worldsim.sessions.session import Session

LOG = logging.getLogger("worldsim.sessions")
SEND_SECONDS = 60.0
"""A client that reads nothing for so long is disconnected."""
PROGRESS_EVERY = 0.2
"""Seconds from one progress message to the next."""

Received = tuple[p.ClientMessage, dict[str, "Array | bytes"]]


class Connection:
    """A client's connection.

    socket: not accepted yet.
    """

    def __init__(self, socket: WebSocket, manager: SessionManager) -> None:
        self.socket, self.manager = socket, manager
        self.session: Session | None = None
        self._requests: asyncio.Queue[Received | None] = asyncio.Queue()
        self._sending = asyncio.Lock()
        self._pushed: bytes | str | None = None
        self._wake = asyncio.Event()
        self._playing: asyncio.Task[None] | None = None
        self._action: p.ActionValue = 0
        self._hurry = asyncio.Event()
        self._seq, self._acked, self._skipped = 0, 0, 0
        self._ended = False

    async def run(self) -> None:
        """Serve the client until it leaves or the session ends."""
        await self.socket.accept()
        version = self.socket.query_params.get("protocol", str(p.PROTOCOL))
        if version != str(p.PROTOCOL):
            reason = f"this server speaks protocol {p.PROTOCOL}, not {version[:20]}"
            await self._fail(p.Code.UNSUPPORTED_VERSION, reason, p.CloseCode.BAD_START)
            return
        sender = asyncio.create_task(self._send_pushed())
        worker = asyncio.create_task(self._work())
        try:
            await self._read_all(worker)
        finally:
            self._ended = True
            await self._stop_playing()
            await self._requests.put(None)
            # What has begun is finished, so that a session is never left half changed.
            with contextlib.suppress(Exception):
                await worker
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await sender
            if self.session is not None:
                self.manager.unwatch(self.session.id, self)

    async def end(self, message: p.Closed, code: int) -> None:
        """Tell why the session or the connection ends, and close the connection."""
        self._ended = True
        await self._stop_playing()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.socket.send_text(message.model_dump_json()), 1.0)
        await self._close(code)

    async def _close(self, code: int) -> None:
        self._ended = True
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.socket.close(code), 1.0)

    async def _fail(self, code: p.Code, message: str, close: int) -> None:
        with contextlib.suppress(Exception):
            await self.socket.send_text(p.ErrorReply(code=code, message=message).model_dump_json())
        await self._close(close)

    # Reading.

    async def _read_all(self, worker: asyncio.Task[None]) -> None:
        while not self._ended and not worker.done():
            try:
                received = await self.socket.receive()
            except (WebSocketDisconnect, RuntimeError):
                return
            if received["type"] == "websocket.disconnect":
                return
            content = received.get("text")
            if content is None:
                content = received.get("bytes") or b""
            await self._read(content)

    async def _read(self, content: str | bytes) -> None:
        try:
            message, parts = p.read_message(content)
            if isinstance(message, p.Act):
                self._set_action(message)
            elif isinstance(message, p.Ack):
                self._acked = max(self._acked, message.seq)
            elif self._requests.qsize() >= QUEUE:
                text = f"{QUEUE} requests of this connection wait already: wait for their answers"
                raise p.SessionError(p.Code.BUSY, text)
            else:
                await self._requests.put((message, parts))
        except Exception as error:
            await self._reply(_error(error, p.message_id(content)))

    def _set_action(self, message: p.Act) -> None:
        if self.session is not None and self.session.present is not None:
            self.session.check_action(message.action)
        self._action = message.action
        if message.now:
            self._hurry.set()

    # Answering.

    async def _work(self) -> None:
        while (request := await self._requests.get()) is not None:
            message, parts = request
            try:
                answers = await self._answer(message, parts)
            except Exception as error:
                await self._reply(_error(error, message.id))
                if self.session is None:
                    missing = p.code_of(error) is p.Code.NOT_FOUND
                    await self._close(p.CloseCode.NO_SESSION if missing else p.CloseCode.BAD_START)
                    return
                continue
            for answer in answers:
                await self._reply(answer.content(message.id))
            if isinstance(message, p.Step) and message.twin_later:
                await self._tell_twin(message)
            if isinstance(message, p.Close):
                await self._close(1000)
                return

    async def _tell_twin(self, message: p.Step) -> None:
        assert self.session is not None
        try:
            async with self.session.lock:
                answer = await show_twin(self.session, message)
            if answer is not None:
                await self._reply(answer.content(None))
        except Exception as error:
            await self._reply(_error(error, None))

    async def _answer(
        self, message: p.ClientMessage, parts: dict[str, Array | bytes]
    ) -> list[Answer]:
        if self.session is None:
            return await self._begin(message, parts)
        session = self.session
        if isinstance(message, (p.Create, p.Attach)):
            raise InvalidInputError("this connection has a session: open another connection")
        if isinstance(message, p.Close):
            told = p.Closed(reason="deleted", message="this session was closed by its user")
            self.manager.unwatch(session.id, self)
            await self._stop_playing()
            await self.manager.close(session.id, "deleted", told.message)
            return [Answer(told)]
        if isinstance(message, p.Play):
            await self._stop_playing()
            self._start_playing(session, message)
            return [Answer(p.OkReply())]
        if not isinstance(message, (p.Look, p.Render, p.GetMap, p.GetPoints, p.GetHistory)):
            # Whoever steps or rewinds takes the controls.
            await self._stop_playing()
        async with session.lock:
            progress = self._progress(message.id)
            return [await perform(self.manager, session, message, parts, progress)]

    async def _begin(
        self, message: p.ClientMessage, parts: dict[str, Array | bytes]
    ) -> list[Answer]:
        if isinstance(message, p.Create):
            progress = self._progress(message.id)
            session = await self.manager.create(message, parts, progress)
        elif isinstance(message, p.Attach):
            session = self.manager.session(message.session)
        else:
            raise InvalidInputError(f"the first message is create or attach, not {message.type}")
        self.session = session
        await self.manager.watch(session.id, self)
        async with session.lock:
            answers = [Answer(p.SessionReply(session=self.manager.info(session)))]
            if session.present is not None:
                answers.append(await show(session, message))
        return answers

    def _progress(self, id: int | None) -> Any:
        loop = asyncio.get_running_loop()
        last = loop.time()

        async def tell(done: int, total: int) -> None:
            nonlocal last
            if loop.time() - last >= PROGRESS_EVERY:
                last = loop.time()
                await self._reply(Answer(p.Progress(done=done, total=total)).content(id))

        return tell

    # Playing.

    def _start_playing(self, session: Session, message: p.Play) -> None:
        if session.present is None:
            raise p.SessionError(p.Code.NOT_RESET, "reset this session before playing")
        if message.action is not None:
            session.check_action(message.action)
            self._action = message.action
        elif not isinstance(self._action, type(session.rest)):
            self._action = session.rest
        self._acked = self._seq
        self._playing = asyncio.create_task(self._play(session, message))

    async def _stop_playing(self) -> None:
        task, self._playing = self._playing, None
        if task is not None and task is not asyncio.current_task():
            # Between two steps, not in one.
            self._hurry.set()
            with contextlib.suppress(Exception):
                await task
            self._hurry.clear()

    async def _play(self, session: Session, message: p.Play) -> None:
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        period = 1.0 / (message.fps or session.world.config.fps)
        due = loop.time()
        try:
            while self._playing is me and not self._ended and not session.closed:
                self._hurry.clear()
                due = max(due + period, loop.time())
                async with session.lock:
                    if session.closed:
                        return
                    session.used_at = time.time()
                    if message.agent is not None:
                        present = await session.step_by(message.agent)
                    else:
                        present = await session.step(self._action)
                    self._seq += 1
                    if message.window and self._seq - self._acked > message.window:
                        self._skipped += 1
                    else:
                        answer = await show(session, message, 1, self._seq, self._skipped)
                        self._push(answer.content(None))
                if present.terminated:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), max(0.0, due - loop.time()))
                if self._hurry.is_set():
                    due = loop.time()
        except Exception as error:
            await self._reply(_error(error, None))

    def _push(self, content: bytes | str) -> None:
        if self._pushed is not None:
            self._skipped += 1
        self._pushed = content
        self._wake.set()

    # Sending.

    async def _reply(self, content: bytes | str) -> None:
        """Send an answer. Most are sent at once, without a task in between."""
        if not self._ended:
            async with self._sending:
                await self._send(content)

    async def _send_pushed(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pushed is not None:
                async with self._sending:
                    content, self._pushed = self._pushed, None
                    if content is not None:
                        await self._send(content)

    async def _send(self, content: bytes | str) -> None:
        sending: Coroutine[Any, Any, None] = (
            self.socket.send_text(content)
            if isinstance(content, str)
            else self.socket.send_bytes(content)
        )
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await sending
        except Exception:
            self._ended = True
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self.socket.close(1011), 1.0)


def _error(error: Exception, id: int | None) -> str:
    """Return an error's message; what is no input's fault is logged, and only its kind is told."""
    code = p.code_of(error)
    text = str(error)[:2000] or type(error).__name__
    if code is p.Code.INTERNAL:
        LOG.error("a request failed", exc_info=error)
        text = f"the server failed ({type(error).__name__}): the session is as it was before"
    return p.ErrorReply(id=id, code=code, message=text).model_dump_json()
