"""The report in a real browser: it draws, plays, turns, filters, and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neuralcollapse import Hierarchy, Measurement, measure_features
from neuralcollapse.depth import LayerMeasurement, depth_profile
from neuralcollapse.jackknife import Interval
from neuralcollapse.report import write_measurements, write_report
from neuralcollapse.shards import ShardMeasurement
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

# Runs in the page before everything else; LOOKS is replaced by the looks below, in their order.
PROBE = """
const root = document.documentElement, result = {violations: []};
document.addEventListener("securitypolicyviolation", (e) => result.violations.push(e.blockedURI));
const all = (selector) => [...document.querySelectorAll(selector)];
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function until(condition) {
  for (let turn = 0; turn < 200 && !condition(); turn++) await wait(50);
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
LOOKS  } catch (error) {
    result.failed = String(error.stack || error);
  }
  result.errors = root.dataset.errors || "";
  result.resources = performance.getEntriesByType("resource").map((entry) => entry.name);
  root.dataset.result = JSON.stringify(result);
});
"""


# What is done in the page and noted in `seen`, by the test that judges it.
LOOKS = {
    "drawn": """
        seen.places = all("[data-figure], [data-gram], [data-scene]").length;
        seen.drawn = all("[data-drawn]").length;
        seen.plots = all(".js-plotly-plot").length;
        seen.svgs = all("[data-figure], [data-gram]")
          .filter((place) => place.querySelector(".cartesianlayer g")).length;
        seen.lines = all("[data-figure] .scatterlayer path.js-line").length;
        seen.cells = all("[data-gram] .heatmaplayer image").length;
        seen.canvases = all("[data-scene] canvas").map((canvas) => [canvas.width, canvas.height]);
        seen.noWebgl = all("[data-scene]").some((place) => place.textContent.includes("WebGL"));
    """,
    "hostile": """
        const nc1 = document.querySelector("[data-figure=nc1]"), gram = all("[data-gram]")[3];
        const hover = async (place, point) => {
          Plotly.Fx.hover(place, point, "xy");
          await until(() => place.querySelector(".hoverlayer text"));
          return place.querySelector(".hoverlayer").textContent;
        };
        seen.curve = await hover(nc1, [{curveNumber: 2, pointNumber: 0}]);
        seen.cell = await hover(gram, {xval: 1, yval: 0});
        seen.ticks = [...gram.querySelectorAll(".ytick")].map((tick) => tick.textContent);
        seen.classes = all(".classes")[1].textContent;
        seen.hacked = document.hacked || null;
        seen.tags = all("img, svg a, main b").length;
    """,
    "slider": """
        const state = () => ({
          z: all("[data-gram]").map((place) => place.data[0].z[0][1]),
          at: all("#grams .at").map((place) => place.textContent),
          said: document.querySelector("#grams output").textContent,
          captions: all("#grams figcaption").map((place) => place.textContent),
          x: all("[data-scene]").map((place) => place.data[1].x[0]),
          range: all("[data-scene]").map((place) => place.layout.scene.xaxis.range[1]),
        });
        seen.states = [state()];
        for (const stop of [0, 1]) {
          await slide("grams", stop);
          await slide("scenes", stop);
          seen.states.push(state());
        }
        await slide("grams", 3);
        await slide("scenes", 3);
    """,
    "play": """
        const section = document.getElementById("grams"), button = section.querySelector("button");
        seen.stops = [section.dataset.stop];
        const observer = new MutationObserver(() => seen.stops.push(section.dataset.stop));
        observer.observe(section, {attributes: true, attributeFilter: ["data-stop"]});
        button.click();
        seen.label = button.textContent;
        await until(() => seen.stops.length > 3 && section.dataset.stop === "3");
        await wait(1000);
        observer.disconnect();
        seen.after = button.textContent;
    """,
    "turn": """
        const scene = document.querySelector("[data-scene]");
        const canvas = scene.querySelector("canvas");
        const eye = () => ({...scene._fullLayout.scene._scene.getCamera().eye});
        const box = canvas.getBoundingClientRect();
        const at = (type, dx, dy, buttons) => canvas.dispatchEvent(new MouseEvent(type, {
          bubbles: true, cancelable: true, view: window, button: 0, buttons,
          clientX: box.left + 150 + dx, clientY: box.top + 150 + dy,
        }));
        seen.before = eye();
        at("mousedown", 0, 0, 1);
        for (let step = 1; step <= 8; step++) {
          at("mousemove", 10 * step, 4 * step, 1);
          await wait(30);
        }
        at("mouseup", 80, 32, 0);
        await wait(1000);  // the view glides a little further
        seen.turned = eye();
        await slide("scenes", 0);
        await slide("scenes", 2);
        document.getElementById("relative").click();
        await wait(500);
        seen.after = eye();
    """,
    "hidden": """
        const traces = () => document.querySelector("[data-figure=nc1]").data;
        const shown = () => traces().map((trace) => trace.visible);
        seen.names = traces().map((trace) => trace.meta[2] + trace.meta[3]);
        seen.all = shown();
        document.querySelector("input[data-run='1']").click();
        await until(() => shown().includes(false));
        seen.one = shown();
        document.querySelector("input[data-split=test]").click();
        await until(() => shown().filter(Boolean).length === 1);
        seen.train = shown();
    """,
    "width": """
        seen.wide = {};
        for (const width of [1280, 400]) {
          document.body.style.width = `${width}px`;
          dispatchEvent(new Event("resize"));
          await wait(1000);
          const limit = document.body.getBoundingClientRect().right + 1;
          seen.wide[width] = all("body *")
            .filter((place) => !place.closest(".scroll") && !place.ownerSVGElement)
            .filter((place) => place.getBoundingClientRect().right > limit)
            .map((place) => place.outerHTML.slice(0, 80));
        }
    """,
}


# The same for a page of a run whose classes have a hierarchy.
TREE_LOOKS = {
    "drawn": """
        seen.places = all("[data-figure], [data-gram], [data-scene]").length;
        seen.drawn = all("[data-drawn]").length;
        seen.slices = all("[data-figure=tree-0] .slice").length;
        seen.names = all("[data-figure=tree-0] .slicetext").map((place) => place.textContent);
        seen.cells = all("[data-figure=confusion-0] .heatmaplayer image").length;
        seen.bars = all("[data-figure=severities] .bars .point").length;
        seen.axes = all("[data-figure=tree-0] .xtick").length;
        seen.inside = all("[data-figure=tree-0], [data-figure=confusion-0]").every((place) => (
          place.querySelector("svg").getBoundingClientRect().bottom
            <= place.getBoundingClientRect().bottom + 1
        ));
        seen.ticks = [...all("[data-gram]")[0].querySelectorAll(".ytick")]
          .map((tick) => tick.textContent);
        seen.hacked = document.hacked || null;
        seen.tags = all("img, svg a, main b").length;
    """,
    "width": LOOKS["width"],
}


# The same for a page of saved measurements.
MEASURED_LOOKS = {
    "drawn": """
        seen.places = all("[data-figure]").length;
        seen.drawn = all("[data-drawn]").length;
        seen.rows = all("[data-figure=distance] .ytick").map((tick) => tick.textContent);
        seen.dots = all("[data-figure=distance] .scatterlayer path.point").length;
        seen.bars = all("[data-figure=distance] .errorbars path").length;
        seen.lines = all("[data-figure=depth_nc1] path.js-line").length;
        seen.inside = all("[data-figure]").every((place) => (
          place.querySelector("svg").getBoundingClientRect().bottom
            <= place.getBoundingClientRect().bottom + 1
        ));
        const nc1 = document.querySelector("[data-figure=depth_nc1]");
        Plotly.Fx.hover(nc1, [{curveNumber: 0, pointNumber: 0}], "xy");
        await until(() => nc1.querySelector(".hoverlayer text"));
        seen.hover = nc1.querySelector(".hoverlayer").textContent;
        seen.hacked = document.hacked || null;
        seen.tags = all("img, svg a, main b").length;
    """,
    "hidden": """
        const shown = (name) => (
          document.querySelector(`[data-figure=${name}]`).data.map((trace) => trace.visible)
        );
        document.querySelector("input[data-run='1']").click();
        await until(() => shown("counts").includes(false));
        seen.ratio = shown("ratio");
        seen.depth = shown("depth_nc1");
        document.querySelector("input[data-run='1']").click();
        await until(() => !shown("counts").includes(false));
    """,
    "width": LOOKS["width"],
}


def visited(page: Path, looks: Mapping[str, str] = LOOKS) -> dict[str, Any]:
    """Open a copy of a page with a probe in it, and return what the probe saw."""
    steps = (
        f"await (async () => {{ const seen = result.{name} = {{}}; {look} }})();"
        for name, look in looks.items()
    )
    probe = PROBE.replace("LOOKS", "\n".join(steps))
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    source = page.read_text(encoding="utf-8")
    source = source.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    before = '<meta name="viewport"'
    source = source.replace(before, f"<script>{probe}</script>{before}", 1)
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
        "--window-size=1280,2000",
        "--virtual-time-budget=120000",
        "--dump-dom",
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    found = re.search(r'<html[^>]* data-result="([^"]*)"', done.stdout)
    assert found, f"no result; the browser ended with {done.returncode}: {done.stderr[-2000:]}"
    result = json.loads(html.unescape(found[1]))
    return result


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was seen on a page of two runs, one with hostile names and gaps."""
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
    return visited(write_report([first, second], folder / "report.html"))


