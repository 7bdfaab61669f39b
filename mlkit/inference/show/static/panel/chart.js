// Candles with pattern markers and forecast cones, on TradingView's Lightweight Charts.

import { Charts } from "./library.js";
import { Cones, coneOf } from "./cones.js";
import { h, say } from "./dom.js";
import { glyph, moment, price, prices, seconds, title, tone } from "./format.js";

const NOTICE = "TradingView Lightweight Charts™ Copyright (с) 2025 TradingView, Inc.";
const KEYS = "Arrow keys move from candle to candle, plus and minus zoom, End returns to the newest candle.";
const MOST = 2000; // candles kept by a panel that runs for days
const SHAPES = { up: ["belowBar", "arrowUp"], down: ["aboveBar", "arrowDown"], hold: ["aboveBar", "circle"] };

export class CandleChart {
  constructor() {
    this.legend = h("div", { class: "legend" });
    this.canvas = h("div", { class: "canvas", role: "group", tabindex: "0", "aria-label": KEYS });
    this.words = h("p", { class: "unseen" });
    this.empty = h("div", { class: "soft nothing", hidden: true }, "no candles");
    const link = h("a", { href: "https://www.tradingview.com/", target: "_blank", rel: "noopener noreferrer" }, NOTICE);
    const frame = h("div", { class: "frame" }, this.canvas, this.empty);
    this.element = h("div", { class: "chart" }, this.legend, frame, this.words, h("div", { class: "credit" }, link));
    this.candles = [];
    this.marks = new Map(); // time -> {name: direction}
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.canvas.addEventListener("blur", () => this.point(null));
  }

