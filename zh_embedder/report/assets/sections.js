"use strict";
// The sections of the page but the queries: each function returns an element, charts are drawn once it stands in the page.

/** Name and colour of each model. */
function modelKeys() {
  return el("p.keys", {}, DATA.models.map((model) => key(modelColour(model.name), model.name)),
    DATA.sets.some((set) => set.canary) && el("span.key", {}, "◆ " + t("canary")));
}

function header() {
  const pick = (name, current, options) => el("div.switch", { role: "group", "aria-label": t(name) },
    options.map(([value, label]) => el("button", { type: "button", "data-value": value, "aria-pressed": String(current === value),
      onclick: () => choose(name, value) }, label)));
  return el("header", {},
    el("div.wrap.bar", {},
      el("span.brand", {}, el("b", {}, "zh_embedder"), " ", t("report")),
      el("nav", { "aria-label": t("report") }, ["tasks", "training", "thresholds", "errors", "metrics"].filter(present).map((id) =>
        el("a", { href: "#" + id }, t(id)))),
      el("div.switches", {},
        pick("language", state.language, [["en", "EN"], ["zh", "中文"]]),
        pick("theme", state.theme, [["light", t("light")], ["dark", t("dark")]]))));
}

/** Whether a section has anything to show. */
function present(id) {
  if (id === "training") return Object.values(DATA.curves).some((p) => p.length) || Object.values(DATA.losses).some((p) => p.length);
  if (id === "thresholds") return DATA.scores.length > 0;
  if (id === "errors") return DATA.errors.length > 0;
  return DATA.sets.length > 0;
}

function verdict() {
  const found = DATA.verdict;
  const counts = {};
  DATA.sets.filter((set) => set.change && !set.canary).forEach((set) => { counts[set.change.verdict] = (counts[set.change.verdict] ?? 0) + 1; });
  const icons = { rose: "▲", fell: "▼", noise: "≈", unknown: "?" };
  return el("section.verdict." + found.tone, { id: "verdict", "aria-label": t("verdict") },
    el("div.wrap", {},
      el("p.eyebrow", {}, DATA.title),
      el("h1", {}, inLanguage(found)),
      el("div.facts", {},
        found.after !== null && el("div.fact.wide", {}, el("small", {}, t("mean")),
          el("strong", {}, found.before === null ? number(found.after)
            : againstBaseline() ? [number(found.after), el("span.arrow", {}, " " + t("versus") + " "), number(found.before)]
            : [number(found.before), el("span.arrow", { "aria-hidden": "true" }, " → "), number(found.after)]),
          found.before !== null && el("em", {}, found.difference)),
        Object.keys(icons).filter((name) => counts[name]).map((name) =>
          el("div.fact." + name, {}, el("small", {}, changeWord(name)), el("strong", {}, el("span.icon", { "aria-hidden": "true" }, icons[name]), String(counts[name])))),
        DATA.sets.filter((set) => set.canary && set.change).map((set) =>
          el("div.fact." + set.change.verdict, {}, el("small", {}, t("canary") + " · " + set.label),
            el("strong", {}, el("span.icon", { "aria-hidden": "true" }, icons[set.change.verdict]), set.change.shown)))),
      leftOutOfSets(),
      found.conditions.length > 0 && el("div.checks.conditions", {}, el("h2", {}, t("conditions")),
        el("ul", {}, found.conditions.map((words) => el("li", {}, inLanguage(words))))),
      DATA.cut.length > 0 && el("div.checks.conditions.cut-texts", {}, el("h2", {}, t("cutTexts")),
        el("ul", {}, DATA.cut.map((words) => el("li", {}, inLanguage(words))))),
      found.falls.length > 0 && el("ul.falls", {}, found.falls.map((words) => el("li", {}, inLanguage(words)))),
      found.checks.length > 0 && el("div.checks", {}, el("h2", {}, t("checks")),
        el("ul", {}, found.checks.map((words) => el("li", {}, inLanguage(words)))))));
}

/** A text that the page's data brings in both languages. */
function inLanguage(words) { return minus(state.language === "zh" ? words.chinese : words.english); }

/** What sets leave out, set by set: figures do not rest on it. */
function leftOutOfSets() {
  const colon = state.language === "zh" ? "：" : ": ";
  const lines = DATA.sets.flatMap((set) => set.left_out.map((found) => el("li", { "data-kind": found.kind }, set.label + colon + inLanguage(found))));
  return lines.length > 0 && el("div.checks.conditions.left-out", {}, el("h2", {}, t("leftOut")), el("ul", {}, lines));
}

/** Whether a model is compared with a baseline: nothing rose or fell then. */
function againstBaseline() { return DATA.compared?.against === "baseline"; }

/** The word for how a set moved, or for where a model lies from a baseline. */
function changeWord(name) {
  return t(againstBaseline() ? { rose: "above", fell: "below", noise: "level" }[name] ?? name : name);
}

function tasks(later) {
  const place = el("div.chart", { role: "img", "aria-label": t("tasks") });
  const found = DATA.compared;
  const note = found ? t(againstBaseline() ? "tasksNoteBaseline" : "tasksNote", found.before, found.after) : t("tasksNoteOne");
  later.push(() => drawBars(place, DATA.sets.filter((set) => set.bars.length)));
  return section("tasks", t("tasks"), note, modelKeys(), place);
}

