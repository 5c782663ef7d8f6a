"""What stands before every route: size and time of the body, the token, security headers, log and metrics."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from newslora.serving.limits import Limits
from newslora.serving.observe import LOGGER, Metrics, log
from newslora.serving.refusal import RefusalError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# The page loads nothing but its own files, and no other site may frame it.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_PROTECTED: Final = ("/v1/", "/metrics")
# A body is read to its end though it is too large, up to this many times the limit: a client that is cut off while it
# sends does not see the answer.
_PATIENCE: Final = 16
_FAILED: Final = "the server failed on this request; its log says where"
_QUIET: Final = {"/healthz", "/readyz", "/metrics"}


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: The application.
        limits: Size of the body, and seconds for it to arrive.
        token: What ``Authorization: Bearer`` must carry, or None where anyone may ask.
        metrics: Where answers are counted.
    """

    def __init__(self, app: App, limits: Limits, token: str | None, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        try:
            self._check(scope)
            body = await self._read(scope, receive)
            await self._app(scope, _replay(body, receive), exchange.send)
        except RefusalError as refusal:
            # The rest of the body is not waited for.
            headers = refusal.headers | {"Connection": "close"}
            response = JSONResponse({"error": refusal.message}, refusal.status, headers)
            await response(scope, receive, exchange.send)
        except ClientGoneError:
            pass
        except Exception:
            LOGGER.exception("failed")
            if exchange.status:  # the answer has begun: only breaking it off tells the client
                raise
            await JSONResponse({"error": _FAILED}, 500)(scope, receive, exchange.send)
        finally:
            exchange.finish(self._metrics)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            raise RefusalError(403, "requests from other sites' pages are not answered")
        if self._token is not None and scope["path"].startswith(_PROTECTED):
            given = headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, b"Bearer " + self._token):
                challenge = {"WWW_Authenticate": "Bearer"}
                raise RefusalError(401, "a token is needed: Authorization: Bearer TOKEN", **challenge)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        headers, limit = Headers(scope=scope), self._limits.body_bytes
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > (limit if "expect" in headers else _PATIENCE * limit):
            raise self._too_large()
        try:
            async with asyncio.timeout(self._limits.receive_seconds):
                return await self._collect(receive)
        except TimeoutError:
            seconds = self._limits.receive_seconds
            raise RefusalError(408, f"the request did not arrive within {seconds:g} s") from None

    async def _collect(self, receive: Receive) -> bytes:
        body, size, more = bytearray(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size <= self._limits.body_bytes:
                body += part
            elif size > _PATIENCE * self._limits.body_bytes:
                break
        if size > self._limits.body_bytes:
            raise self._too_large()
        return bytes(body)

    def _too_large(self) -> RefusalError:
        return RefusalError(413, f"the body is larger than {self._limits.body_bytes:,} bytes; send fewer texts at once")


class ClientGoneError(Exception):
    """The client went away before its request was complete."""


class _Exchange:
    """One request and what became of it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self.status = 0
        self._started = perf_counter()
        scope["newslora"] = {}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            if self._scope["path"].startswith("/v1/"):
                headers["cache-control"] = "no-store"
        await self._send(message)

    def finish(self, metrics: Metrics) -> None:
        route = getattr(self._scope.get("route"), "path", None)
        route = route if isinstance(route, str) else "other"
        seconds = perf_counter() - self._started
        metrics.answered(route, self.status, seconds)
        if route not in _QUIET:
            fields = {"method": self._scope["method"], "route": route, "status": self.status}
            log("request", **fields, ms=round(1000 * seconds, 1), **self._scope["newslora"])


def _replay(body: bytes, receive: Receive) -> Receive:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        message = next(messages, None)
        return await receive() if message is None else message

    return replay
