"""The service: a learner behind HTTP, with one page to use it by."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everclip._version import __version__
from everclip.errors import EverclipError, InputError
from everclip.serve.batching import Busy
from everclip.serve.service import Limits, Service

log = logging.getLogger("everclip.serve")

BEARER = HTTPBearer(auto_error=False, description="the token that the service was started with")


class Candidate(BaseModel):
    """A candidate with its probability."""

    label: str | None = Field(description="null: nothing that was learned")
    probability: float
    task: str | None


class Answer(BaseModel):
    """What is on an image, or why it could not be read."""

    name: str = Field(description="of the file")
    label: str | None = Field(None, description="the most probable candidate; null: nothing that was learned")
    probability: float | None = None
    task: str | None = Field(None, description="the task that answers; zero-shot for a label that was never learned")
    route_confidence: float | None = Field(None, description="probability of that task")
    top: list[Candidate] = []
    error: str | None = None


class Answers(BaseModel):
    """One answer per file, in their order."""

    answers: list[Answer]


class JobState(BaseModel):
    """How far a lesson is."""

    job: str
    state: str = Field(description="waiting, running, done or failed")
    message: str
    share: float | None = Field(description="of the work, 0 to 1; null where it is not known")


def create_app(service: Service, token: str | None = None) -> FastAPI:
    """The HTTP side of a service.

    Args:
        service: what answers.
        token: what every request but the page and `/health` must carry as `Authorization: Bearer TOKEN`.
    """
    app = FastAPI(title="EverCLIP", version=__version__, summary="A CLIP model that keeps learning.")
    app.add_middleware(BodyLimit, limits=service.limits)

    def authorized(given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        if token is not None and (given is None or not hmac.compare_digest(given.credentials.encode(), token.encode())):
            raise HTTPException(401, "this service needs its token: send it as Authorization: Bearer TOKEN.")

    page = files("everclip.serve").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def index() -> str:
        return page

    @app.get("/health")
    def health() -> dict[str, Any]:
        """Whether it answers, and what it is doing."""
        return {"status": "ok", "version": __version__, "tasks": len(service.tasks), "learning": service.learning}

    app.include_router(_routes(service), dependencies=[Depends(authorized)])
    _say_errors_in_a_sentence(app)
    return app


def _routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/predict")
    def predict(
        image: Annotated[bytes, Body(media_type="image/*", description="an image file, as it is")],
        labels: str = "",
        only: bool = False,
        closed: bool = False,
        top_k: int = 5,
    ) -> Answer:
        """What is on one image. `labels` (separated by commas) are further candidates, or with `only` the only ones."""
        answer = service.predict([("image", image)], _split(labels), only, closed, top_k)[0]
        if "error" in answer:
            raise InputError(answer["error"])
        return Answer(**answer)

    @router.post("/predict/batch")
    def predict_batch(
        files: Annotated[list[UploadFile], File(description="image files")],
        labels: Annotated[str, Form(description="further candidates, separated by commas")] = "",
        only: Annotated[bool, Form(description="no candidates but `labels`")] = False,
        closed: Annotated[bool, Form(description="one of the candidates, whatever the image shows")] = False,
        top_k: Annotated[int, Form(description="candidates listed per image")] = 5,
    ) -> Answers:
        """What is on each of some images. A file that is no image gets an `error`, the others their answer."""
        if len(files) > service.limits.images:
            raise HTTPException(413, f"{len(files)} images are more than the {service.limits.images} of one request.")
        images = [(file.filename or f"file {number}", file.file.read()) for number, file in enumerate(files)]
        return Answers(
            answers=[Answer(**each) for each in service.predict(images, _split(labels), only, closed, top_k)]
        )

    @router.get("/tasks")
    def tasks() -> dict[str, Any]:
        """What is learned, in order."""
        listed = [
            {"name": task.name, "classes": task.class_names, "images": task.images, "lessons": task.increments}
            for task in service.tasks
        ]
        return {"backbone": service.backbone, "method": service.method, "tasks": listed}

    @router.post(
        "/tasks",
        status_code=202,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": LESSON}}}},
    )
    async def learn(request: Request) -> dict[str, str]:
        """Learn a task, or more of one, in the background; ask `/jobs/{job}` how far it is."""
        limits = service.limits
        async with request.form(max_files=limits.lesson_images, max_fields=10) as form:
            given = [(each.filename or "", each.file) for each in form.getlist("files") if not isinstance(each, str)]
            name = form.get("name")
            if not isinstance(name, str) or not name.strip():
                raise InputError("the form has no field name; say what the task is called.")
            return {"job": service.teach(name.strip(), given)}

    @router.delete("/tasks/{name}")
    def forget(name: str) -> dict[str, Any]:
        """Forget a task."""
        return asdict(service.forget(name))

    @router.get("/jobs/{job}")
    def job(job: str) -> JobState:
        """How far a lesson is."""
        found = service.job(job)
        if found is None:
            raise HTTPException(404, f"there is no job '{job}'.")
        return JobState(job=job, state=found.state, message=found.message, share=found.share)

    return router


LESSON = {
    "type": "object",
    "required": ["name", "files"],
    "properties": {
        "name": {"type": "string", "description": "the task's name; of a learned task: more images, more classes"},
        "files": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "image files whose names are CLASS/FILE",
        },
    },
}


def _split(labels: str) -> list[str]:
    return [label.strip() for label in labels.split(",") if label.strip()]


def _say_errors_in_a_sentence(app: FastAPI) -> None:
    """Every refusal is JSON with one sentence in `error`; the service lives on."""

    def says(status: int, sentence: str) -> JSONResponse:
        return JSONResponse({"error": sentence}, status)

    @app.exception_handler(StarletteHTTPException)
    def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return says(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"][1:]) or str(first["loc"][0])
        if first["type"] == "missing":
            return says(422, f"the request has no {where}; send it.")
        return says(422, f"{where}: {first['msg']}.")

    @app.exception_handler(EverclipError)
    def impossible(request: Request, error: EverclipError) -> JSONResponse:
        return says(400 if isinstance(error, InputError) else 500, str(error))

    @app.exception_handler(Busy)
    def busy(request: Request, error: Busy) -> JSONResponse:
        return JSONResponse({"error": f"{error}; try again in a moment."}, 503, {"Retry-After": "1"})

    @app.exception_handler(TimeoutError)
    def late(request: Request, error: TimeoutError) -> JSONResponse:
        return says(504, "no answer in time; send fewer images at once, or try again.")

    @app.exception_handler(OSError)
    def no_room(request: Request, error: OSError) -> JSONResponse:
        # A large upload waits on disk until its request is answered.
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return says(507, f"the system of the service refused a file ({error.strerror or error}); try again later.")

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return says(500, "the service failed on this request; its log says why.")


class BodyLimit:
    """Refuses a body that is too long: before reading it if the request says its length, else while reading."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what the request's body brings."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        limit = self._limits.lesson_bytes if scope["path"] == "/tasks" else self._limits.request_bytes
        told = _content_length(scope["headers"])
        sentence = f"the request is longer than the {limit / 1e6:g} MB that it may be; send fewer or smaller images."
        if told is not None and told > limit:
            return await JSONResponse({"error": sentence}, 413, {"Connection": "close"})(scope, receive, send)
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise HTTPException(413, sentence)
            return message

        return await self._app(scope, counted, send)


def _content_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
