"""The report in a real browser: it draws, plays, turns, filters, and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from neuralcollapse.report import write_report
from records import change_rows, undefine, write_record

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="neither chromium nor chrome is installed"),
]

HOSTILE = '</script><img src="x" onerror="document.hacked=1"><a href="http://x">x</a>&amp;'

# Runs in the page before everything else. `look` is what a test wants to know.
PROBE = """
const root = document.documentElement, result = {violations: []};
document.addEventListener("securitypolicyviolation", (e) => result.violations.push(e.blockedURI));
const all = (selector) => [...document.querySelectorAll(selector)];
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function until(condition) {
  for (let turn = 0; turn < 600 && !condition(); turn++) await wait(50);
  return Boolean(condition());
}
async function slide(section, stop) {
  const slider = document.querySelector(`#${section} .player input`);
  slider.value = stop;
  slider.dispatchEvent(new Event("input"));
  await until(() => document.getElementById(section).dataset.stop === String(stop));
}
addEventListener("DOMContentLoaded", async () => {
  try {
    result.ready = await until(() => root.dataset.ready);
    await (async () => { LOOK })();
  } catch (error) {
    result.failed = String(error.stack || error);
  }
  result.errors = root.dataset.errors || "";
  result.resources = performance.getEntriesByType("resource").map((entry) => entry.name);
  root.dataset.result = JSON.stringify(result);
});
"""


def seen(page: Path, look: str, *, width: int = 1280) -> dict[str, Any]:
    """Open a copy of a page with a probe in it, and return what the probe found."""
    probe = PROBE.replace("LOOK", look)
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    source = page.read_text(encoding="utf-8")
    source = source.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    source = source.replace(
        '<meta name="viewport"', f'<script>{probe}</script><meta name="viewport"', 1
    )
    copy = page.with_name("probed.html")
    copy.write_text(source, encoding="utf-8")
    profile = page.with_name("profile")
    shutil.rmtree(profile, ignore_errors=True)
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        f"--user-data-dir={profile}",
        f"--window-size={width},2000",
        "--virtual-time-budget=60000",
        "--dump-dom",
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    found = re.search(r'<html[^>]* data-result="([^"]*)"', done.stdout)
    assert found, f"no result; the browser ended with {done.returncode}: {done.stderr[-2000:]}"
    result = json.loads(html.unescape(found[1]))
    assert result["ready"]
    assert "failed" not in result, result["failed"]
    assert result["errors"] == ""
    assert result["violations"] == []
    assert [name for name in result["resources"] if not name.startswith("data:")] == []
    return result


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one with hostile names and gaps."""
    folder = tmp_path_factory.mktemp("browser")
    first = write_record(folder / "first", epochs=(0, 2, 4, 6))
    second = write_record(
        folder / "second <b>bold",
        epochs=(0, 4),
        classes=[HOSTILE, "dog", "bird", "fish"],
        counts=[20, 9, 0, 9],
        config={"name": HOSTILE},
        info={"method": HOSTILE},
        seed=1,
        status=None,
    )
    change_rows(second, lambda row: undefine(row, "cdnv", HOSTILE))
    return write_report([first, second], folder / "report.html")


def test_every_figure_is_drawn(page):
    result = seen(
        page,
        """
        result.places = all(".plot, .gram, .scene").length;
        result.drawn = all("[data-drawn]").length;
        result.plots = all(".js-plotly-plot").length;
        result.svgs = all(".plot, .gram").filter((p) => p.querySelector("svg.main-svg .plot")).length;
        result.lines = all(".plot .scatterlayer path.js-line").length;
        result.cells = all(".gram .heatmaplayer image, .gram .heatmaplayer path").length;
        result.canvases = all(".scene canvas").map((canvas) => [canvas.width, canvas.height]);
        result.noWebgl = document.body.textContent.includes("WebGL is not supported");
        """,
    )
    assert result["places"] == result["drawn"] == result["plots"]
    scenes, grams = 2, 6
    assert result["svgs"] == result["places"] - scenes
    assert result["lines"] > 40
    assert result["cells"] >= grams
    assert not result["noWebgl"]
    assert len(result["canvases"]) >= scenes
    assert all(min(size) > 100 for size in result["canvases"])


def test_the_slider_moves_every_run(page):
    result = seen(
        page,
        """
        const state = () => ({
          z: all(".gram").map((place) => place.data[0].z[0][1]),
          at: all("#grams .at").map((place) => place.textContent),
          said: document.querySelector("#grams output").textContent,
          captions: all("#grams figcaption").map((place) => place.textContent),
          x: all(".scene").map((place) => place.data[1].x[0]),
          range: all(".scene").map((place) => place.layout.scene.xaxis.range[1]),
        });
        result.states = [state()];
        for (const stop of [0, 1]) {
          await slide("grams", stop);
          await slide("scenes", stop);
          result.states.push(state());
        }
        """,
    )
    last, first, second = result["states"]
    assert last["said"] == "epoch 6"
    assert last["at"] == ["epoch 6", "epoch 4"]
    assert first["at"] == ["epoch 0", "epoch 0"]
    # The second run has no snapshot of epoch 2 and still shows its epoch 0.
    assert second["at"] == ["epoch 2", "epoch 0"]
    assert first["z"][0] != last["z"][0]
    assert first["z"][3] == second["z"][3] != last["z"][3]
    assert first["captions"][0] != last["captions"][0]
    # The target does not move; four classes at -1/3, three of them present at -1/2.
    assert first["z"][2] == last["z"][2] == pytest.approx(-1 / 3, abs=1e-3)
    assert first["z"][5] == pytest.approx(-1 / 2)
    assert first["x"] != last["x"]
    assert first["range"] == last["range"]


