"""The service: a learner behind HTTP, with one page to use it by."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import json
import re
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from typing import IO, Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from everclip._version import __version__
from everclip.errors import InputError
from everclip.serve.bodies import LESSONS, BodyLimit
from everclip.serve.forms import read_form
from everclip.serve.guard import IN_PROCESS, LOOPBACK, Guard
from everclip.serve.reference import reference
from everclip.serve.refusals import say_errors_in_a_sentence
from everclip.serve.service import Service

BEARER = HTTPBearer(auto_error=False, description="the token that the service was started with")
ASKING = 64
"""Requests for answers that are worked on at a time; those beyond wait, and their seconds run."""


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


LABEL = "a further candidate, whole, with its commas; may be repeated"
LABELS = "further candidates: one text, separated by commas; a JSON list of texts; or repeated, each one whole"


class Asking(BaseModel):
    """What is asked about each image of a form."""

    label: list[str] = Field([], description=LABEL)
    labels: list[str] = Field([], description=LABELS)
    only: bool = Field(False, description="no candidates but these labels")
    closed: bool = Field(False, description="one of the candidates, whatever the image shows")
    top_k: int = Field(5, description="candidates listed per image")

    def every_label(self) -> list[str]:
        """The labels, in whichever way they were sent.

        Raises:
            InputError: what begins like a JSON list is none, or not one of texts.
        """
        if len(self.labels) != 1:
            return [*self.label, *self.labels]
        (text,) = self.labels
        if not text.lstrip().startswith("["):
            return [*self.label, *(each.strip() for each in text.split(",") if each.strip())]
        try:
            listed = json.loads(text)
        except ValueError as error:
            raise InputError(f"labels begins like a JSON list but is none ({error}); send a list of texts.") from error
        if not all(isinstance(each, str) for each in listed):
            raise InputError("labels is a JSON list, but not one of texts; send texts only.")
        return [*self.label, *listed]


def create_app(
    service: Service, token: str | None = None, hosts: Collection[str] = frozenset({*LOOPBACK, IN_PROCESS})
) -> FastAPI:
    """The HTTP side of a service.

    Args:
        service: what answers.
        token: what every request but the pages and `/health` must carry as `Authorization: Bearer TOKEN`.
        hosts: the names that it goes by (`Host`), beside the address that a connection comes to; see `Guard`.
    """
    app = FastAPI(
        title="EverCLIP",
        version=__version__,
        summary="A CLIP model that keeps learning.",
        docs_url=None,  # FastAPI's own pages load their scripts from the internet
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, limits=service.limits)
    app.add_middleware(Guard, hosts=hosts)  # added last, asked first

    async def authorized(given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        if token is not None and (given is None or not hmac.compare_digest(given.credentials.encode(), token.encode())):
            raise HTTPException(401, "this service needs its token: send it as Authorization: Bearer TOKEN.")

    page = files("everclip.serve").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return _html(page)

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return _html(reference(app.openapi()))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether it answers, and what it is doing."""
        return {"status": "ok", "version": __version__, "tasks": len(service.tasks), "learning": service.learning}

    app.include_router(_routes(service), dependencies=[Depends(authorized)])
    say_errors_in_a_sentence(app)
    return app


def _html(page: str) -> HTMLResponse:
    """A page of ours: what a browser may run of it is what stands in it now, and it talks to nobody else."""
    allowed = {
        kind: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
            for part in re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        )
        or "'none'"
        for kind in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; img-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


