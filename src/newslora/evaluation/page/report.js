"use strict";
(() => {
  const STEP = 25; // rows of the table shown at a time
  const PAPER_WIDTH = 320; // of a chart in print, in CSS pixels: half of an A4 page's text width
  const find = (id) => document.getElementById(id);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const formats = {
    percent: (value) => `${(100 * value).toFixed(1).replace(/\.0$/, "")}%`,
    number: (value) => value.toFixed(3),
    count: (value) => value.toLocaleString("en"),
  };
  const show = (axis, value) => (value == null ? "–" : (formats[axis.format] || String)(value));

  // Charts: every series has places of its own; uPlot joins them, and the cursor reads each series' nearest value.
  const nearest = (plot, series, index, place) => {
    const values = plot.data[series], places = plot.data[0];
    if (values[index] != null) return index;
    let best = null;
    for (let i = 0; i < values.length; i++)
      if (values[i] != null && (best == null || Math.abs(places[i] - place) < Math.abs(places[best] - place))) best = i;
    return best == null ? index : best;
  };
  const lines = {
    faint: { width: 1, alpha: 0.55, points: { show: false } },
    line: { width: 2, points: { show: false } },
    marked: { width: 2, points: { show: true, size: 7 } },
    dashed: { width: 2, dash: [7, 4], points: { show: true, size: 7 } },
    rule: { width: 1.5, dash: [3, 4], points: { show: false } },
    points: { paths: () => null, points: { show: true, size: 8 } },
    bars: { paths: uPlot.paths.bars({ size: [0.92, 64] }), points: { show: false } },
  };
  const series = (chart, one) => {
    const stroke = colour(one.colour), line = lines[one.style];
    const filled = one.style === "bars" ? { fill: `color-mix(in srgb, ${stroke} 45%, transparent)`, width: 1 } : {};
    const points = { ...line.points, fill: stroke, stroke };
    return { label: one.label, stroke, spanGaps: true, value: (_, value) => (one.style === "rule" ? "" : show(chart.y, value)), ...line, ...filled, points };
  };
  const axis = (about, extra) => ({
    label: about.label, labelSize: 24, labelFont: "12px system-ui, sans-serif", font: "12px system-ui, sans-serif",
    stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1, size: 4 },
    values: (_, values) => values.map((value) => show(about.format === "number" ? {} : about, value)), ...extra,
  });
  const range = (about) => (_, low, high) => {
    if (about.low != null && about.high != null) return [about.low, about.high];
    const room = 0.06 * (high - low || Math.abs(high) || 1);
    return [about.low ?? low - room, about.high ?? high + room];
  };
  const draw = (chart, width) => {
    const element = find(chart.name), low = element.classList.contains("low");
    const whole = chart.x.ticks === "whole" ? { incrs: [1, 2, 5, 10, 20, 50, 100] } : {};
    const options = {
      width: width || element.clientWidth, height: low ? 150 : 290,
      scales: { x: { time: false, range: range(chart.x) }, y: { range: range(chart.y) } },
      axes: [axis(chart.x, { size: 38, ...whole }), axis(chart.y, { size: 54 })],
      series: [{ label: chart.x.short, value: (_, value) => (value == null ? "–" : chart.x.format ? show(chart.x, value) : +value.toFixed(2)) }, ...chart.series.map((one) => series(chart, one))],
      legend: { markers: { width: 1, fill: (plot, at) => colour(at ? chart.series[at - 1].colour : "soft") } },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 9 },
        dataIdx: (plot, at, index, place) => (at ? nearest(plot, at, index, place) : index) },
    };
    const tables = chart.series.map((one) => [one.x, one.y]);
    const plot = new uPlot(options, uPlot.join(tables), element);
    plot.root.querySelector("canvas").setAttribute("role", "img");
    plot.root.querySelector("canvas").setAttribute("aria-label", chart.summary);
    return plot;
  };
  const specs = JSON.parse(find("charts").textContent);
  let plots = [];
  const drawAll = (width) => {
    plots.forEach((plot) => plot.destroy());
    plots = specs.map((chart) => draw(chart, width));
  };
  const step = (plot, by) => {
    const last = plot.data[0].length - 1, now = plot.cursor.idx ?? (by > 0 ? -1 : last + 1);
    const next = Math.min(last, Math.max(0, now + by));
    plot.setCursor({ left: plot.valToPos(plot.data[0][next], "x"), top: 0 });
  };
  specs.forEach((chart, index) =>
    find(chart.name).addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      step(plots[index], by);
    }));
  drawAll();
  new ResizeObserver(() => plots.forEach((plot, index) => {
    const width = find(specs[index].name).clientWidth;
    if (width && width !== plot.width && !document.documentElement.dataset.paper) plot.setSize({ width, height: plot.height });
  })).observe(find("main"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());
  addEventListener("beforeprint", () => { document.documentElement.dataset.paper = "1"; drawAll(PAPER_WIDTH); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.paper; drawAll(); });

  // The confusion matrix's cells, read aloud by their labels, are written out below for who points at them.
  const matrix = find("confusion"), table = find("rows"), form = find("controls");
  if (matrix) {
    const tell = (event) => { const cell = event.target.closest("[data-tip]"); if (cell) find("readout").textContent = `${cell.dataset.tip}.`; };
    matrix.addEventListener("mouseover", tell);
    matrix.addEventListener("focusin", tell);
  }
  if (!table) return;

  // The table of articles.
  const body = table.tBodies[0], rows = [...body.rows], words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const views = { hardest: "loss", suspicious: "lead" };
  let key = "loss", falling = true, most = STEP;
  const view = () => form.elements.view.value;
  const texts = new Set(["label", "predicted"]);
  const compare = (a, b) => {
    const [x, y] = [a.dataset[key], b.dataset[key]];
    return (texts.has(key) ? x.localeCompare(y) : x - y) * (falling ? -1 : 1);
  };
  const matches = (row) =>
    words.get(row).includes(find("search").value.trim().toLowerCase()) &&
    ["label", "predicted"].every((name) => !find(name).value || find(name).value === row.dataset[name]) &&
    (view() === "hardest" || row.dataset.lead > 0);
  const refresh = () => {
    const chosen = rows.filter(matches).sort(compare), shown = chosen.slice(0, most);
    rows.forEach((row) => { row.hidden = true; });
    shown.forEach((row) => { row.hidden = false; });
    body.append(...chosen);
    find("status").textContent = `${shown.length} of ${chosen.length} articles shown`;
    find("more").hidden = shown.length === chosen.length;
    table.tHead.querySelectorAll("[data-key]").forEach((head) => {
      if (head.dataset.key === key) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  };
  const restart = () => { most = STEP; refresh(); };
  const order = () => { key = views[view()]; falling = true; restart(); };
  table.tHead.querySelectorAll("[data-key]").forEach((head) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      falling = key === head.dataset.key ? !falling : !texts.has(head.dataset.key);
      key = head.dataset.key;
      restart();
    });
  });
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => (event.target.name === "view" ? order() : restart()));
  find("clear").addEventListener("click", () => { form.reset(); order(); });
  find("more").addEventListener("click", () => { most += STEP; refresh(); });
  if (matrix) matrix.addEventListener("click", (event) => {
    const cell = event.target.closest("button");
    if (!cell) return;
    form.reset();
    find("label").value = cell.dataset.label;
    find("predicted").value = cell.dataset.predicted;
    order();
    find("articles").scrollIntoView();
    find("search").focus({ preventScroll: true });
  });
  refresh();
})();
