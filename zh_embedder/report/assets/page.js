"use strict";
// Puts the page together, and anew when language or theme change.

const DATA = JSON.parse(document.getElementById("report-data").textContent);

/** What was chosen on an earlier visit; pages from files may have no storage. */
function remembered(name) {
  try { return localStorage.getItem("zh_embedder." + name); } catch { return null; }
}

function remember(name, value) {
  try { localStorage.setItem("zh_embedder." + name, value); } catch { /* it is only a convenience */ }
}

function choose(name, value) {
  state[name] = value;
  remember(name, value);
  const y = window.scrollY;
  render();
  window.scrollTo(0, y);
  document.querySelector(`.switch [data-value=${value}]`)?.focus({ preventScroll: true });
}

function render() {
  document.documentElement.lang = state.language === "zh" ? "zh-CN" : "en";
  document.documentElement.dataset.theme = state.theme;
  clearCharts();
  const later = [];
  const parts = [tasks(later), training(later), thresholds(later), errors(), metrics(), details()];
  document.getElementById("page").replaceChildren(
    el("a.skip", { href: "#verdict" }, t("skip")), header(), verdict(),
    el("main.wrap", {}, ...parts.filter(Boolean)),
    el("footer.wrap", {}, t("made")));
  later.forEach((draw) => draw());
}

function start() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  state.language = remembered("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
  state.theme = remembered("theme") ?? (dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => { if (!remembered("theme")) { state.theme = dark.matches ? "dark" : "light"; render(); } });
  window.addEventListener("beforeprint", () => { document.querySelectorAll("details").forEach((one) => { one.open = true; }); });
  Bokeh.logger.set_level("warn");
  render();
}

start();
