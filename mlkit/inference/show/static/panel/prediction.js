// AIPredictionPanel: what the models say about the newest bar, drawn, in numbers, and in reasons.

import { CandleChart } from "./chart.js";
import { h, part, say } from "./dom.js";
import { age, bars, change, clock, glyph, moment, percent, places, price, prices, title, tone } from "./format.js";

// Keys of a forecast that are no learner of the ensemble.
const FIELDS = ["prediction", "confidence", "std", "interval", "interval_80", "p_up", "log_return", "verdict", "reason"];
const TITLES = { xgboost: "XGBoost", lightgbm: "LightGBM" };
const FEW = 5; // signals shown before the rest folds away

export class AIPredictionPanel {
  constructor(actions) {
    this.name = h("h2", { class: "symbol" });
    this.price = h("div", { class: "price" });
    this.when = h("div", { class: "soft when" });
    this.notes = h("div", { role: "status", class: "notes" });
    this.facts = h("div", { class: "facts" });
    this.tiles = h("div", { class: "tiles" });
    this.leading = h("div");
    this.rest = h("div");
    this.summary = h("summary");
    this.more = h("details", { class: "more" }, this.summary, this.rest);
    this.updated = h("span", { class: "soft updated" });
    this.button = h("button", { type: "button", onclick: () => actions.refresh() }, "Refresh");
    this.chart = new CandleChart();
    this.forecasts = h("div", { class: "title" });
    this.body = h(
      "div", null,
      this.facts, this.chart.element, this.forecasts, this.tiles,
      heading("Signals", "the first one leads"), this.leading, this.more,
    );
    const refresh = h("div", { class: "refresh" }, this.updated, this.button);
    const top = h("div", { class: "top" }, this.name, this.price, this.when, refresh);
    this.element = h("section", { class: "prediction", "aria-label": "Prediction" }, top, this.notes, this.body);
    this.drawName = part(this.name, (symbol, timeframe) => [`${symbol || "mlkit"} `, timeframe && h("span", { class: "chip" }, timeframe)]);
    this.drawNotes = part(this.notes, (lines) => lines.map(([kind, text]) => h("div", { class: `note ${kind}` }, text)));
    this.drawFacts = part(this.facts, drawFacts);
    this.drawTiles = part(this.tiles, drawTiles);
    this.drawTitle = part(this.forecasts, (aside) => [h("h3", null, "Price forecast"), h("span", { class: "soft" }, aside)]);
    this.drawLeading = part(this.leading, (signals, why) => (signals.length ? signals.map(signalRow) : empty(why)));
    this.drawRest = part(this.rest, (signals) => signals.map(signalRow));
  }

  update(state) {
    const { insight } = state;
    this.element.setAttribute("aria-busy", String(state.refreshing));
    this.button.hidden = !state.live;
    this.button.disabled = state.refreshing;
    say(this.button, state.refreshing ? "Refreshing…" : "Refresh");
    say(this.updated, updatedText(state));
    this.drawNotes(notesOf(state));
    this.body.hidden = !insight;
    this.name.classList.toggle("long", state.symbol.length > 20);
    this.drawName(state.symbol, state.timeframe);
    if (!insight) return;
    say(this.price, price(insight.current_price));
    const known = insight.known_at ? `, known at its close ${moment(insight.known_at)}` : "";
    say(this.when, `bar of ${moment(insight.timestamp)} UTC${known}`);
    this.drawFacts(factsOf(insight));
    this.chart.update(state.candles, insight, state.marks);
    const forecasts = Object.keys(insight.price_predictions).length;
    this.drawTitle(forecasts ? "80% and 90% intervals against no change; ahead of the candles, time on a square-root axis" : "");
    this.drawTiles(insight.price_predictions, insight.current_price, insight.reasons.price_predictions ?? insight.message);
    this.drawLeading(insight.signals.slice(0, FEW), insight.reasons.signals ?? insight.message);
    this.drawRest(insight.signals.slice(FEW));
    this.more.hidden = insight.signals.length <= FEW;
    say(this.summary, `${insight.signals.length - FEW} more signals`);
  }

  paint() {
    this.chart.paint();
  }

  destroy() {
    this.chart.destroy();
  }
}

export const heading = (text, aside = "") =>
  h("div", { class: "title" }, h("h3", null, text), h("span", { class: "soft" }, aside));
export const empty = (reason) => h("div", { class: "soft" }, reason || "nothing here");
export const column = (text, kind) => h("th", { scope: "col", class: kind }, text);
export const pair = (label, value) => h("div", { class: "pair" }, h("span", null, label), h("i", null, value));
export const badge = (text, kind = "") => h("span", { class: `badge ${kind}` }, text);
export const verdictBadge = (verdict) => badge(verdict ?? "not measured", verdict === "edge" ? "up" : "");

// A horizontal bar of a share in [0, 1], with a mark at `tick`.
export function meter(share, kind, tick) {
  const at = (value) => `${Math.round(value * 1000) / 10}%`;
  const mark = tick === null || tick === undefined ? null : h("s", { style: { left: at(tick) } });
  return h("div", { class: "bar", "aria-hidden": "true" }, h("u", { class: kind, style: { width: at(share) } }), mark);
}

