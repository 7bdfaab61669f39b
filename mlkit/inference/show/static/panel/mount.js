// Panels on a page: a shadow root each, so that neither styles nor names meet, following the theme around them.

import { STYLES } from "./library.js";
import { h } from "./dom.js";
import { MLInsights } from "./insights.js";
import { PatternConfidence } from "./patterns.js";
import { AIPredictionPanel } from "./prediction.js";
import { Feed } from "./source.js";

const VIEWS = { AIPredictionPanel, PatternConfidence, MLInsights };
let sheet;

// "light" or "dark" as JupyterLab, VS Code or else the browser says.
export function themeOf(body = document.body) {
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false" ? "dark" : "light";
  if (body.classList.contains("vscode-light")) return "light";
  if (body.classList.contains("vscode-dark")) return "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function follow(changed) {
  const seen = new MutationObserver(changed);
  seen.observe(document.body, { attributes: true, attributeFilter: ["class", "data-jp-theme-light"] });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", changed);
  return () => {
    seen.disconnect();
    scheme.removeEventListener("change", changed);
  };
}

// Put views into an element. `options`: what a Feed takes, `theme` ("light", "dark", else as around it).
// Returns {feed, root, destroy()}.
function mount(host, names, options = {}) {
  if (!sheet) {
    sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLES);
  }
  const shadow = host.shadowRoot ?? host.attachShadow({ mode: "open" });
  shadow.adoptedStyleSheets = [sheet];
  const feed = new Feed({ ...options, changed: (state) => views.forEach((view) => view.update(state)) });
  const views = names.map((name) => new VIEWS[name]({ refresh: () => feed.refresh() }));
  const side = names.length > 1 ? [h("div", { class: "side" }, views.slice(1).map((view) => view.element))] : [];
  const grid = h("div", { class: "grid" }, views[0].element, side);
  const root = h("div", { class: "mlkit-card panel", lang: "en" }, grid);
  const paint = () => {
    root.dataset.theme = options.theme ?? themeOf();
    views.forEach((view) => view.paint?.());
  };
  shadow.replaceChildren(root);
  paint();
  const unfollow = follow(paint);
  const watched = () => feed.look("tab", !document.hidden);
  document.addEventListener("visibilitychange", watched);
  const near = new IntersectionObserver((entries) => feed.look("view", entries.at(-1).isIntersecting), { rootMargin: "200px" });
  near.observe(host);
  watched();
  feed.start();
  const destroy = () => {
    feed.end();
    near.disconnect();
    unfollow();
    document.removeEventListener("visibilitychange", watched);
    views.forEach((view) => view.destroy?.());
    shadow.replaceChildren();
  };
  return { feed, root, destroy };
}

export const mountAIPredictionPanel = (host, options) => mount(host, ["AIPredictionPanel"], options);
export const mountPatternConfidence = (host, options) => mount(host, ["PatternConfidence"], options);
export const mountMLInsights = (host, options) => mount(host, ["MLInsights"], options);
export const mountPanel = (host, options) => mount(host, Object.keys(VIEWS), options);
