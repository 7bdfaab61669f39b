// The page at `/`: one market of this server at a time; ?symbol=...&timeframe=... name it.

import { ask, endpoints, mountPanel } from "./panel.js";

const host = document.getElementById("panel");
const choice = document.getElementById("market");
const wanted = new URLSearchParams(location.search);
let panel = mountPanel(host, { symbol: wanted.get("symbol") ?? "", timeframe: wanted.get("timeframe") ?? "" });
let token = null;

function show(symbol, timeframe) {
  panel.destroy();
  document.title = `${symbol} ${timeframe} · mlkit`;
  panel = mountPanel(host, { symbol, timeframe, question: endpoints({ symbol, timeframe, token }) });
  globalThis.mlkitPanel = panel; // for the console
}

function offer(markets) {
  const option = ({ symbol, timeframe }) => new Option(`${symbol} ${timeframe}`, JSON.stringify([symbol, timeframe]));
  choice.replaceChildren(...markets.map(option));
  const [symbol, timeframe] = [wanted.get("symbol"), wanted.get("timeframe")];
  const known = symbol
    ? markets.find((one) => one.symbol === symbol && (!timeframe || one.timeframe === timeframe))
    : (markets.find((one) => one.bundle) ?? markets[0]);
  const market = known ?? { symbol: symbol ?? "", timeframe: timeframe ?? "1m" };
  if (!known) choice.prepend(option(market));
  choice.value = option(market).value;
  choice.disabled = choice.options.length < 2;
  show(market.symbol, market.timeframe);
}

choice.addEventListener("change", () => {
  const [symbol, timeframe] = JSON.parse(choice.value);
  history.replaceState(null, "", `?${new URLSearchParams({ symbol, timeframe })}`);
  show(symbol, timeframe);
});

const door = document.getElementById("door");
document.getElementById("enter").addEventListener("click", () => {
  token = document.getElementById("token").value;
  open();
});

async function open() {
  try {
    const body = await ask("/api/ml/status", token);
    door.hidden = true;
    offer(body.markets);
  } catch (error) {
    door.hidden = error.status !== 401;
    panel.feed.tell({ error: error.message });
    if (error.status !== 401) setTimeout(open, 5000);
  }
}

open();