function training(later) {
  if (!present("training")) return null;
  const panels = [["metricOverSteps", DATA.curves], ["lossPerTask", DATA.losses]]
    .filter(([, curves]) => Object.values(curves).some((points) => points.length))
    .map(([title, curves]) => {
      const place = el("div.chart", { role: "img", "aria-label": t(title) });
      const legend = el("div.keys", {});
      later.push(() => drawLines(place, legend, title, curves));
      return el("div.panel", {}, el("h3", {}, t(title)), legend, place);
    });
  return section("training", t("training"), t("curveHint"), el("div.columns.level", {}, panels));
}

function thresholds(later) {
  if (!present("thresholds")) return null;
  const cards = DATA.scores.map((one) => {
    const pairs = one.kind === "similarity" || one.kind === "pair_classification";
    const panels = one.panels.map((panel) => {
      const place = el("div.chart", { role: "img", "aria-label": one.label + ", " + panel.model + ": " + t("threshold") + " " + number(panel.threshold?.value) });
      later.push(() => drawScores(place, panel));
      const found = panel.threshold;
      return el("div", {},
        el("p.model", { title: panel.model }, key(modelColour(panel.model), panel.model)),
        place,
        found && el("p.cut", {}, el("span.big", {}, el("small", {}, t("threshold")), scoreText(found.value)),
          el("span.figures", {}, "F1 ", el("b", {}, number(found.f1, 2)), " · " + t("precision") + " " + number(found.precision, 2) + " · " + t("recall") + " " + number(found.recall, 2)),
          inseparable(panel) && el("span.hint", {}, t("inseparable"))));
    });
    return el("article.panel", {}, el("h3", {}, one.label),
      el("p.keys", {}, key(hues()[0], t(pairs ? "highPairs" : "positives")), key(hues()[1], t(pairs ? "lowPairs" : "negatives"))),
      one.kind === "similarity" && el("p.note", {}, t("gradedNote")),
      el("div.pair", {}, panels));
  });
  return section("thresholds", t("thresholds"), t("thresholdsNote"), el("div.columns", {}, cards));
}

/** Whether the best threshold hardly beats taking everything. */
function inseparable(panel) {
  const [positives, negatives] = panel.counts;
  return panel.threshold.f1 < (2 * positives) / (2 * positives + negatives) + 0.05;
}

// ---- tables ---------------------------------------------------------------------------------------------------------

function metrics() {
  const models = DATA.models.map((model) => model.name);
  const rows = DATA.sets.flatMap((set) => Object.entries(set.metrics).map(([name, values], n) => {
    const best = name.includes("threshold") ? null : Math.max(...Object.values(values).filter((value) => value !== null));
    const cells = models.map((model) => {
      const value = values[model];
      const text = number(value);
      return value !== null && value === best && models.length > 1 ? el("b", {}, text) : text;
    });
    return [n === 0 ? el("span", { title: set.name }, set.label) : el("span.again", {}, set.label), metricName(name), ...cells,
      set.gains[name] ? gain(set.gains[name]) : ""];
  }));
  const found = DATA.compared;
  return section("metrics", t("metrics"), found && t("metricsNote", found.before, found.after),
    table([t("set"), t("metric"), ...models, "Δ"], rows, { label: t("metrics") }),
    about());
}

/** A difference with its interval, coloured where it is sure. */
function gain(change) {
  const ends = change.difference ? " [" + signed(change.difference.low) + ", " + signed(change.difference.high) + "]" : "";
  return el("span." + change.verdict, { title: changeWord(change.verdict) }, change.shown + ends);
}

/** What each set is, and how much of it models do not read. */
function about() {
  const models = DATA.models.map((model) => model.name).filter((name) => DATA.sets.some((set) => set.truncated[name]));
  const rows = DATA.sets.map((set) => [el("span", { title: set.name }, set.label), set.name, t(set.kind),
    Object.entries(set.size).map(([what, count]) => count.toLocaleString("en") + " " + t(what)).join(" · "),
    ...models.map((model) => set.truncated[model] ? el("span.shares", {}, set.truncated[model].map(meter)) : t("notMeasured"))]);
  return el("div", {}, el("h3", {}, t("sets")), models.length > 0 && el("p.note", {}, t("truncatedNote")),
    table([t("set"), t("data"), t("kind"), t("size"), ...models.map((model) => t("truncated", model))], rows, { label: t("sets") }));
}

function meter(share) {
  return el("span.meter" + (share >= 0.1 ? ".much" : ""), {}, el("i", { style: { "--share": 100 * share + "%" }, "aria-hidden": "true" }), percent(share));
}

function details() {
  const part = (title, values) => Object.keys(values).length > 0 && el("div", {}, el("h3", {}, title), tree(values));
  return el("section.card", { id: "details" }, el("details", {},
    el("summary", {}, el("h2", {}, t("details"))),
    el("div.columns", {}, part(t("settings"), DATA.settings), part(t("manifest"), DATA.manifest))));
}

/** Names and values, values within values too. */
function tree(values) {
  return el("dl", {}, Object.entries(values).map(([name, value]) => [el("dt", {}, name),
    el("dd", {}, value !== null && typeof value === "object" && !Array.isArray(value) ? tree(value)
      : el("code", {}, Array.isArray(value) ? value.map((one) => typeof one === "object" ? JSON.stringify(one) : String(one)).join(" ") : String(value)))]));
}
