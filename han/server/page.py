"""The page: one file with its style and script, which asks the API and draws what it says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader

from han.explanation import METHODS
from han.report.html import DOCUMENT_ASSETS, load_assets
from han.server.messages import MAX_EXPLAINED, MAX_OCCLUDED

if TYPE_CHECKING:
    from han.predictor import Predictor

_FOLDER = Path(__file__).parent
_REPORT_FOLDER = DOCUMENT_ASSETS[0].parent


def render_page(predictor: Predictor, title: str) -> tuple[str, str]:
    """Return the page of a model, and its Content-Security-Policy.

    Args:
        predictor: The model.
        title: What to call the model.
    """
    assets = load_assets(
        *DOCUMENT_ASSETS, _REPORT_FOLDER / "report.css", _FOLDER / "page.css", _FOLDER / "page.js"
    )
    policy = assets.policy("connect-src 'self'", "img-src data:", "frame-ancestors 'none'")
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader([_FOLDER, _REPORT_FOLDER]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    limits = dict.fromkeys(METHODS, MAX_EXPLAINED) | {"occlusion": MAX_OCCLUDED}
    reference = predictor.bundle.reference
    page = environment.get_template("page.html.jinja").render(
        title=title,
        assets=assets,
        digest=reference.sha256[:12] if reference else "",
        num_classes=len(predictor.labels),
        facts={"classes": predictor.labels, "methods": METHODS, "limits": limits},
    )
    return page, policy
