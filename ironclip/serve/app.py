"""The service as an ASGI application: its paths and how each of them fails."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

import torch
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from torch import Tensor

from ironclip.core.errors import UsageError
from ironclip.core.threat import Norm
from ironclip.report.pictures import data_uri
from ironclip.serve import attacking
from ironclip.serve.gate import RequestGate, refused
from ironclip.serve.hosts import Hosts, hosts_for
from ironclip.serve.intake import printable
from ironclip.serve.limits import Busy, Limits, Refusal
from ironclip.serve.model import DEFENDED, UNDEFENDED, Served
from ironclip.serve.schema import ATTACK, CLASSIFY, HEALTH, METRICS, MODEL, PICTURE, pictures, refusals
from ironclip.serve.service import Service
from ironclip.serve.turns import address

EPS = r"^([0-9]|[1-9][0-9]{1,2})(\.[0-9]{1,3})?/255$"
MOST_CLASSES = 1000  # in one answer


def create_app(model: Served, limits: Limits | None = None, *, token: str | None = None, hosts: Hosts | None = None) -> FastAPI:
    """The application; `token`, `hosts` (default: this machine): as of `RequestGate`. `state.service` holds the counters."""
    limits = limits or Limits()
    service = Service(model, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.decoders.warm()
        yield
        await service.close()

    app = FastAPI(
        title="ironclip",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        description='Classification by a robust CLIP, and attacks on it. Errors are {"error": one line}.',
    )
    app.state.service = service
    app.add_middleware(RequestGate, metrics=service.metrics, token=token, hosts=hosts or hosts_for("localhost"))

    @app.post(
        "/classify",
        responses=CLASSIFY | refusals(400, 401, 408, 413, 415, 422, 500, 503),
        openapi_extra=pictures(limits.max_images),
        dependencies=[Depends(_known_once)],
    )
    async def classify(
        request: Request,
        top: Annotated[int, Query(ge=1, le=MOST_CLASSES, description="Classes in each answer, best first.")] = 3,
        compare: Annotated[bool, Query(description="Also ask undefended CLIP.")] = False,
    ) -> Any:
        """Probabilities of one or several images."""
        which = [name for name in (DEFENDED, UNDEFENDED) if name in model.functions] if compare else [DEFENDED]
        try:
            client = client_of(request)
            service.queue.check(client)
            async with asyncio.timeout(limits.seconds):
                names, images = await service.pictures(request, client, limits.max_images)
                rows = iter(await service.logits(request, client, [(name, image) for name in which for image in images]))
        except TimeoutError:
            raise Busy(f"no answer within {limits.seconds:g} s; ask again later") from None
        answers: list[dict[str, Any]] = [{"image": name} for name in names]
        for name in which:
            for answer in answers:
                answer["predictions" if name == DEFENDED else name] = _ranked(model.classes, next(rows), top)
        return JSONResponse({"results": answers})

    @app.post(
        "/attack",
        responses=ATTACK | refusals(400, 401, 408, 413, 415, 422, 503),
        openapi_extra=PICTURE,
        dependencies=[Depends(_known_once)],
    )
    async def attack(
        request: Request,
        attack: Annotated[attacking.Name, Query(description="Which attack (`ironclip list attacks`).")] = "pgd",
        eps: Annotated[str, Query(pattern=EPS, description="Radius in the units of the norm.")] = "4/255",
        norm: Annotated[Norm, Query(description="In which the change is bounded.")] = "linf",
        steps: Annotated[
            int, Query(ge=1, le=limits.attack_steps, description="Steps or queries; fgsm and autoattack have their own.")
        ] = 50,
        target: Annotated[attacking.Target, Query(description="The model that is attacked.")] = "defended",
        label: Annotated[
            str, Query(description="True class; empty: the model's answer.", json_schema_extra={"enum": ["", *model.classes]})
        ] = "",
        seed: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    ) -> Any:
        """Attack one image; lines of JSON: progress, then the result or an error."""
        try:
            wanted = attacking.order(
                model, attack=attack, eps=eps, kind=norm, steps=steps, target=target, label=label or None, seed=seed
            )
        except UsageError as problem:
            raise Refusal(422, str(problem)) from None
        return StreamingResponse(await service.attack(request, client_of(request), wanted), media_type="application/x-ndjson")

    @app.get("/model", responses=MODEL | refusals(401))
    async def facts() -> Any:
        """What is served, how it was made and measured, the limits, and example images."""
        examples = [{"class": name, "picture": data_uri(image)} for name, image in model.examples]
        names = attacking.NAMES if model.differentiable else ()
        served = {"models": list(model.functions), "limits": vars(limits), "attacks": names, "examples": examples}
        return JSONResponse({**model.facts, "classes": list(model.classes), **served})

    @app.get("/healthz", responses=HEALTH | refusals())
    async def healthz() -> Any:
        """Alive, and how many images wait."""
        return JSONResponse({"status": "ok", "waiting": service.batcher.waiting})

    @app.get("/readyz", responses=HEALTH | refusals(503))
    async def readyz() -> Any:
        """Ready to take a classification: a balancer sends no requests while this is refused."""
        if why := service.unready():
            raise Busy(f"{why}; ask again later")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=PlainTextResponse, responses=METRICS | refusals(401))
    async def metrics() -> Any:
        """Counters for Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    app.add_api_route("/", _page("page.html"), include_in_schema=False)
    app.add_api_route("/docs", _page("docs.html"), include_in_schema=False)
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)
    return app


def client_of(request: Request) -> str:
    """The address that a request counts for."""
    return address(request.client.host if request.client else None)


async def _known_once(request: Request) -> None:
    """Refusal of an option that the path does not have, or that comes twice: none is passed over in silence."""
    known = [option.alias for option in request.scope["route"].dependant.query_params]
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            raise Refusal(422, f"unknown option {printable(name)[:40]!r}; this path takes {', '.join(known)}")
        if name in seen:
            raise Refusal(422, f"{name} is given twice; give it once")
        seen.add(name)


def _page(name: str) -> Callable[[], Any]:
    text = (files("ironclip.serve") / name).read_text(encoding="utf-8")

    async def page() -> HTMLResponse:
        return HTMLResponse(text)

    return page


def _ranked(classes: tuple[str, ...], logits: Tensor, top: int) -> list[dict[str, Any]]:
    best = torch.topk(logits.softmax(0), min(top, len(classes)))
    return [{"class": classes[k], "probability": p} for k, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


async def _refusal(request: Request, problem: Any) -> JSONResponse:
    return refused(problem)


async def _http(request: Request, problem: Any) -> JSONResponse:
    text = {404: "no such path; see /docs", 405: "this path takes another method; see /docs"}.get(problem.status_code)
    headers = dict(problem.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    return refused(Refusal(problem.status_code, text or str(problem.detail), headers))


async def _invalid(request: Request, problem: Any) -> JSONResponse:
    first = problem.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return refused(Refusal(422, f"{where}: {first['msg']}; got {printable(str(first.get('input')))[:40]!r}"))


async def _broken(request: Request, problem: Exception) -> JSONResponse:
    logging.getLogger("ironclip.serve").error("failed on %s", request.url.path, exc_info=problem)
    return refused(Refusal(500, "the service failed on this request; its log says why"))
