"use strict";
// Charts by BokehJS. They are drawn anew when theme or language changes; what they show also stands in tables.

// Okabe and Ito's colours, told apart by colour-blind people; the base is grey, what is compared with it blue.
const HUES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d00", "#7f5fc7"];
const DARK_HUES = ["#4aa8e0", "#f0864a", "#2cc295", "#e39bc4", "#f2b632", "#7fcbf5", "#cbb04a", "#a994e8"];
const DASHES = ["solid", "dashed", "dotdash", "dotted"];
let drawn = [];

function hues() { return state.theme === "dark" ? DARK_HUES : HUES; }

function ink() {
  const css = getComputedStyle(document.documentElement);
  const get = (name) => css.getPropertyValue(name).trim();
  return { text: get("--text"), soft: get("--soft"), card: get("--card"), grid: get("--line"), font: getComputedStyle(document.body).fontFamily,
    before: get("--before"), baseline: get("--baseline"), good: get("--good"), bad: get("--bad") };
}

/** The colour of a model: baselines amber, the base grey, what is compared with them blue, others by their place. */
function modelColour(name) {
  const colours = ink();
  const names = (baseline) => DATA.models.filter((model) => (model.role === "baseline") === baseline).map((model) => model.name);
  const baselines = names(true), models = names(false);
  if (baselines.includes(name)) return name === baselines[0] ? colours.baseline : hues()[3];
  if (name === (DATA.compared?.after ?? models[models.length - 1])) return hues()[0];
  if (DATA.models.some((model) => model.name === name && model.role === "base")) return colours.before;
  return hues()[[2, 5, 7, 6, 1][(models.indexOf(name) + 4) % 5]];
}

/** Text for Bokeh, which may take $$...$$ for a formula, to be set by a script from elsewhere. */
function plainLabel(text) {
  const short = [...String(text)].length > 22 ? [...String(text)].slice(0, 21).join("") + "…" : String(text);
  return short.replaceAll("$", "＄").replaceAll("\\", "＼");
}

function style(figure, colours) {
  figure.background_fill_color = null;
  figure.border_fill_color = null;
  figure.outline_line_color = null;
  for (const axis of [...figure.xaxes, ...figure.yaxes]) {
    Object.assign(axis, {
      axis_line_color: colours.grid, major_tick_line_color: null, minor_tick_line_color: null,
      major_label_text_color: colours.soft, major_label_text_font: colours.font, major_label_text_font_size: "12px",
      axis_label_text_color: colours.soft, axis_label_text_font: colours.font, axis_label_text_font_size: "12px",
      axis_label_text_font_style: "normal",
    });
  }
  for (const grid of [...figure.xgrids, ...figure.ygrids]) grid.grid_line_color = colours.grid;
}

function newFigure(options) {
  return Bokeh.Plotting.figure({
    sizing_mode: "stretch_width", toolbar_location: null, tools: "", output_backend: "svg",
    min_border_left: 4, min_border_right: 8, min_border_top: 6, min_border_bottom: 4, ...options,
  });
}

/** Put a figure into its place and remember it, to be able to take it away. */
function show(figure, place) {
  drawn.push(Bokeh.Plotting.show(figure, place).catch((error) => console.error(error)));
}

async function clearCharts() {
  const old = drawn;
  drawn = [];
  for (const promise of old) {
    const views = [await promise].flat();
    views.forEach((view) => view?.remove?.());
  }
}

// ---- bars -----------------------------------------------------------------------------------------------------------

