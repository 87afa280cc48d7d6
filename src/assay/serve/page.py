"""The page at ``/``: a person tries the served models by hand. One file, which asks this server and nobody else."""

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def router() -> APIRouter:
    """``GET /``."""
    routes = APIRouter(include_in_schema=False)
    style = files("assay.report").joinpath("style.css").read_text("utf-8")
    page = files("assay.serve").joinpath("page.html").read_text("utf-8").replace("/* the style of the reports */", style)

    @routes.get("/")
    async def try_it() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    return routes
