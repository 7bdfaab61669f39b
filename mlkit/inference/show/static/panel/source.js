// Where answers come from, and when: every 30 seconds, never while nobody looks.

const PATIENCE = 25000; // ms until a request counts as lost
const SOON = 3000; // ms between questions while the first answer is being made

export class AnswerError extends Error {
  constructor(message, { status = 0, retry = null } = {}) {
    super(message);
    Object.assign(this, { status, retry });
  }
}

// The endpoints of `mlkit serve`; `status` is asked for again when the bundle changes.
export function endpoints({ base = "", symbol, timeframe, candles = 400, token = null }) {
  const query = `timeframe=${encodeURIComponent(timeframe)}`;
  let market = null;
  return async () => {
    const body = await ask(`${base}/api/ml/insights/${encodeURIComponent(symbol)}?${query}&candles=${candles}`, token);
    const { candles: rows, marks, ...insight } = body;
    if (market === null || market.bundle !== insight.bundle) market = await marketOf(base, symbol, timeframe, token);
    return { insight, candles: rows ?? [], marks: marks ?? [], market };
  };
}

async function marketOf(base, symbol, timeframe, token) {
  const body = await ask(`${base}/api/ml/status`, token);
  return body.markets.find((one) => one.symbol === symbol && one.timeframe === timeframe) ?? null;
}

// One document. Ages are part of it, so no cache answers.
export async function ask(url, token) {
  let response;
  let body;
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    response = await fetch(url, { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    body = await response.json();
  } catch (error) {
    if (error.name === "TimeoutError") throw new AnswerError("the server did not answer in time");
    throw new AnswerError(response ? "the server's answer cannot be read" : "the server cannot be reached");
  }
  if (!response.ok) {
    const retry = Number(response.headers.get("Retry-After")) * 1000 || null;
    throw new AnswerError(body?.error?.reason ?? `the server said ${response.status}`, { status: response.status, retry });
  }
  return body;
}

// Asks, keeps what was answered last, and tells `changed(state)` of every step.
export class Feed {
  constructor({ symbol = "", timeframe = "", question = null, answer = null, every = 30000, changed }) {
    Object.assign(this, { question, every, changed });
    this.hidden = new Set();
    this.timer = null;
    const empty = { insight: null, candles: [], marks: [], market: null };
    const still = { error: null, refreshing: false, refreshedAt: null, paused: false };
    this.state = { symbol, timeframe, live: question !== null, ...empty, ...still, ...answer };
    this.name();
  }

  name() {
    const { insight } = this.state;
    if (insight) Object.assign(this.state, { symbol: insight.symbol, timeframe: insight.timeframe });
  }

  tell(change) {
    Object.assign(this.state, change);
    this.name();
    if (!this.ended) this.changed(this.state);
  }

  start() {
    this.tell({});
    if (this.question && !this.hidden.size) this.refresh();
  }

  async refresh() {
    if (!this.question || this.state.refreshing || this.ended) return;
    clearTimeout(this.timer);
    this.tell({ refreshing: true });
    let wait = this.every;
    try {
      const answer = await this.question();
      this.tell({ marks: [], ...answer, error: null, refreshing: false, refreshedAt: Date.now() });
    } catch (error) {
      if (!(error instanceof AnswerError)) console.error(error);
      if (error.retry) wait = Math.min(wait, Math.max(error.retry, SOON));
      this.tell({ error: error.message, refreshing: false });
    }
    this.later(wait);
  }

  // An answer that was not asked for, such as a bar that the kernel took.
  take(answer) {
    this.tell({ ...answer, error: null, refreshedAt: Date.now() });
  }

  later(wait) {
    clearTimeout(this.timer);
    if (this.question && !this.hidden.size && !this.ended) this.timer = setTimeout(() => this.refresh(), wait);
  }

  // Somebody looks again, or nobody does, for a reason such as "tab" or "scrolled away".
  look(reason, visible) {
    if (visible) this.hidden.delete(reason);
    else this.hidden.add(reason);
    const paused = this.hidden.size > 0;
    if (paused === this.state.paused) return;
    this.tell({ paused });
    if (paused) clearTimeout(this.timer);
    else if (Date.now() - (this.state.refreshedAt ?? 0) >= this.every) this.refresh();
    else this.later(this.every - (Date.now() - this.state.refreshedAt));
  }

  end() {
    this.ended = true;
    clearTimeout(this.timer);
  }
}