def test_nothing_goes_wrong_and_nothing_is_fetched(visit):
    assert visit["ready"]
    assert "failed" not in visit, visit["failed"]
    assert visit["errors"] == ""
    assert visit["violations"] == []
    assert [name for name in visit["resources"] if not name.startswith("data:")] == []


def test_every_figure_is_drawn(visit):
    seen, scenes, grams = visit["drawn"], 2, 6
    assert seen["places"] == seen["drawn"] == seen["plots"]
    assert seen["svgs"] == seen["places"] - scenes
    assert seen["lines"] > 40
    assert seen["cells"] == grams
    assert not seen["noWebgl"]
    assert len(seen["canvases"]) >= scenes
    assert all(min(size) > 100 for size in seen["canvases"])


def test_the_slider_moves_every_run(visit):
    last, first, second = visit["slider"]["states"]
    assert last["said"] == "epoch 6"
    assert last["at"] == ["epoch 6", "epoch 4"]
    assert first["at"] == ["epoch 0", "epoch 0"]
    # The second run has no snapshot of epoch 2 and still shows its epoch 0.
    assert second["at"] == ["epoch 2", "epoch 0"]
    assert first["z"][0] != last["z"][0]
    assert first["z"][3] == second["z"][3] != last["z"][3]
    assert first["captions"][0] != last["captions"][0]
    # The target does not move: four classes at -1/3, three that are present at -1/2.
    assert first["z"][2] == last["z"][2] == pytest.approx(-1 / 3, abs=1e-3)
    assert first["z"][5] == pytest.approx(-1 / 2)
    assert first["x"] != last["x"]
    assert first["range"] == last["range"]