/** Bars of every set and model, with intervals, their values, and what was gained. */
function drawBars(place, sets) {
  const colours = ink();
  const rows = { y: [], value: [], colour: [], label: [], end: [], model: [], metric: [], range: [] };
  const sure = { y: [], low: [], high: [] };
  const gains = { y: [], text: [], colour: [] };
  const names = {};
  const bar = 15;
  let y = 0;
  for (const set of sets) {
    const first = y;
    for (const one of set.bars) {
      rows.y.push(-y);
      rows.value.push(one.value);
      rows.colour.push(modelColour(one.model));
      rows.label.push(number(one.value));
      rows.model.push(plainLabel(one.model));
      rows.metric.push(metricName(set.metric));
      rows.range.push(one.low === null ? t("notMeasured") : number(one.low) + " – " + number(one.high));
      rows.end.push(Math.max(one.value ?? 0, one.high ?? 0));
      if (one.low !== null && one.high - one.low > 1e-6) { sure.y.push(-y); sure.low.push(one.low); sure.high.push(one.high); }
      y += 1;
    }
    const middle = -(first + y - 1) / 2;
    names[middle] = plainLabel(set.label + (set.canary ? " ◆" : ""));
    if (set.change) {
      gains.y.push(middle);
      gains.text.push(set.change.shown);
      gains.colour.push({ rose: colours.good, fell: colours.bad }[set.change.verdict] ?? colours.soft);
    }
    y += 1;
  }
  const least = Math.min(0, ...rows.value, ...sure.low);
  const most = Math.max(0.05, ...rows.end);
  const width = Math.max(220, place.clientWidth - 110); // what names leave to bars and to the figures behind them
  const room = ((most - least) * width) / (width - (gains.y.length ? 118 : 50));
  const figure = newFigure({
    height: 40 + y * bar, x_range: new Bokeh.Range1d({ start: least, end: least + room }),
    y_range: new Bokeh.Range1d({ start: -y + 0.4, end: 0.8 }), y_axis_type: "linear",
  });
  const source = new Bokeh.ColumnDataSource({ data: rows });
  const bars = figure.hbar({ y: { field: "y" }, left: 0, right: { field: "value" }, height: 0.82, fill_color: { field: "colour" }, line_color: null, source });
  const intervals = new Bokeh.ColumnDataSource({ data: sure });
  for (const [line_color, line_width] of [[colours.card, 4.5], [colours.text, 1.7]]) { // the lower one sets it off
    figure.segment({ y0: { field: "y" }, y1: { field: "y" }, x0: { field: "low" }, x1: { field: "high" }, line_color, line_width, line_cap: "round", source: intervals });
  }
  const text = { text_font: colours.font, text_baseline: "middle", x_offset: 6 };
  figure.text({ x: { field: "end" }, y: { field: "y" }, text: { field: "label" }, text_color: colours.soft, text_font_size: "11px", source, ...text });
  figure.text({ x: least + room, y: { field: "y" }, text: { field: "text" }, text_color: { field: "colour" }, text_font_size: "14px", text_font_style: "bold",
    source: new Bokeh.ColumnDataSource({ data: gains }), ...text, text_align: "right", x_offset: -2 });
  figure.add_tools(new Bokeh.HoverTool({ renderers: [bars], tooltips: [["", "@model"], [t("metric"), "@metric"], ["", "@label"], [t("interval"), "@range"]] }));
  style(figure, colours);
  const axis = figure.yaxes[0];
  axis.ticker = new Bokeh.FixedTicker({ ticks: Object.keys(names).map(Number) });
  axis.major_label_overrides = new Map(Object.entries(names).map(([k, v]) => [Number(k), v]));
  Object.assign(axis, { axis_line_color: null, major_label_text_color: colours.text, major_label_text_font_size: "13px" });
  figure.ygrids[0].grid_line_color = null;
  figure.xaxes[0].ticker = figure.xgrids[0].ticker = new Bokeh.FixedTicker({ ticks: niceTicks(least, most) });
  show(figure, place);
}

/** Round positions between two ends. */
function niceTicks(low, high) {
  const width = (high - low) / 5.2;
  const power = 10 ** Math.floor(Math.log10(width));
  const stride = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= width);
  const ticks = [];
  for (let n = Math.ceil(low / stride); n * stride <= high + 1e-9; n += 1) ticks.push(Number((n * stride).toPrecision(6)));
  return ticks;
}

