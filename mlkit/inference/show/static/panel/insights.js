// MLInsights: which models answered, what they were trained on, and what was measured out of sample.

import { h, part, svg } from "./dom.js";
import { bars, moment, percent } from "./format.js";
import { badge, column, empty, heading, verdictBadge } from "./prediction.js";

const UNTRAINED = "Models not trained yet";

export class MLInsights {
  constructor() {
    this.body = h("div");
    this.element = h("section", { class: "models", "aria-label": "Models" }, this.body);
    this.draw = part(this.body, drawModels);
  }

  update({ insight, market }) {
    this.element.hidden = !insight;
    if (insight) this.draw(insight.model_status, insight.bundle, insight.freshness, insight.reasons, market);
  }
}

function drawModels(status, bundle, freshness, reasons, market) {
  const metrics = Object.entries(market?.metrics ?? {}).sort(([a], [b]) => a - b).filter(([, m]) => m && typeof m === "object");
  const fact = (label, ...values) => [h("dt", null, label), h("dd", null, values)];
  const loaded = (name, ready, why) =>
    fact(name, h("span", { class: ready ? "up" : "soft" }, ready ? "● loaded" : "○ not loaded"), ready || !why ? null : h("div", { class: "soft" }, why));
  const rows = [
    loaded("Pattern CNN", status.pattern_cnn_loaded, status.reasons.pattern_cnn),
    loaded("Price ensemble", status.price_predictor_loaded, status.reasons.price_predictor ?? reasons.price_predictions),
  ];
  const digest = market?.bundle ?? bundle;
  if (digest) rows.push(fact("Bundle", h("code", null, digest)));
  if (market?.trained_from) {
    const count = market.training_bars.toLocaleString("en-US");
    rows.push(fact("Trained on", `${market.trained_from.slice(0, 10)} to ${market.trained_until.slice(0, 10)}`, h("div", { class: "soft" }, `${count} bars`)));
  } else if (freshness.trained_until) rows.push(fact("Trained until", moment(freshness.trained_until)));
  if (market?.created) rows.push(fact("Last update", `${moment(market.created)} UTC`));
  const drift = market?.drift ?? status.drift;
  rows.push(fact("Drift", driftBadge(drift), freshness.model_stale ? badge("model is stale", "down") : null, ...driftWords(drift)));
  return [
    heading("Models"),
    status.price_predictor_loaded ? null : h("div", { class: "note" }, market?.reason ?? UNTRAINED),
    h("dl", null, rows.flat()),
    metrics.length ? [measured(metrics), h("figure", null, calibration(metrics), h("figcaption", { class: "soft" }, "How often the 80% and 90% intervals held out of sample; on the line they keep their word."))] : null,
    !metrics.length && market?.bundle ? empty("nothing was measured out of sample") : null,
  ].flat();
}

function driftBadge(drift) {
  if (!drift) return badge("not monitored");
  return badge(drift.verdict, drift.verdict === "drift" ? "down" : drift.verdict === "no drift" ? "up" : "");
}

// When it was checked, and what drifted.
function driftWords(drift) {
  if (!drift) return [];
  const why = drift.verdict === "no drift" ? [] : drift.reasons;
  return [`checked ${moment(drift.checked)} UTC`, ...why].map((text) => h("div", { class: "soft" }, text));
}

function measured(metrics) {
  const share = (value) => (typeof value === "number" ? percent(value) : "–");
  const row = ([horizon, m]) =>
    h("tr", null,
      h("th", { scope: "row" }, bars(horizon)),
      h("td", { class: "number" }, typeof m.r2 === "number" ? m.r2.toFixed(4) : "–"),
      h("td", { class: "number" }, share(m.hit_rate), h("span", { class: "soft" }, ` / ${share(m.hit_rate_naive)}`)),
      h("td", { class: "number" }, share(m.coverage_90)),
      h("td", { class: "number", title: m.reason ?? null }, verdictBadge(m.verdict)));
  const header = h("tr", null, column("Out of sample"), column("R²", "number"), column("Hit rate / naive", "number"), column("90% held", "number"), column("Verdict", "number"));
  return h("table", { class: "measured" }, h("thead", null, header), h("tbody", null, metrics.map(row)));
}

// Nominal against observed coverage, 70 to 100 %.
function calibration(metrics) {
  const at = (share) => ((Math.min(Math.max(share, 0.7), 1) - 0.7) * 100) / 0.3;
  const points = metrics.flatMap(([horizon, m]) => [[0.8, m.coverage_80], [0.9, m.coverage_90]]
    .filter(([, held]) => typeof held === "number").map(([nominal, held]) => ({ horizon, nominal, held })));
  const words = points.map(({ horizon, nominal, held }) => `${percent(nominal)} at ${bars(horizon)}: ${percent(held)}`);
  const dot = ({ horizon, nominal, held }) =>
    svg("circle", { cx: at(nominal), cy: 100 - at(held), r: 3.5, class: "dot" }, svg("title", null, `${bars(horizon)}: ${percent(held)}`));
  const label = (x, y, text, anchor) => svg("text", { x, y, "text-anchor": anchor }, text);
  return svg("svg", { viewBox: "-30 -8 140 128", class: "thumb", role: "img", "aria-label": `Coverage of the intervals. ${words.join(", ")}` },
    svg("rect", { x: 0, y: 0, width: 100, height: 100, class: "plotarea" }),
    svg("line", { x1: 0, y1: 100, x2: 100, y2: 0, class: "ideal" }),
    label(33, 114, "80%", "middle"), label(67, 114, "90%", "middle"),
    label(-5, 70, "80%", "end"), label(-5, 37, "90%", "end"),
    points.map(dot));
}