function updatedText({ live, paused, refreshedAt }) {
  if (!live) return "";
  const last = refreshedAt ? `updated ${clock(refreshedAt)}` : "not updated yet";
  return paused ? `paused, ${last}` : last;
}

// What the reader must know before trusting the picture, worst first.
function notesOf({ insight, error, refreshedAt }) {
  const lines = [];
  if (error && insight) {
    const when = refreshedAt ? ` of ${clock(refreshedAt)}` : "";
    lines.push(["bad", `No new answer: ${error}. This is the last picture${when}.`]);
  } else if (error) lines.push(["bad", `No answer: ${error}.`]);
  else if (!insight) lines.push(["", "Loading…"]);
  if (insight?.message) lines.push(["", insight.message]);
  for (const note of insight?.freshness.notes ?? []) lines.push(["warn", note.charAt(0).toUpperCase() + note.slice(1)]);
  return lines;
}

// The numbers of the strip above the chart.
function factsOf(insight) {
  const { freshness, signals, patterns } = insight;
  const past = freshness.data_age_seconds;
  return {
    signal: signals[0] ?? null,
    confidence: insight.confidence,
    why: insight.reasons.confidence ?? null,
    strongest: patterns.strongest,
    direction: patterns.directions[patterns.strongest?.[0]] ?? 0,
    none: patterns.reason ?? "none detected",
    data: past === null ? null : age(past),
    late: freshness.bars_stale === true,
    trained: freshness.trained_until,
    model: freshness.model_age_seconds === null ? null : age(freshness.model_age_seconds),
    old: freshness.model_stale === true,
    inside: freshness.in_training_span === true,
  };
}

function drawFacts(of) {
  const fact = (label, value, aside, kind = "") =>
    h("div", { class: `fact ${kind}` }, h("span", { class: "soft" }, label), h("b", null, value), h("span", { class: "soft" }, aside));
  const lead = of.signal;
  const sure = of.confidence === null ? null : percent(of.confidence);
  return [
    fact("Signal", lead ? badge(lead.type, signalTone(lead)) : "none", lead?.source ?? ""),
    fact("Confidence", sure ?? "none", sure ? meter(of.confidence, "accent", 0.5) : of.why ?? "nothing measured"),
    of.strongest
      ? fact("Strongest", [h("span", { class: tone(of.direction) }, glyph(of.direction)), ` ${title(of.strongest[0])}`],
          `${percent(of.strongest[1])} sure of the shape`)
      : fact("Strongest", "none", of.none),
    fact("Data age", of.data ?? "history", of.late ? "stale" : of.data ? "since the bar closed" : "no clock was read", of.late ? "warn" : ""),
    of.trained
      ? fact("Model age", of.inside ? "in sample" : of.model, `trained until ${of.trained.slice(0, 10)}`, of.old ? "warn" : "")
      : fact("Model age", "not trained", ""),
  ];
}

function drawTiles(predictions, current, why) {
  const found = Object.entries(predictions);
  return found.length ? found.map(([horizon, p]) => tile(horizon, p, current)) : [empty(why)];
}

function tile(horizon, p, current) {
  const head = h("div", { class: "pair" }, h("span", null, bars(horizon)), verdictBadge(p.verdict));
  if (p.prediction === null || p.log_return === null) return h("div", { class: "tile" }, head, empty(p.reason));
  const side = p.log_return || (p.p_up ?? 0.5) - 0.5;
  const rising = side >= 0;
  const kind = tone(p.log_return);
  const rows = [
    head,
    h("div", { class: "value" }, prices([p.prediction], { step: p.std })),
    h("div", { class: kind }, `${glyph(p.log_return)} ${change(p.log_return)}`),
  ];
  if (p.confidence !== null) {
    rows.push(meter(p.confidence, kind, 0.5), pair(rising ? "P(rise)" : "P(fall)", percent(p.confidence)));
  }
  for (const [label, ends] of [["80%", p.interval_80], ["90%", p.interval]]) {
    if (ends) rows.push(pair(label, prices(ends, { step: p.std })));
  }
  const moves = Object.keys(p).filter((key) => !FIELDS.includes(key) && p[key] !== null)
    .map((key) => [TITLES[key] ?? title(key), Math.log(p[key] / current)]);
  if (moves.length) {
    const decimals = places(...moves.map(([, move]) => move));
    rows.push(h("div", { class: "members" }, moves.map(([name, move]) => pair(name, change(move, decimals)))));
  }
  if (p.reason) rows.push(empty(p.reason));
  return h("div", { class: "tile" }, rows);
}

const signalTone = (signal) => ({ BUY: "up", SELL: "down" })[signal.type] ?? "hold";

function signalRow(signal) {
  const sure = signal.confidence === null ? "" : percent(signal.confidence);
  const words = h("span", null, h("b", null, signal.source), " ", h("span", { class: "soft" }, signal.reason));
  return h("div", { class: "signal" }, badge(signal.type, signalTone(signal)), words, h("span", null, sure));
}