def test_it_plays_to_the_end(visit):
    seen = visit["play"]
    assert seen["stops"] == ["3", "0", "1", "2", "3"]
    assert (seen["label"], seen["after"]) == ("Pause", "Play")


def test_turning_outlasts_the_epochs(visit):
    seen = visit["turn"]

    def distance(first: str, second: str) -> float:
        return sum((seen[first][axis] - seen[second][axis]) ** 2 for axis in "xyz") ** 0.5

    assert distance("before", "turned") > 0.3
    # Glide may be lost, the turn not.
    assert distance("turned", "after") < 0.2 * distance("before", "turned")


def test_runs_and_splits_can_be_hidden(visit):
    seen = visit["hidden"]
    assert seen["names"] == ["0train", "0test", "1train", "1test"]
    assert seen["all"] == [True] * 4
    assert seen["one"] == [True, True, False, False]
    assert seen["train"] == [True, False, False, False]


def test_hostile_names_do_nothing_and_are_shown(visit):
    seen = visit["hostile"]
    assert seen["hacked"] is None
    assert seen["tags"] == 0
    assert "second <b>bold" in seen["curve"]
    assert HOSTILE in seen["cell"]
    assert seen["ticks"][0] == HOSTILE[:13] + "…"
    assert HOSTILE in seen["classes"]


