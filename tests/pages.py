"""What tests need to read a report: the page taken apart, packed numbers unpacked."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np


class Page(HTMLParser):
    """A page taken apart: tags, text of the scripts, text of the styles, and all other text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.text = ""
        self._inside = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "style":
            self.styles.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles[-1] += data
        else:
            self.text += data

    def data(self, name: str):
        """The JSON under an id."""
        places = [attrs for tag, attrs in self.tags if tag == "script"]
        (place,) = [n for n, attrs in enumerate(places) if attrs.get("id") == name]
        return json.loads(self.scripts[place])


def unpacked(text: str, scale: float) -> np.ndarray:
    whole = np.frombuffer(base64.b64decode(text), dtype="<i2").astype(float)
    return np.where(whole == -32768, np.nan, whole / 32767 * scale)
