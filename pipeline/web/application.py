"""The application: addresses to views, errors to pages."""

import logging
from collections.abc import Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

import pipeline
from pipeline import tracebacks
from pipeline.web.access import BodyTooLarge, Guard, Refused
from pipeline.web.site import NoSuchDataset, Site
from pipeline.web.views import common
from pipeline.web.views.acts import retry_rejects, run_act, schedule_act
from pipeline.web.views.datasets import datasets
from pipeline.web.views.partitions import partition, partitions
from pipeline.web.views.rejects import rejects
from pipeline.web.views.review import answer, review
from pipeline.web.views.row import row
from pipeline.web.views.rows import rows
from pipeline.web.views.runs import run, run_list, run_live
from pipeline.web.views.schedules import schedules
from pipeline.web.views.spend import spend
from schemas.errors import StoreError, TandemError, UsageError

_STATIC = Path(pipeline.__path__[0]) / "templates" / "static"
_STATUS: Mapping[type[TandemError], int] = {
    NoSuchDataset: 404,
    Refused: 403,
    BodyTooLarge: 413,
    UsageError: 400,
    StoreError: 502,
}
_LOG = logging.getLogger(__name__)


def application(site: Site) -> ASGIApp:
    """Return the page of a site."""
    app = Starlette(
        routes=[
            Route("/", datasets),
            Route("/d/{dataset}/partitions", partitions),
            Route("/d/{dataset}/partition", partition),
            Route("/d/{dataset}/rows", rows),
            Route("/d/{dataset}/row", row),
            Route("/d/{dataset}/runs", run_list),
            Route("/d/{dataset}/runs/{run}", run),
            Route("/d/{dataset}/runs/{run}/live", run_live),
            Route("/d/{dataset}/runs/{run}/{act}", run_act, methods=["POST"]),
            Route("/d/{dataset}/rejects", rejects),
            Route("/d/{dataset}/rejects/retry", retry_rejects, methods=["POST"]),
            Route("/d/{dataset}/review", review),
            Route("/d/{dataset}/review/answer", answer, methods=["POST"]),
            Route("/d/{dataset}/spend", spend),
            Route("/d/{dataset}/schedules", schedules),
            Route("/d/{dataset}/schedules/{act}", schedule_act, methods=["POST"]),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        exception_handlers={TandemError: _failed, HTTPException: _not_found, Exception: _bug},
    )
    app.state.site = site
    return Guard(app, site.access)  # around all of it: a page about a bug has its headers as well


def _error(request: Request, status: int, heading: str, message: str, hint: str = "") -> Response:
    response = common.show(request, "error", heading=heading, message=message, hint=hint, back="/")
    response.status_code = status
    return response


async def _failed(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, TandemError)
    status = next((code for kind, code in _STATUS.items() if isinstance(exc, kind)), 500)
    return _error(request, status, "That did not work", exc.message, exc.hint or "")


async def _not_found(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    heading = "There is no such page" if exc.status_code == 404 else "That did not work"
    return _error(request, exc.status_code, heading, str(exc.detail))


async def _bug(request: Request, exc: Exception) -> Response:
    place = tracebacks.keep(exc)
    _LOG.error("The page %s failed; the traceback is in %s", request.url.path, place)
    text = f"A bug in Tandem ({type(exc).__name__}). Nothing was changed."
    return _error(
        request, 500, "A bug", text, f"The traceback is in {place} on the machine of the page; please report it."
    )
