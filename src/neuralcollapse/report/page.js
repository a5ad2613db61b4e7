"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const errors = [];

  function complain(error) {
    errors.push(String((error && error.message) || error));
    root.dataset.errors = errors.join("; ");
  }
  addEventListener("error", (event) => complain(event.error || event.message));
  addEventListener("unhandledrejection", (event) => complain(event.reason));

  const figures = read("figures");
  const { stops, runs } = read("players");

  // Look.

  const SCALE = [[0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#f7f7f7"], [0.75, "#f4a582"], [1, "#b2182b"]];
  // Petroff (2021), ten colours that colour-blind eyes can tell apart; then other symbols.
  const COLOURS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"];
  const SYMBOLS = [["circle", "●"], ["square", "■"], ["diamond", "◆"], ["cross", "✚"], ["circle-open", "○"]];
  const colourOf = (number) => COLOURS[number % COLOURS.length];
  const symbolOf = (number) => SYMBOLS[Math.floor(number / COLOURS.length) % SYMBOLS.length];

  // Touch: dragging must scroll the page, and no bar of buttons hides the figures.
  const coarse = !matchMedia("(hover: hover)").matches;
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: coarse ? false : "hover",
    modeBarButtonsToRemove: ["sendChartToCloud", "sendDataToCloud", "select2d", "lasso2d", "autoScale2d"],
  };

  function style(name) {
    return getComputedStyle(root).getPropertyValue(name).trim();
  }

  function themed(layout) {
    const text = style("--text"), grid = style("--grid");
    const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style("--font"), size: 12, color: text },
      margin: { l: 48, r: 10, t: 8, b: 40 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--muted"), activecolor: text },
      hoverlabel: { align: "left", namelength: -1 },
      dragmode: coarse ? false : "zoom",
    };
    const merged = { ...base, ...layout };
    for (const name of ["xaxis", "yaxis"]) merged[name] = { ...axis, ...layout[name] };
    return merged;
  }

  async function draw(place, data, layout) {
    try {
      await Plotly.react(place, data, layout, config);
      place.dataset.drawn = "true";
    } catch (error) {
      complain(error);
      place.textContent = `This figure could not be drawn: ${error.message || error}`;
    }
  }

  // Packed numbers.

  function unpacked(text, scale) {
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    const whole = new Int16Array(bytes.buffer);
    return Array.from(whole, (value) => (value === -32768 ? null : (value / 32767) * scale));
  }

  function columns(values) {
    return [0, 1, 2].map((column) => values.filter((_, place) => place % 3 === column));
  }

  // Curves and bars.

  const hidden = { run: new Set(), split: new Set() };

  function isShown(trace) {
    if (!Array.isArray(trace.meta)) return true;
    const [, , run, split] = trace.meta;
    return !hidden.run.has(String(run)) && !hidden.split.has(split);
  }

  async function drawCurves() {
    for (const place of all("[data-figure]")) {
      const { data, layout } = figures[place.dataset.figure];
      const traces = data.map((trace) => ({ ...trace, visible: isShown(trace) }));
      await draw(place, traces, themed(layout));
    }
  }

  for (const kind of ["run", "split"]) {
    for (const box of all(`.legend input[data-${kind}]`)) {
      box.addEventListener("change", () => {
        if (box.checked) hidden[kind].delete(box.dataset[kind]);
        else hidden[kind].add(box.dataset[kind]);
        drawCurves();
      });
    }
  }

  // Cosines.

  function cosines(run, kind, frame) {
    const { scale } = run.grams, size = run.names.length;
    const above = unpacked(kind === "target" ? run.grams.target : run.grams[kind][frame], scale);
    const z = Array.from({ length: size }, () => new Array(size).fill(1));
    let next = 0;
    for (let row = 0; row < size; row++) {
      z[row][row] = 1;
      for (let column = row + 1; column < size; column++) {
        z[row][column] = z[column][row] = above[next++];
      }
    }
    return z;
  }

  function pairNames(run) {
    run.pairs ??= run.names.map((row) => run.names.map((column) => `${row}<br>${column}`));
    return run.pairs;
  }

  function drawGram(place, stop) {
    const run = runs[place.dataset.run], frame = run.at[stop], size = run.names.length;
    const order = run.order ?? run.names.map((_, index) => index);
    const sorted = (matrix) => order.map((row) => order.map((column) => matrix[row][column]));
    const z = sorted(cosines(run, place.dataset.gram, frame));
    const trace = {
      type: "heatmap", z, text: sorted(pairNames(run)), zmin: -1, zmax: 1, colorscale: SCALE,
      showscale: false, xgap: size > 40 ? 0 : 1, ygap: size > 40 ? 0 : 1,
      hovertemplate: "%{text}<br>cosine <b>%{z:.4f}</b><extra></extra>",
    };
    if (size <= 10) Object.assign(trace, { texttemplate: "%{z:.2f}", textfont: { size: 9 } });
    const ticks = { showgrid: false, zeroline: false, ticks: "", automargin: true };
    if (size <= 30) {
      Object.assign(ticks, { tickvals: run.ticks.map((_, index) => index), ticktext: order.map((own) => run.ticks[own]) });
    }
    const longest = Math.max(...run.ticks.map((name) => name.length));
    const layout = themed({
      xaxis: { ...ticks, constrain: "domain", tickangle: longest > 2 ? -90 : 0 },
      yaxis: { ...ticks, autorange: "reversed", scaleanchor: "x", constrain: "domain" },
      margin: { l: 24, r: 4, t: 4, b: 24 },
    });
    place.parentNode.querySelector("figcaption").textContent = offDiagonal(z);
    return draw(place, [trace], layout);
  }

  function offDiagonal(z) {
    const values = z.flatMap((row, place) => row.slice(place + 1)).filter((value) => value !== null);
    if (!values.length) return "";
    const said = (value) => value.toFixed(3).replace("-", "−");
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const low = values.reduce((least, value) => Math.min(least, value));
    const high = values.reduce((most, value) => Math.max(most, value));
    return `off the diagonal: mean ${said(mean)}, from ${said(low)} to ${said(high)}`;
  }

  // Scenes.

  const relative = document.getElementById("relative");

  function coordinates(run, kind, frame) {
    const { scale, radius } = run.scene;
    const unit = relative.checked ? scale : scale * radius[frame];
    return columns(unpacked(run.scene[kind][frame], unit));
  }

  function reach(run) {
    const { scale, radius } = run.scene;
    run.reach ??= radius.map((_, frame) => ["features", "means", "weight"].reduce((most, kind) => (
      unpacked(run.scene[kind][frame], scale).reduce((m, v) => Math.max(m, Math.abs(v)), most)
    ), 0));
    const lengths = run.reach.map((most, frame) => most * (relative.checked ? 1 : radius[frame]));
    return 1.05 * Math.max(1e-12, ...lengths);
  }

  function points(run, [x, y, z], classes, what, marker, opacity) {
    return {
      type: "scatter3d", mode: "markers", x, y, z, opacity,
      text: classes.map((own) => `${run.names[own]}, ${what}`),
      hovertemplate: "%{text}<extra></extra>",
      marker: {
        color: classes.map((own) => colourOf(run.numbers[own])),
        line: { width: 0 },
        ...marker,
      },
    };
  }

  function rays(run, tips, classes) {
    const ends = tips.map((axis) => axis.flatMap((value) => [0, value, null]));
    const each = (value) => classes.flatMap((own) => [value(own), value(own), value(own)]);
    return {
      type: "scatter3d", mode: "lines", x: ends[0], y: ends[1], z: ends[2], connectgaps: false,
      text: each((own) => `${run.names[own]}, classifier`),
      hovertemplate: "%{text}<extra></extra>",
      line: { width: 4, color: each((own) => colourOf(run.numbers[own])) },
    };
  }

  function drawScene(place, stop) {
    const run = runs[place.dataset.scene], frame = run.at[stop];
    const classes = run.names.map((_, own) => own);
    const labels = unpacked(run.scene.labels[frame], 32767).map(Math.round);
    const symbols = run.numbers.map((number) => symbolOf(number)[0]);
    const data = [
      points(run, coordinates(run, "features", frame), labels, "feature", { size: 3 }, 0.6),
      points(run, coordinates(run, "means", frame), classes, "class mean", { size: 8, symbol: symbols }, 1),
      rays(run, coordinates(run, "weight", frame), classes),
    ];
    const most = reach(run), grid = style("--grid");
    const axis = (title) => ({
      title: { text: title, font: { size: 11 } }, range: [-most, most], showticklabels: false,
      showbackground: false, gridcolor: grid, zerolinecolor: style("--muted"), showspikes: false,
    });
    const layout = themed({
      showlegend: false,
      uirevision: "the view is the reader's",
      margin: { l: 0, r: 0, t: 0, b: 0 },
      scene: {
        xaxis: axis("direction 1"), yaxis: axis("direction 2"), zaxis: axis("direction 3"), aspectmode: "cube",
        camera: { eye: { x: 1.2, y: 1.2, z: 0.7 }, center: { x: 0, y: 0, z: -0.12 } }, uirevision: "the view is the reader's",
        dragmode: "turntable",
      },
    });
    delete layout.xaxis;
    delete layout.yaxis;
    const share = Math.round(100 * run.scene.share[frame]);
    place.closest("figure").querySelector("figcaption").textContent =
      `These three directions hold ${share} % of the between-class variance at this epoch.`;
    return draw(place, data, layout);
  }

  function nameClasses() {
    for (const place of all(".classes")) {
      const run = runs[place.dataset.run];
      run.plain.slice(0, 30).forEach((name, own) => {
        const sign = document.createElement("span"), entry = document.createElement("span");
        sign.textContent = symbolOf(run.numbers[own])[1];
        sign.style.color = colourOf(run.numbers[own]);
        entry.append(sign, ` ${name}`);
        place.append(entry);
      });
      if (run.plain.length > 30) place.append(`and ${run.plain.length - 30} more; hover for names`);
    }
  }

  // Sliders: one per section, for all its runs.

  function player(section, selector, drawOne) {
    const box = section.querySelector(".player");
    const [button, slider, output] = ["button", "input", "output"].map((tag) => box.querySelector(tag));
    let timer = null, busy = false, again = false;

    function visible(place) {
      const details = place.closest("details");
      return !details || details.open;
    }

    async function show() {
      if (busy) {
        again = true;
        return;
      }
      busy = true;
      do {
        again = false;
        const stop = Number(slider.value);
        output.textContent = `epoch ${stops[stop]}`;
        slider.setAttribute("aria-valuetext", output.textContent);
        all(".run", section).forEach((part, place) => {
          const run = runs[place];
          if (!run.missing) part.querySelector(".at").textContent = `epoch ${run.epochs[run.at[stop]]}`;
        });
        for (const place of all(selector, section).filter(visible)) await drawOne(place, stop);
        section.dataset.stop = String(stop);
      } while (again);
      busy = false;
    }

    function pause() {
      clearInterval(timer);
      timer = null;
      button.textContent = "Play";
    }

    function play() {
      if (Number(slider.value) === stops.length - 1) slider.value = 0;
      button.textContent = "Pause";
      timer = setInterval(() => {
        if (busy) return;
        slider.value = Number(slider.value) + 1;
        show();
        if (Number(slider.value) === stops.length - 1) pause();
      }, 400);
      show();
    }

    button.addEventListener("click", () => (timer === null ? play() : pause()));
    slider.addEventListener("input", () => {
      pause();
      show();
    });
    for (const details of all("details", section)) details.addEventListener("toggle", show);
    box.hidden = stops.length < 2;
    return show;
  }

  const shows = [];
  if (stops.length) {
    shows.push(player(document.getElementById("grams"), "[data-gram]", drawGram));
    shows.push(player(document.getElementById("scenes"), "[data-scene]", drawScene));
    relative.addEventListener("change", shows[1]);
    nameClasses();
  }

  async function drawAll() {
    await drawCurves();
    for (const show of shows) await show();
    root.dataset.ready = "true";
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll().catch(complain);
})();
