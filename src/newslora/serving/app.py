"""The API and the page as an ASGI application."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from newslora import __version__
from newslora.errors import NewsloraError
from newslora.serving import schemas
from newslora.serving.answers import explain_response, model_row, results
from newslora.serving.batcher import Batcher
from newslora.serving.engine import Answer
from newslora.serving.guard import Guard
from newslora.serving.library import Library
from newslora.serving.limits import Limits
from newslora.serving.observe import Metrics
from newslora.serving.refusal import RefusalError

_PAGE = files("newslora.serving") / "page"
_REASONS = {
    401: "No token, or another one",
    403: "Adapters cannot be changed",
    404: "No such adapter",
    408: "The request arrived too slowly",
    409: "The adapter was given at the start",
    413: "The body is too large",
    422: "The request is not as described; names the place",
    429: "Too much waits already; see Retry-After",
    503: "Stopping, or the answer took too long",
}
Found = TypeVar("Found")


class Service:
    """The models and the threads that run them.

    Args:
        library: What is served.
        limits: What is granted.
    """

    def __init__(self, library: Library, limits: Limits) -> None:
        self.library, self.limits = library, limits
        self.metrics = Metrics()
        self.stopping = False
        # All passes run in one thread. Files are read in another, so that loading an adapter delays no answer.
        self._runs = ThreadPoolExecutor(1, "newslora-run")
        self._loads = ThreadPoolExecutor(1, "newslora-load")
        self._explaining = 0
        self.batcher = Batcher(self._runs, limits, self.metrics.batch)
        self.metrics.models.set_function(lambda: len(library))
        self.metrics.waiting.set_function(lambda: self.batcher.tokens)

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the queue's worker while the server is up."""
        worker = asyncio.create_task(self.batcher.work())
        try:
            yield
        finally:
            worker.cancel()
            self._runs.shutdown()
            self._loads.shutdown()

    async def classify(self, adapter: str | None, texts: Sequence[str]) -> tuple[str, tuple[str, ...], list[Answer]]:
        """Return the model's name, its labels and the texts' answers."""
        served = self.library.get(adapter)
        answers = await self.batcher.classify(served, texts)
        self.metrics.texts.labels(served.name).inc(len(texts))
        return served.name, served.labels, answers

    async def explain(self, adapter: str | None, text: str, label: str | None) -> schemas.ExplainResponse:
        """Explain one text.

        Raises:
            RefusalError: 422, the model cannot be explained, has no such label, or the text is empty; 429.
        """
        served = self.library.get(adapter)
        explain = served.explain
        if explain is None:
            raise RefusalError(422, "adapter: this model cannot be explained; serve the run folder that it came from")
        if label is not None and label not in served.labels:
            raise RefusalError(422, f"label: must be one of {', '.join(served.labels)[:200]}")
        if self._explaining >= self.limits.explanations:
            raise RefusalError(429, "too many explanations at once; try again in 5 s", Retry_After="5")
        self._explaining += 1
        try:
            number = None if label is None else served.labels.index(label)
            found = await self._in_time(lambda: explain(served.repair(text), number))
        except NewsloraError as error:
            raise RefusalError(422, f"text: {error}") from error
        finally:
            self._explaining -= 1
        return explain_response(served, found)

    async def change(self, work: Callable[[], Found]) -> Found:
        """Run what changes the library, one change after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._loads, work)

    async def _in_time(self, work: Callable[[], Found]) -> Found:
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._runs, work)
        except TimeoutError:
            raise RefusalError(503, "the answer took too long; try again later", Retry_After="10") from None


def create_app(library: Library, limits: Limits | None = None, token: str | None = None) -> FastAPI:
    """Build the application.

    Args:
        library: What is served.
        limits: What is granted; the usual when None.
        token: What requests must carry as ``Authorization: Bearer``, or None where anyone may ask.

    Returns:
        The application; ``app.state.service`` is its :class:`Service`.
    """
    service = Service(library, limits or Limits())
    app = FastAPI(
        title="newslora",
        version=__version__,
        description="Classify texts with LoRA adapters.",
        lifespan=service.running,
        docs_url=None,  # FastAPI's pages load scripts from the network
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(Guard, limits=service.limits, token=token, metrics=service.metrics)
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    guard = [Depends(HTTPBearer(auto_error=False))] if token is not None else []
    app.include_router(_texts(service), dependencies=guard)
    app.include_router(_adapters(service), dependencies=guard)
    app.include_router(_operation(service))
    app.mount("/page", StaticFiles(directory=str(_PAGE)), name="page")
    return app


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": schemas.Problem, "description": _REASONS[code]} for code in sorted({401, *statuses})}


def _texts(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/classify", responses=_problems(404, 408, 413, 422, 429, 503))
    async def classify(asked: schemas.ClassifyRequest, request: Request) -> schemas.ClassifyResponse:
        """Classify one text or many with one adapter."""
        texts = [asked.texts] if isinstance(asked.texts, str) else asked.texts
        name, labels, answers = await service.classify(asked.adapter, texts)
        request.scope["newslora"] |= {"adapter": name, "texts": len(texts)}
        return schemas.ClassifyResponse(adapter=name, results=results(answers, labels, asked))

    @routes.post("/v1/explain", responses=_problems(404, 408, 413, 422, 429, 503))
    async def explain(asked: schemas.ExplainRequest, request: Request) -> schemas.ExplainResponse:
        """Weigh the words of a text that spoke for and against a label."""
        response = await service.explain(asked.adapter, asked.text, asked.label)
        request.scope["newslora"] |= {"adapter": response.adapter, "texts": 1}
        return response

    return routes


def _adapters(service: Service) -> APIRouter:
    routes, library = APIRouter(), service.library

    @routes.get("/v1/models", responses=_problems())
    async def models() -> schemas.ModelsResponse:
        """List what is served."""
        rows = [model_row(served) for served in library.models()]
        return schemas.ModelsResponse(default=library.default, changeable=library.folder is not None, models=rows)

    @routes.post("/v1/adapters", status_code=201, responses=_problems(403, 404, 408, 409, 413, 422))
    async def add(asked: schemas.AdapterRequest) -> schemas.Model:
        """Load an adapter, or load it anew, from the folder of adapters."""
        return model_row(await service.change(lambda: library.add(asked.name)))

    @routes.post("/v1/adapters/rescan", responses=_problems(403))
    async def rescan() -> schemas.RescanResponse:
        """Load what is new or changed in the folder of adapters, and drop what is gone."""
        scan = await service.change(library.rescan)
        return schemas.RescanResponse(added=scan.added, removed=scan.removed, failed=scan.failed)

    @routes.delete("/v1/adapters/{name}", status_code=204, responses=_problems(403, 404, 409, 422))
    async def remove(name: schemas.Name) -> Response:
        """Take an adapter out of service; its folder stays."""
        await service.change(lambda: library.remove(name))
        return Response(status_code=204)

    return routes


def _operation(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(str(_PAGE / "index.html"))

    @routes.get("/healthz")
    async def healthz() -> schemas.Status:
        """Whether the server lives."""
        return schemas.Status(status="ok")

    @routes.get("/readyz", responses={503: {"model": schemas.Status, "description": "Stopping"}})
    async def readyz(response: Response) -> schemas.Status:
        """Whether requests are welcome."""
        response.status_code = 503 if service.stopping else 200
        return schemas.Status(status="stopping" if service.stopping else "ready")

    @routes.get("/metrics", response_class=PlainTextResponse, responses=_problems())
    async def metrics() -> Response:
        """Prometheus' metrics."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return routes


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, RefusalError):
        raise error
    return JSONResponse({"error": error.message}, error.status, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"] if part not in ("body", "path"))
    return JSONResponse({"error": f"{place or 'body'}: {problem['msg']}"[:500]}, 422)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)