def test_it_plays_to_the_end(page):
    result = seen(
        page,
        """
        const section = document.getElementById("grams"), button = section.querySelector("button");
        result.stops = [section.dataset.stop];
        new MutationObserver(() => result.stops.push(section.dataset.stop))
          .observe(section, {attributes: true, attributeFilter: ["data-stop"]});
        button.click();
        result.label = button.textContent;
        await until(() => result.stops.length > 3 && section.dataset.stop === "3");
        await wait(1000);
        result.after = button.textContent;
        """,
    )
    assert result["stops"] == ["3", "0", "1", "2", "3"]
    assert (result["label"], result["after"]) == ("Pause", "Play")


def test_turning_outlasts_the_epochs(page):
    result = seen(
        page,
        """
        const scene = document.querySelector(".scene"), canvas = scene.querySelector("canvas");
        const eye = () => ({...scene._fullLayout.scene._scene.getCamera().eye});
        const box = canvas.getBoundingClientRect();
        const at = (type, dx, dy, buttons) => canvas.dispatchEvent(new MouseEvent(type, {
          bubbles: true, cancelable: true, view: window, button: 0, buttons,
          clientX: box.left + 150 + dx, clientY: box.top + 150 + dy,
        }));
        result.before = eye();
        at("mousedown", 0, 0, 1);
        for (let step = 1; step <= 8; step++) {
          at("mousemove", 10 * step, 4 * step, 1);
          await wait(30);
        }
        at("mouseup", 80, 32, 0);
        await wait(300);
        result.turned = eye();
        await slide("scenes", 0);
        await slide("scenes", 2);
        document.getElementById("relative").click();
        await wait(500);
        result.after = eye();
        """,
    )
    assert result["turned"] != pytest.approx(result["before"], abs=0.05)
    assert result["after"] == pytest.approx(result["turned"], abs=1e-6)


def test_runs_and_splits_can_be_hidden(page):
    result = seen(
        page,
        """
        const shown = () => document.querySelector("[data-figure=nc1]").data
          .map((trace) => trace.visible);
        result.names = document.querySelector("[data-figure=nc1]").data.map((t) => t.meta[2] + t.meta[3]);
        result.all = shown();
        document.querySelector("input[data-run='1']").click();
        await until(() => shown().includes(false));
        result.one = shown();
        document.querySelector("input[data-split=test]").click();
        await until(() => shown().filter(Boolean).length === 1);
        result.train = shown();
        """,
    )
    assert result["names"] == ["0train", "0test", "1train", "1test"]
    assert result["all"] == [True] * 4
    assert result["one"] == [True, True, False, False]
    assert result["train"] == [True, False, False, False]


def test_hostile_names_do_nothing_and_are_shown(page):
    result = seen(
        page,
        """
        result.hacked = document.hacked || null;
        result.images = all("img").length;
        result.links = all("svg a").length;
        result.bold = all("main b").length;
        const nc1 = document.querySelector("[data-figure=nc1]");
        Plotly.Fx.hover(nc1, [{curveNumber: 2, pointNumber: 0}]);
        await until(() => nc1.querySelector(".hoverlayer text"));
        result.hover = nc1.querySelector(".hoverlayer").textContent;
        const gram = all(".gram")[3];
        Plotly.Fx.hover(gram, [{curveNumber: 0, pointNumber: [0, 1]}]);
        await until(() => gram.querySelector(".hoverlayer text"));
        result.cell = gram.querySelector(".hoverlayer").textContent;
        result.ticks = [...gram.querySelectorAll(".ytick")].map((tick) => tick.textContent);
        result.classes = all(".classes")[1].textContent;
        await wait(200);
        result.linksAfter = all("svg a").length;
        """,
    )
    assert result["hacked"] is None
    assert result["images"] == result["links"] == result["linksAfter"] == result["bold"] == 0
    assert "second <b>bold" in result["hover"]
    assert HOSTILE in result["cell"]
    assert result["ticks"][0] == HOSTILE[:13] + "…"
    assert HOSTILE in result["classes"]


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_no_wider_than_the_window(page, width):
    result = seen(
        page,
        f"""
        const frame = document.createElement("div");
        document.body.style.width = "{width}px";
        dispatchEvent(new Event("resize"));
        await wait(1000);
        const limit = document.body.getBoundingClientRect().right + 1;
        result.wide = all("body *").filter((place) => !place.closest(".scroll")
          && place.getBoundingClientRect().right > limit).map((place) => place.outerHTML.slice(0, 80));
        """,
    )
    assert result["wide"] == []
