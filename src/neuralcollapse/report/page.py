"""A page that holds everything it shows and needs no network."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from neuralcollapse import __version__
from neuralcollapse.files import write_atomically


def write_page(template: str, content: Mapping[str, Any], path: str | Path) -> Path:
    """Fill a template with its content, style and scripts; written whole or not at all.

    Args:
        template: file name of the template in this folder, which extends `base.html`.
        content: what it shows.
        path: of the HTML file; its folder must exist.

    Raises:
        ValueError: if the extra `report` is not installed.
        FileNotFoundError: if the folder does not exist.
    """
    path = Path(path)
    page = _template(template).render(
        content, style=_source("page.css"), **_scripts(), version=__version__
    )
    # Names of folders may hold bytes that are no text.
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return path


def _template(name: str) -> Any:
    try:
        import jinja2
    except (ImportError, RuntimeError) as error:
        raise ValueError(_needs_report("jinja2", error)) from None
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "separators": (",", ":"),
        "sort_keys": False,
    }
    return environment.get_template(name)


def _scripts() -> dict[str, str]:
    """The two scripts of the page and the policy that lets no other run."""
    try:
        from plotly.offline import get_plotlyjs
    except (ImportError, RuntimeError) as error:
        raise ValueError(_needs_report("plotly", error)) from None
    # Browsers read line ends as \n, and compare the hash after that.
    plotly = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")
    script = _source("page.js")
    hashes = " ".join(_hash(text) for text in (plotly, script))
    policy = (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return {"plotly": plotly, "script": script, "policy": policy}


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _needs_report(name: str, error: BaseException) -> str:
    return (
        f"a report needs the extra report, but {name} cannot be imported ({error}); "
        "pip install 'neuralcollapse[report]'"
    )


def _source(name: str) -> str:
    return resources.files("neuralcollapse.report").joinpath(name).read_text(encoding="utf-8")