def test_the_page_is_no_wider_than_the_window(visit):
    assert visit["width"]["wide"] == {"1280": [], "400": []}


def test_mistakes_are_drawn_on_the_tree(tmp_path: Path) -> None:
    tree = Hierarchy.from_dict(
        {"even": [HOSTILE, "bird"], "odd": {"lone": ["dog"], "fish": []}},
        classes=[HOSTILE, "dog", "bird", "fish"],
    )
    run = write_record(
        tmp_path / "tree",
        classes=tree.classes,
        hierarchy=tree,
        target="frame",
        noise=6.0,
        config={"frame": "hierarchy"},
    )
    visit = visited(write_report([run], tmp_path / "report.html"), TREE_LOOKS)
    assert visit["ready"]
    assert "failed" not in visit, visit["failed"]
    assert visit["errors"] == ""
    assert visit["violations"] == []
    seen = visit["drawn"]
    assert seen["places"] == seen["drawn"]
    assert seen["slices"] == tree.num_nodes == 8
    shown = " ".join(seen["names"])
    assert all(name in shown for name in ("even", "odd", "lone", "bird", HOSTILE[:16]))
    assert seen["cells"] == 1
    assert seen["bars"] >= 2
    assert seen["axes"] == 0
    assert seen["inside"]
    # Siblings side by side, though their labels are 0 and 2.
    assert seen["ticks"] == [HOSTILE[:13] + "…", "bird", "dog", "fish"]
    assert seen["hacked"] is None
    assert seen["tags"] == 0
    assert visit["width"]["wide"] == {"1280": [], "400": []}


def test_measurements_are_drawn_and_hidden_and_fit(tmp_path):
    generator = torch.Generator().manual_seed(0)
    layers = [LayerMeasurement(f"{n}{HOSTILE}", 6, {"nc1": 0.5**n}) for n in range(4)]

    def measured(*counts: int) -> Measurement:
        labels = torch.arange(4).repeat_interleave(torch.tensor(counts))
        features = torch.eye(4, 6)[labels] + 0.2 * torch.randn(len(labels), 6, generator=generator)
        found = measure_features(features, labels, torch.eye(4, 6))
        return replace(found, notes=(HOSTILE,), depth=depth_profile(layers))

    one, other = measured(9, 9, 9, 9), measured(9, 3, 2, 9)
    intervals = {"nc1": Interval(other["nc1"], 0.0, other["nc1"] / 4, 4 * other["nc1"])}
    shards = ShardMeasurement(replace(other, intervals=intervals), (), {})
    page = write_measurements({HOSTILE: one, "b": shards}, tmp_path / "page.html")
    visit = visited(page, MEASURED_LOOKS)
    assert visit["ready"]
    assert "failed" not in visit, visit["failed"]
    assert visit["errors"] == ""
    assert visit["violations"] == []
    assert [name for name in visit["resources"] if not name.startswith("data:")] == []
    seen = visit["drawn"]
    assert seen["places"] == seen["drawn"] == 4
    assert "nc1" in seen["rows"]
    assert seen["dots"] > 2 * len(seen["rows"]) - 4
    assert seen["bars"] >= 1
    assert seen["lines"] == 4  # two curves with their laws
    assert seen["inside"]
    assert f"{HOSTILE} " in seen["hover"]
    assert seen["hacked"] is None
    assert seen["tags"] == 0
    assert visit["hidden"]["ratio"] == [False]
    assert visit["hidden"]["depth"] == [True] * 2 + [False] * 2
    assert visit["width"]["wide"] == {"1280": [], "400": []}
