"use strict";
// Query by query: what was won and lost, and what each model put on top.

const CLASSES = ["lost", "won", "failing"];
const CLASS_ICONS = { won: "▲", lost: "▼", failing: "●" };

function errors() {
  if (!present("errors")) return null;
  const body = el("div.browser", {});
  fillErrors(body);
  const metrics = [...new Set(DATA.errors.map((one) => metricName(one.metric)))].join(", ");
  const found = DATA.compared;
  return section("errors", t("errors"), found ? t("errorsNote", metrics, found.before, found.after) : t("errorsNoteOne", metrics), body);
}

/** The class shown: the chosen one, or the first that has queries. */
function currentClass(one) {
  if (state.klass && one.totals[state.klass] !== undefined) return state.klass;
  return CLASSES.find((name) => one.totals[name]) ?? "lost";
}

function fillErrors(body) {
  const one = DATA.errors[Math.min(state.set, DATA.errors.length - 1)];
  const klass = currentClass(one);
  const list = el("ol.queries", {});
  const count = el("p.note", { role: "status" });
  const refresh = () => fillQueries(list, count, one, klass);
  body.replaceChildren(
    el("div.controls", {},
      DATA.errors.length > 1 && el("label.field", {}, t("set"),
        el("select", { id: "set", onchange: (event) => { state.set = Number(event.target.value); state.klass = null; fillErrors(body); } },
          DATA.errors.map((other, n) => el("option", { value: n, selected: n === state.set }, other.label)))),
      el("div.switch.classes", { role: "group", "aria-label": t("errors") }, CLASSES.map((name) =>
        el("button." + name, { type: "button", "data-class": name, "aria-pressed": String(name === klass),
          onclick: () => { state.klass = name; fillErrors(body); body.querySelector(`[data-class=${name}]`).focus(); } },
          el("span", { "aria-hidden": "true" }, CLASS_ICONS[name]), t(name), el("b", {}, String(one.totals[name]))))),
      el("input", { type: "search", id: "search", placeholder: t("search"), "aria-label": t("search"), value: state.words,
        oninput: (event) => { state.words = event.target.value; refresh(); } }),
      el("label.check", {}, el("input", { type: "checkbox", id: "suspects", checked: state.suspects,
        onchange: (event) => { state.suspects = event.target.checked; refresh(); } }), t("suspectsOnly"))),
    count, list, el("p.note.left", {}, leftOut(one)));
  refresh();
}

/** What is not in the page. */
function leftOut(one) {
  const parts = [];
  if (CLASSES.some((name) => one.totals[name] > one.classes[name].length)) parts.push(t("boundNote", DATA.bounds.queries));
  if (one.unchanged) parts.push(t("unchangedNote", one.unchanged));
  if (one.cut) parts.push(t("cutNote", one.cut, DATA.bounds.characters));
  parts.push(t("failNote", metricName(one.metric)));
  return parts.join(" ");
}

function suspicious(query) {
  return query.top.some((keys) => keys.some((found) => found.suspect));
}

/** Everything of a query that can be searched, in lower case. */
function searchable(one, query) {
  const keys = [...query.positives.map((found) => found.key), ...query.top.flat().map((found) => found.key)];
  return [query.id, query.text, ...keys.map((name) => one.texts[name] ?? "")].join("\n").toLowerCase();
}

function fillQueries(list, count, one, klass) {
  const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
  const found = one.classes[klass].filter((query) => {
    if (state.suspects && !suspicious(query)) return false;
    const text = words.length ? searchable(one, query) : "";
    return words.every((word) => text.includes(word));
  });
  count.textContent = t("shownOf", found.length, one.totals[klass]);
  list.replaceChildren(...found.map((query) => queryItem(one, query, klass)));
  if (!found.length) list.append(el("li.none", {}, t("noQueries")));
}

function queryItem(one, query, klass) {
  const mark = one.name + "\n" + query.id;
  const panel = el("div.query-panel", { hidden: true });
  const values = query.values.map((value) => number(value, 2)).join(" → ");
  const button = el("button.query", { type: "button", "aria-expanded": "false", onclick: () => toggle(panel.hidden) },
    el("span.chevron", { "aria-hidden": "true" }), el("span.text", {}, query.text || "—"),
    suspicious(query) && el("span.flag", { title: t("suspect") }, "⚑"),
    el("span.values." + klass, {}, values));
  const toggle = (open) => {
    if (open && !panel.childElementCount) panel.append(...queryPanel(one, query));
    panel.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    state.open[open ? "add" : "delete"](mark);
  };
  if (state.open.has(mark)) toggle(true);
  return el("li", { "data-query": query.id }, button, panel);
}

function queryPanel(one, query) {
  const positives = query.positives.map((found) => el("li.positive", {},
    el("p.key-text", {}, one.texts[found.key] || "—"),
    el("p.places", {}, found.places.map((place, n) => el("span", {}, key(modelColour(one.models[n]), place
      ? t("retrieved", place[1]) + " · " + scoreText(place[0]) : t("missing")))), el("code", {}, found.key))));
  const columns = query.top.map((keys, n) => el("div.top", {},
    el("h4", {}, key(modelColour(one.models[n]), t("topOf", keys.length) + " " + one.models[n])),
    el("ol.ranked", {}, keys.map((found) => el("li" + (found.relevant ? ".relevant" : found.suspect ? ".suspect" : ""), {},
      el("span.score", {}, scoreText(found.score)),
      el("div", {}, el("p.key-text", {}, one.texts[found.key] || "—"),
        el("p.places", {}, found.relevant && el("span.tag.good", {}, "✓ " + t("relevant")),
          found.suspect && el("span.tag.warn", {}, "⚑ " + t("suspect") + ": " + t(found.suspect)), el("code", {}, found.key))))))));
  return [
    el("h4", {}, t("positivesOf")), el("ul.positives", {}, positives),
    query.more > 0 && el("p.note", {}, t("morePositives", query.more)),
    el("div.columns", {}, columns),
  ].filter(Boolean);
}