  // Made with the first candles: a hidden or empty panel costs nothing.
  make() {
    this.api = Charts.createChart(this.canvas, {
      autoSize: true,
      layout: { attributionLogo: false, background: { color: "transparent" }, fontSize: 12 },
      localization: { locale: "en-US" },
      rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.1, bottom: 0.1 } },
      timeScale: { borderVisible: false, timeVisible: true, rightOffset: 6, minBarSpacing: 0.3 },
      handleScroll: { mouseWheel: false, vertTouchDrag: false },
      handleScale: { mouseWheel: false },
      crosshair: { mode: 0 },
    });
    this.series = this.api.addSeries(Charts.CandlestickSeries, { priceLineVisible: false });
    this.markers = Charts.createSeriesMarkers(this.series, []);
    this.cones = new Cones();
    this.series.attachPrimitive(this.cones);
    this.api.subscribeCrosshairMove(({ logical, time, sourceEvent }) => {
      if (sourceEvent) this.at = null; // the mouse takes over from the keys
      if ((this.at ?? null) === null) this.describe(time === undefined ? null : logical);
    });
    // Its own table and canvases are for the eye: the words below are read instead.
    for (const child of this.canvas.children) child.setAttribute("aria-hidden", "true");
    this.paint();
  }

  // The candles and the insight of the last one.
  update(candles, insight, marks = []) {
    const some = candles.length > 0;
    this.empty.hidden = some;
    this.canvas.hidden = !some;
    if (!some) return say(this.words, "There are no candles to draw.");
    if (!this.api) this.make();
    this.insight = insight;
    this.put(candles);
    this.mark(insight, marks);
    this.cone = coneOf(insight);
    if (!this.framed) this.frame();
    this.draw();
    this.describe(null);
    return undefined;
  }

  put(candles) {
    const old = this.candles;
    const shift = old.length ? candles.findIndex(([time]) => time === old[old.length - 1][0]) : -1;
    const grown = shift >= 0 && old.length + candles.length - shift <= MOST && this.agrees(candles, shift);
    const bar = ([time, open, high, low, close]) => ({ time, open, high, low, close });
    if (grown) {
      const added = candles.slice(shift + 1);
      for (const candle of added) this.series.update(bar(candle));
      this.candles = old.concat(added);
    } else {
      this.candles = candles.slice();
      this.framed = false;
      this.scalePrices();
      this.series.setData(candles.map(bar));
    }
  }

  // Whether the candles that both hold are the same; history may have been amended.
  agrees(candles, shift) {
    const { length } = this.candles;
    for (let back = 0; back <= shift && back < length; back += 1) {
      const [a, b] = [candles[shift - back], this.candles[length - 1 - back]];
      if (a.some((value, k) => value !== b[k])) return false;
    }
    return true;
  }

  scalePrices() {
    const lows = this.candles.slice(-200).map((candle) => candle[3]);
    const minMove = 10 ** Math.floor(Math.log10(Math.min(...lows)) - 5);
    const base = Math.round(1 / minMove);
    const formatter = (value) => (value > 0 ? prices([value], { significant: 5 }) : "0");
    const format = { type: "custom", formatter, minMove, ...(base > 1 ? { base } : {}) };
    this.series.applyOptions({ priceFormat: format });
  }

  // The newest candles and the whole cone; the wider the panel, the more candles.
  frame() {
    const last = this.candles.length - 1;
    const wide = Math.max(40, Math.round((this.canvas.clientWidth || 600) / 6.5));
    this.room = this.cone ? Math.round(wide * 0.3) : 2;
    const from = last - Math.min(wide - this.room, last + 6);
    this.api.timeScale().setVisibleLogicalRange({ from, to: last + this.room + 2 });
    this.framed = true;
  }

  mark(insight, marks) {
    const directions = insight.patterns.directions;
    const here = Object.keys(insight.patterns.detected).map((name) => [name, directions[name] ?? 0]);
    if (here.length) this.marks.set(seconds(insight.timestamp), Object.fromEntries(here));
    for (const [time, name, direction] of marks) {
      this.marks.set(time, { ...this.marks.get(time), [name]: direction });
    }
    const first = this.candles[0][0];
    for (const time of this.marks.keys()) if (time < first) this.marks.delete(time);
  }

  // Everything whose colour depends on the theme.
  draw() {
    const shown = [];
    const newest = this.candles.at(-1)[0];
    for (const [time, found] of [...this.marks].sort(([a], [b]) => a - b)) {
      for (const side of [1, -1, 0]) {
        const names = Object.keys(found).filter((name) => found[name] === side);
        if (!names.length) continue;
        const [position, shape] = SHAPES[tone(side)];
        const text = names.length > 1 ? `${names.length} patterns` : title(names[0]).slice(0, 28);
        const color = this.colours[tone(side)];
        shown.push(time === newest ? { time, position, shape, color, text } : { time, position, shape, color, size: 0.6 });
      }
    }
    this.markers.setMarkers(shown);
    this.cones.show(this.cone, this.candles.length - 1, this.room, this.colours);
  }

  // Colours of the theme, read from the style sheet.
  paint() {
    if (!this.api) return;
    const style = getComputedStyle(this.element);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const names = ["bg", "ink", "soft", "line", "accent", "up", "down", "hold"];
    this.colours = Object.fromEntries(names.map((name) => [name, colour(name)]));
    const { soft, line, up, down, ink } = this.colours;
    const label = { color: line, labelBackgroundColor: ink };
    this.api.applyOptions({
      layout: { textColor: soft, fontFamily: style.fontFamily },
      grid: { vertLines: { visible: false }, horzLines: { color: line } },
      crosshair: { vertLine: label, horzLine: label },
    });
    const sides = { upColor: up, borderUpColor: up, wickUpColor: up, downColor: down, borderDownColor: down, wickDownColor: down };
    this.series.applyOptions(sides);
    if (this.candles.length) this.draw();
  }

  // One candle in words, over the chart and for screen readers; the newest one without a crosshair.
  describe(logical) {
    const last = this.candles.length - 1;
    const index = logical === null ? last : Math.min(Math.max(Math.round(logical), 0), last);
    const [time, open, high, low, close] = this.candles[index];
    const when = moment(new Date(time * 1000).toISOString());
    const ohlc = [["O", open], ["H", high], ["L", low], ["C", close]];
    const found = Object.entries(this.marks.get(time) ?? {}).map(([name, side]) => `${glyph(side)} ${title(name)}`);
    const day = this.insight.timeframe.endsWith("d") ? when.slice(0, 10) : when;
    const text = `${day}  ${ohlc.map(([key, value]) => `${key} ${price(value)}`).join("  ")}`;
    say(this.legend, [text, found.length > 3 ? `${found.length} patterns` : found.join(", ")].filter(Boolean).join("  "));
    const long = `open ${price(open)}, high ${price(high)}, low ${price(low)}, close ${price(close)}`;
    say(this.words, `${this.candles.length} candles. ${when} UTC: ${long}. ${found.join(", ")}`);
  }

  point(index) {
    this.at = index;
    if (!this.api) return;
    if (index === null) {
      this.api.clearCrosshairPosition();
      return this.describe(null);
    }
    const candle = this.candles[index];
    this.api.setCrosshairPosition(candle[4], candle[0], this.series);
    return this.describe(index);
  }

  press(event) {
    if (!this.api) return;
    const last = this.candles.length - 1;
    const range = this.api.timeScale().getVisibleLogicalRange();
    const here = Math.min(this.at ?? last, last);
    const zoom = (factor) => {
      const right = range.to;
      this.api.timeScale().setVisibleLogicalRange({ from: right - (right - range.from) * factor, to: right });
    };
    const act = {
      ArrowLeft: () => this.point(Math.max(here - 1, 0)),
      ArrowRight: () => this.point(Math.min(here + 1, last)),
      End: () => (this.frame(), this.draw(), this.point(last)),
      Escape: () => this.point(null),
      "+": () => zoom(0.8),
      "=": () => zoom(0.8),
      "-": () => zoom(1.25),
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has its own use for these keys
    act();
    const seen = this.api.timeScale().getVisibleLogicalRange();
    if (this.at !== null && this.at < seen.from) {
      const width = seen.to - seen.from;
      this.api.timeScale().setVisibleLogicalRange({ from: this.at - width / 3, to: this.at + (2 * width) / 3 });
    }
  }

  destroy() {
    this.api?.remove();
    this.api = null;
  }
}
