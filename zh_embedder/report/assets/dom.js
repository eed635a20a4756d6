"use strict";
// Small builders. Texts become text nodes: nothing in this page is ever parsed as HTML.

/** An element; properties are attributes, `on...` listeners, and children texts or elements. */
function el(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name || "div");
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") Object.entries(value).forEach(([k, v]) => node.style.setProperty(k, v));
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A figure of three places; what was not measured is a dash. */
function number(value, places = 3) {
  return value === null || value === undefined ? t("notMeasured") : minus(value.toFixed(places));
}

/** A text with true minus signs in front of its numbers; hyphens of flags, names and 1e-5 stay. */
function minus(text) {
  return text.replace(/(^|[\s([（，])-(?=\d)/g, "$1−");
}

/** A difference with its sign. */
function signed(value, places = 3) {
  const text = Math.abs(value).toFixed(places);
  return (Number(text) === 0 ? "±" : value > 0 ? "+" : "−") + text;
}

/** A share as per cent. */
function percent(value) {
  return value === null || value === undefined ? t("notMeasured") : (100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0) + " %";
}

/** A score of a model: those of words are larger than a cosine. */
function scoreText(value) {
  return number(value, Math.abs(value) >= 10 ? 1 : 3);
}

/** A coloured mark and a name. */
function key(colour, name, shape = "square") {
  return el("span.key", {}, el("i." + shape, { style: { "--mark": colour }, "aria-hidden": "true" }), name);
}

/** A section with a heading and, where there is one, a note below it. */
function section(id, title, note, ...children) {
  return el("section.card", { id, "aria-labelledby": id + "-title" },
    el("h2", { id: id + "-title" }, title), note && el("p.note", {}, note), ...children);
}

/** A table; the first cell of a row is its heading. Cells are texts or elements. */
function table(heads, rows, properties = {}) {
  return el("div.scroll", { tabindex: "0", role: "group", "aria-label": properties.label },
    el("table", {},
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, n) =>
        n === 0 ? el("th", { scope: "row" }, cell) : el("td", {}, cell)))))));
}
