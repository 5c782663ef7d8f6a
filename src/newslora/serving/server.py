"""The process: its socket, its protocol's patience, and an orderly end."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from newslora.errors import NewsloraError
from newslora.serving.app import Service, create_app
from newslora.serving.library import Library
from newslora.serving.limits import Limits
from newslora.serving.observe import log, start_logs

_LAST_WORDS = 1.0  # seconds that a connection without a request is kept at the end, in case one is under way


def serve(library: Library, host: str, port: int, token: str | None = None, limits: Limits | None = None) -> None:
    """Answer requests until the process is told to end (SIGTERM, SIGINT); what was accepted is answered first.

    Args:
        library: What is served.
        host: Address to listen on.
        port: Port; 0 takes a free one, which the log tells.
        token: What requests must carry as ``Authorization: Bearer``.
        limits: What is granted; the usual when None.

    Raises:
        NewsloraError: The address is taken or not this machine's.
    """
    limits = limits or Limits()
    with _listen(host, port) as listener:
        start_logs()
        app = create_app(library, limits, token)
        server = _Server(_config(app, limits), app.state.service)
        place = listener.getsockname()
        log("serving", host=place[0], port=place[1], models=[served.name for served in library.models()])
        with _surviving_signals():
            server.run(sockets=[listener])
    log("stopped")


@contextmanager
def _surviving_signals() -> Iterator[None]:
    # uvicorn raises the signals again once it has stopped, to end the process; this one ends by itself.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _config(app: FastAPI, limits: Limits) -> uvicorn.Config:
    class Protocol(_PatientProtocol):
        receive_seconds = limits.receive_seconds

    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.receive_seconds + limits.answer_seconds) + 5,
    )


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise NewsloraError(f"--port: {port} is no port; give 0 to 65535")
    # Named as TCP, for only then does asyncio switch off Nagle's algorithm, which would hold answers back for 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
        return listener
    except OSError as error:
        listener.close()
        raise NewsloraError(
            f"{host}:{port}: cannot listen there ({error.strerror or error}); choose another --port or --host"
        ) from error


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.stopping = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log("stopping", waiting_tokens=self._service.batcher.tokens)
        await super().shutdown(sockets)


class _PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which waits for a request's head only so long, and at the end hears out who is speaking."""

    receive_seconds = 10.0
    _hurry: asyncio.TimerHandle | None = None
    _ending = False

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - as uvicorn types it
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()
        if self._ending:
            super().shutdown()

    def shutdown(self) -> None:
        self._ending = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LAST_WORDS, super().shutdown)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._hurry is not None:
            self._hurry.cancel()

    def _watch(self) -> None:
        """Start the clock when a request's head is under way, stop it when the head is whole."""
        incomplete = self.conn.their_state is h11.IDLE
        if incomplete and self._hurry is None:
            self._hurry = self.loop.call_later(self.receive_seconds, self._give_up)
        elif not incomplete and self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None

    def _give_up(self) -> None:
        self._hurry = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()