// ---- lines ----------------------------------------------------------------------------------------------------------

/** Lines over steps, and names to click that hide and show them. */
function drawLines(place, legend, id, curves) {
  const colours = ink();
  const figure = newFigure({ height: 270 });
  const named = Object.entries(curves).filter(([, points]) => points.length);
  for (const [name, points] of named) {
    const mean = name === "mean";
    const [task, repeat] = DATA.lines[name] ?? [0, 0]; // the same in every chart
    const colour = mean ? colours.text : hues()[task % hues().length];
    const dash = mean ? "solid" : DASHES[(Math.floor(task / hues().length) + repeat) % DASHES.length];
    const source = new Bokeh.ColumnDataSource({ data: { x: points.map((p) => p[0]), y: points.map((p) => p[1]), name: points.map(() => plainLabel(name)) } });
    const line = figure.line({ x: { field: "x" }, y: { field: "y" }, line_color: colour, line_width: mean ? 3.2 : 1.8, line_dash: dash, line_join: "round", source });
    const parts = [line];
    if (points.length <= 40) parts.push(figure.scatter({ x: { field: "x" }, y: { field: "y" }, size: mean ? 7 : 5, fill_color: colour, line_color: null, source }));
    const mark = id + "/" + name;
    const apply = (button) => {
      const shown = !state.hidden.has(mark);
      parts.forEach((part) => { part.visible = shown; });
      button.setAttribute("aria-pressed", String(shown));
    };
    const button = el("button.legend", { type: "button", onclick: () => {
      if (!state.hidden.delete(mark)) state.hidden.add(mark);
      apply(button);
    } }, key(colour, mean ? t("mean") : name, "line"));
    apply(button);
    legend.append(button);
  }
  figure.add_tools(new Bokeh.HoverTool({ tooltips: [["", "@name"], [t("step"), "@x{0,0}"], ["", "@y{0.0000}"]] }));
  style(figure, colours);
  figure.xaxes[0].axis_label = t("step");
  figure.xgrids[0].grid_line_color = null;
  show(figure, place);
}

// ---- distributions --------------------------------------------------------------------------------------------------

/** Two distributions of scores and the threshold between them. */
function drawScores(place, panel) {
  const colours = ink();
  const bins = panel.positives.length;
  const width = (panel.high - panel.low) / bins;
  const edges = panel.positives.map((_, n) => panel.low + n * width);
  const top = Math.max(...panel.positives, ...panel.negatives) * 1.12;
  const margin = (panel.high - panel.low) * 0.03;
  const figure = newFigure({ height: 170, x_range: new Bokeh.Range1d({ start: panel.low - margin, end: panel.high + margin }), y_range: new Bokeh.Range1d({ start: 0, end: top }) });
  for (const [side, colour] of [["negatives", hues()[1]], ["positives", hues()[0]]]) {
    const xs = [panel.low], ys = [0];
    panel[side].forEach((share, n) => { xs.push(edges[n], edges[n] + width); ys.push(share, share); });
    xs.push(panel.high);
    ys.push(0);
    const source = new Bokeh.ColumnDataSource({ data: { x: xs, y: ys } });
    figure.patch({ x: { field: "x" }, y: { field: "y" }, fill_color: colour, fill_alpha: 0.32, line_color: colour, line_width: 1.6, line_join: "round", source });
  }
  if (panel.threshold) {
    const x = panel.threshold.value;
    figure.segment({ x0: [x], x1: [x], y0: [0], y1: [top], line_color: colours.text, line_width: 1.6, line_dash: "dashed" });
  }
  style(figure, colours);
  figure.xaxes[0].ticker = new Bokeh.FixedTicker({ ticks: niceTicks(panel.low, panel.high) });
  figure.yaxes[0].visible = false;
  figure.ygrids[0].grid_line_color = null;
  figure.xgrids[0].grid_line_color = null;
  show(figure, place);
}
