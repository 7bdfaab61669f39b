// Forecast cones as a primitive of the candle series: 90 and 80 % intervals, the point forecast and the no-change line.
// Beyond the newest candle time runs on a square-root axis: a random walk's cone has straight edges there, and near
// horizons are told apart however far the last one is.

// What is drawn, from an insight: horizons in bars and log prices at 0 and at each of them.
export function coneOf(insight) {
  const known = Object.entries(insight.price_predictions)
    .filter(([, p]) => p.prediction !== null && p.interval)
    .map(([horizon, p]) => ({ bars: Number(horizon), p }))
    .sort((a, b) => a.bars - b.bars);
  if (!known.length) return null;
  const start = Math.log(insight.current_price);
  const line = (pick) => [start, ...known.map(({ p }) => Math.log(pick(p)))];
  return {
    price: insight.current_price,
    horizons: [0, ...known.map(({ bars }) => bars)],
    edge: known.some(({ p }) => p.verdict === "edge"),
    point: line((p) => p.prediction),
    bands: [
      { low: line((p) => p.interval[0]), high: line((p) => p.interval[1]) },
      { low: line((p) => (p.interval_80 ?? p.interval)[0]), high: line((p) => (p.interval_80 ?? p.interval)[1]) },
    ],
  };
}

// A new path through points.
function trace(context, points) {
  context.beginPath();
  points.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](x, y));
}

export class Cones {
  constructor() {
    this.cone = null;
    this.last = 0; // index of the newest candle
    this.room = 1; // candles' worth of width up to the last horizon
    this.colours = {};
    this.views = [{ zOrder: () => "normal", renderer: () => ({ draw: (target) => this.draw(target) }) }];
  }

  attached({ chart, series, requestUpdate }) {
    Object.assign(this, { chart, series, requestUpdate });
  }

  detached() {
    this.chart = this.series = this.requestUpdate = null;
  }

  show(cone, last, room, colours) {
    Object.assign(this, { cone, last, room, colours });
    this.requestUpdate?.();
  }

  paneViews() {
    return this.views;
  }

  // The candles' axis makes room for the cone up to the last horizon in view.
  autoscaleInfo(_, end) {
    if (!this.cone || end < this.last) return null;
    const { horizons, bands } = this.cone;
    const seen = horizons.map((_, k) => k).filter((k) => this.last + this.ahead(horizons[k]) <= end + 1);
    const low = Math.exp(Math.min(...seen.map((k) => bands[0].low[k])));
    const high = Math.exp(Math.max(...seen.map((k) => bands[0].high[k])));
    return { priceRange: { minValue: low, maxValue: high } };
  }

  // Where a horizon lies, in candles after the newest one.
  ahead(bars) {
    return this.room * Math.sqrt(bars / this.cone.horizons.at(-1));
  }

  draw(target) {
    if (!this.cone || !this.chart) return;
    const scale = this.chart.timeScale();
    const [zero, one] = [scale.logicalToCoordinate(this.last), scale.logicalToCoordinate(this.last + 1)];
    if (zero === null || one === null) return;
    const y = (logPrice) => this.series.priceToCoordinate(Math.exp(logPrice));
    const { horizons, bands, point, edge } = this.cone;
    const x = horizons.map((bars) => zero + (one - zero) * this.ahead(bars));
    const path = (values) => values.map((value, k) => [x[k], y(value)]);
    target.useMediaCoordinateSpace(({ context, mediaSize }) => {
      const { accent, soft, bg } = this.colours;
      bands.forEach(({ low, high }, k) => {
        trace(context, [...path(high), ...path(low).reverse()]);
        context.closePath();
        context.globalAlpha = k ? 0.22 : 0.15;
        context.fillStyle = accent;
        context.fill();
      });
      context.globalAlpha = 1;
      const level = y(point[0]);
      this.stroke(context, [[zero, level], [x.at(-1), level]], soft, 1, [3, 4]);
      this.stroke(context, path(point), accent, 2, edge ? [] : [6, 4]);
      context.font = "11px system-ui, sans-serif";
      context.textAlign = "center";
      let free = -Infinity;
      horizons.slice(1).forEach((bars, k) => {
        const [px, py] = [x[k + 1], y(point[k + 1])];
        context.beginPath();
        context.arc(px, py, 3.5, 0, 2 * Math.PI);
        context.fillStyle = accent;
        context.fill();
        context.lineWidth = 1.5;
        context.strokeStyle = bg;
        context.stroke();
        if (px - free < 20 || px > mediaSize.width - 12) return;
        free = px;
        context.fillStyle = soft;
        context.fillText(`+${bars}`, px, mediaSize.height - 8);
      });
    });
  }

  stroke(context, points, colour, width, dash) {
    trace(context, points);
    context.setLineDash(dash);
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.stroke();
    context.setLineDash([]);
  }
}
