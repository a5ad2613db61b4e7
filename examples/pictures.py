"""Figures of the examples: pages that can be turned and zoomed, and still pictures of them.

A still picture is drawn by a headless browser from the same figure, so no further library is
needed; where there is no browser only the page is written.
"""

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import unquote

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Okabe and Ito (2008), then darker ones; labels beside the points say the same without colour.
CLASS_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#7a5195",
    "#8c564b",
    "#7f7f7f",
)
_SECONDS = 120
_PAGE = """<!doctype html><meta charset="utf-8"><script>{plotly}</script><div id="figure"></div>
<script>
const figure = {figure};
Plotly.newPlot("figure", figure.data, figure.layout, {{staticPlot: true}})
  .then((drawn) => Plotly.toImage(drawn, {{format: "svg", width: {width}, height: {height}}}))
  .then((uri) => {{
    document.body.textContent = "";
    document.body.appendChild(document.createElement("pre")).textContent = "PICTURE" + uri + "END";
  }});
</script>"""


def write_page(figure: go.Figure, path: Path) -> None:
    """Write a figure as a page that needs nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(path, include_plotlyjs=True)


def write_still(figure: go.Figure, path: Path) -> bool:
    """Write a figure as SVG; returns False where no browser is installed.

    Raises:
        RuntimeError: if the browser drew nothing.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return False
    page = _PAGE.format(
        plotly=get_plotlyjs(),
        figure=json.dumps(figure.to_plotly_json(), cls=_encoder()),
        width=figure.layout.width,  # pyright: ignore[reportAttributeAccessIssue]
        height=figure.layout.height,  # pyright: ignore[reportAttributeAccessIssue]
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "figure.html"
        source.write_text(page, encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=60000"]
        done = subprocess.run(
            [*command, source.as_uri()], capture_output=True, text=True, timeout=_SECONDS
        )
    found = re.search(r"PICTUREdata:image/svg\+xml,(.*?)END", done.stdout, flags=re.DOTALL)
    if found is None:
        raise RuntimeError(f"{browser} drew no picture for {path}: {done.stderr[-300:]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(unquote(html.unescape(found[1])) + "\n", encoding="utf-8")
    return True


def _encoder() -> type[json.JSONEncoder]:
    from plotly.utils import PlotlyJSONEncoder

    return PlotlyJSONEncoder