def _routes(service: Service) -> APIRouter:
    router = APIRouter()
    # Not the threads that everything else shares: forms are read and pages are served whatever waits for an answer.
    asking = ThreadPoolExecutor(ASKING, thread_name_prefix="asking")

    async def answers(images: Sequence[tuple[str, bytes]], about: Asking) -> list[dict[str, object]]:
        deadline = time.monotonic() + service.limits.seconds
        ask = partial(service.predict, images, about.every_label(), about.only, about.closed, about.top_k, deadline)
        return await asyncio.get_running_loop().run_in_executor(asking, ask)

    @router.post(
        "/predict", openapi_extra={"requestBody": {"required": True, "content": {"image/*": {"schema": FILE}}}}
    )
    async def predict(
        request: Request,
        label: Annotated[list[str], Query(description=LABEL)] = [],  # noqa: B006
        labels: Annotated[list[str], Query(description=LABELS)] = [],  # noqa: B006
        only: bool = False,
        closed: bool = False,
        top_k: int = 5,
    ) -> Answer:
        """What is on one image. Each `label` is a further candidate, or with `only` one of the only ones."""
        image = await request.body()
        if not image:
            raise HTTPException(422, "the request has no body; send it.")
        about = Asking(label=label, labels=labels, only=only, closed=closed, top_k=top_k)
        (answer,) = await answers([("image", image)], about)
        if "error" in answer:
            raise InputError(str(answer["error"]))
        return Answer.model_validate(answer)

    @router.post("/predict/batch", openapi_extra=_form({**Asking.model_json_schema()["properties"], "files": FILES}))
    async def predict_batch(request: Request) -> Answers:
        """What is on each of some images. A file that is no image gets an `error`, the others their answer."""
        given: list[tuple[str, io.BytesIO]] = []

        def opened(name: str) -> IO[bytes]:
            if len(given) >= service.limits.images:
                raise HTTPException(413, f"there are more than the {service.limits.images} images of one request.")
            given.append((name or f"file {len(given)}", _Kept()))
            return given[-1][1]

        fields = await read_form(request, opened)
        if not given:
            raise HTTPException(422, "the request has no files; send it.")
        try:
            lists = ("label", "labels")
            about = Asking.model_validate({name: each if name in lists else each[-1] for name, each in fields.items()})
        except ValidationError as error:
            raise RequestValidationError(
                [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
            ) from error
        images = [(name, content.getvalue()) for name, content in given]
        return Answers(answers=[Answer.model_validate(each) for each in await answers(images, about)])

    @router.get(LESSONS)
    def tasks() -> dict[str, Any]:
        """What is learned, in order."""
        listed = [
            {"name": task.name, "classes": task.class_names, "images": task.images, "lessons": task.increments}
            for task in service.tasks
        ]
        return {"backbone": service.backbone, "method": service.method, "tasks": listed}

    @router.post(
        LESSONS, status_code=202, openapi_extra=_form({"name": NAME, "folder": WHOSE, "files": NAMED_FILES}, ["name"])
    )
    async def learn(request: Request) -> dict[str, str]:
        """Learn a task, or more of one, in the background; ask `/jobs/{job}` how far it is.

        From this answer on the lesson is learned also if the service ends before that: it goes on when it is started
        again.
        """
        async with contextmanager_in_threadpool(service.arriving()) as arriving:
            fields = await read_form(request, arriving)
            name, folder = (fields.get(field, [""])[-1] for field in ("name", "folder"))
            if not name.strip():
                raise InputError("the form has no field name; say what the task is called.")
            return {"job": await run_in_threadpool(service.teach, name, arriving, folder)}

    @router.delete(LESSONS + "/{name:path}")
    def forget(name: str, request: Request) -> dict[str, Any]:
        """Forget a task. In the address its name is percent-encoded, a slash as %2F."""
        # As it was sent, where the server tells: some decode an address twice, and `%2F` is a name too.
        sent = request.scope.get("raw_path", b"").partition(f"{LESSONS}/".encode())[2]
        return asdict(service.forget(unquote(sent.decode("ascii", "replace")) if sent else name))

    @router.get("/jobs/{job}")
    async def job(job: str) -> JobState:
        """How far a lesson is."""
        found = service.job(job)
        if found is None:
            raise HTTPException(404, f"there is no job '{job}'.")
        return JobState(job=job, state=found.state, message=found.message, share=found.share)

    return router


class _Kept(io.BytesIO):
    """A file in memory that can be read after whoever wrote it has closed it."""

    def close(self) -> None:
        """Nothing: it goes when nobody needs it."""


FILE = {"type": "string", "format": "binary"}
FILES = {"type": "array", "items": FILE, "description": "image files"}
NAMED_FILES = {**FILES, "description": "image files; their names are their paths in a folder, such as CLASS/FILE"}
WHOSE = {"type": "string", "description": "what that folder is called; by default as the task"}
NAME = {"type": "string", "description": "the task's name; of a learned task: more images, more classes"}


def _form(properties: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """What a form holds, for the OpenAPI schema."""
    schema = {"type": "object", "required": [*required, "files"], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
