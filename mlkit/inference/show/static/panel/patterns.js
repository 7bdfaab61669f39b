// PatternConfidence: every pattern's probability against its threshold, and what followed it before.

import { h, part } from "./dom.js";
import { bars, glyph, percent, title, tone } from "./format.js";
import { column, empty, heading, meter } from "./prediction.js";

export class PatternConfidence {
  constructor() {
    this.body = h("div");
    this.element = h("section", { class: "confidence", "aria-label": "Pattern confidence" }, this.body);
    this.draw = part(this.body, drawPatterns);
  }

  update({ insight }) {
    this.element.hidden = !insight;
    if (insight) this.draw(insight.patterns);
  }
}

function drawPatterns(patterns) {
  const shown = { ...patterns.probabilities, ...patterns.detected };
  const standard = patterns.standard ? `, ${patterns.standard} standard` : "";
  const top = heading("Pattern confidence", `${patterns.count} detected${standard}`);
  const names = Object.keys(shown);
  if (!names.length) return [top, empty(patterns.reason ?? "no pattern detected")];
  const first = (name) => (name in patterns.detected ? 0 : 1);
  names.sort((a, b) => first(a) - first(b) || shown[b] - shown[a]);
  const header = h("tr", null, column("Pattern"), column("Probability"), column("Hit rate", "number"), column("Rule", "number"));
  return [
    top,
    h("table", { class: "patterns" }, h("thead", null, header), h("tbody", null, names.map((name) => row(name, shown[name], patterns)))),
    h("p", { class: "soft" }, "The probability is that of the shape, the tick its threshold. The hit rate is how often the price then went its way on the training bars; bold where that is an edge."),
  ];
}

function row(name, probability, patterns) {
  const found = name in patterns.detected;
  const direction = patterns.directions[name] ?? 0;
  const threshold = patterns.thresholds[name];
  const kind = found ? tone(direction) : "off";
  const label = found ? [h("span", { class: kind, "aria-hidden": "true" }, `${glyph(direction)} `), h("b", null, title(name))] : [title(name)];
  const limit = threshold === undefined ? "" : `threshold ${percent(threshold)}`;
  const share = h("span", { class: "share", title: limit }, meter(probability, kind, threshold), h("span", { class: "number" }, percent(probability)), h("span", { class: "unseen" }, limit));
  return h("tr", { class: found ? "found" : "" }, h("th", { scope: "row" }, label), h("td", null, share), hitRate(patterns.evidence[name]), rule(patterns.rules[name], found));
}

function hitRate(evidence) {
  if (!evidence) return h("td", { class: "number soft", title: "too few cases to measure" }, "–");
  const { hit_rate, low, high, base_rate, cases, horizon, verdict } = evidence;
  const detail = `${percent(hit_rate)} of ${cases} cases within ${bars(horizon)} (95 % interval ${percent(low)} to ${percent(high)}), any bar ${percent(base_rate)}: ${verdict}`;
  return h("td", { class: "number", title: detail }, h(verdict === "edge" ? "b" : "span", null, percent(hit_rate)), h("span", { class: "soft" }, ` n ${cases}`));
}

// Whether the written rule of the pattern says the same as the network.
function rule(holds, found) {
  if (holds === undefined) return h("td", { class: "number soft" }, "–");
  const agrees = holds === found;
  const words = `the rule ${agrees ? "agrees" : "disagrees"}: it ${holds ? "finds" : "does not find"} the pattern`;
  return h("td", { class: `number ${agrees ? "soft" : "warn"}`, title: words }, agrees ? "agrees" : "differs");
}
