// Numbers in words, as the static card writes them.

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const formats = new Map();

function fixed(value, decimals) {
  const places = Math.min(Math.max(decimals, 0), 20);
  if (!formats.has(places)) {
    const options = { minimumFractionDigits: places, maximumFractionDigits: places };
    formats.set(places, new Intl.NumberFormat("en-US", options));
  }
  return formats.get(places).format(value);
}

// Prices side by side, all with the digits that tell `step` apart; tiny ones share a power of ten.
export function prices(values, { step = null, significant = 5 } = {}) {
  let finest = 10 ** (Math.floor(Math.log10(Math.max(...values))) - significant + 1);
  if (step) finest = Math.min(finest, step / 10);
  const decimals = Math.max(0, Math.ceil(-Math.log10(finest) - 1e-9));
  if (Math.min(...values) >= 1e-4) return values.map((value) => fixed(value, decimals)).join(" – ");
  const power = Math.floor(Math.log10(values[0]));
  const places = Math.min(Math.max(decimals + power, 0), 20);
  const mantissas = values.map((value) => (value / 10 ** power).toFixed(places)).join(" – ");
  const exponent = [...String(power)].map((letter) => SUPERSCRIPT[letter]).join("");
  return `${values.length > 1 ? `(${mantissas})` : mantissas} ×10${exponent}`;
}

export function price(value) {
  const digits = Number(value.toPrecision(7)).toExponential().split("e")[0].replace(".", "").length;
  return prices([value], { significant: Math.max(1, digits) });
}

// Decimals of a percentage that leave the largest change about three digits.
export function places(...logReturns) {
  const largest = Math.max(0, ...logReturns.map(Math.abs));
  return largest >= 1e-3 || largest < 1e-8 ? 2 : largest >= 1e-4 ? 3 : 4;
}

// A log return as a signed simple return.
export function change(logReturn, decimals = null) {
  if (logReturn === 0 && decimals === null) return "no change";
  const percentage = Math.expm1(logReturn) * 100;
  const text = fixed(Math.abs(percentage), decimals ?? places(logReturn));
  return `${percentage < 0 ? "−" : "+"}${text}%`;
}

// A probability; 0 % and 100 % only where they are exact.
export function percent(probability) {
  if (probability > 0 && probability < 0.005) return "<1%";
  if (probability >= 0.995 && probability < 1) return ">99%";
  return `${Math.round(probability * 100)}%`;
}

export const bars = (count) => (String(count) === "1" ? "1 bar" : `${count} bars`);
export const title = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
export const tone = (direction) => (direction > 0 ? "up" : direction < 0 ? "down" : "hold");
export const glyph = (direction) => (direction > 0 ? "▲" : direction < 0 ? "▼" : "◆");

const UNITS = [["year", 31557600], ["month", 2629800], ["day", 86400], ["hour", 3600], ["minute", 60]];

// A length of time in its largest unit, of which there are at least two.
export function age(seconds) {
  for (const [unit, size] of UNITS) {
    if (seconds >= 2 * size) return `${Math.floor(seconds / size).toLocaleString("en-US")} ${unit}s`;
  }
  return `${Math.max(0, Math.round(seconds))} s`;
}

// ISO text without its seconds and zone; everything is UTC.
export const moment = (iso) => iso.slice(0, 16).replace("T", " ");
export const clock = (milliseconds) => new Date(milliseconds).toLocaleTimeString("en-GB");
export const seconds = (iso) => Date.parse(/[zZ]|[+-]\d\d:\d\d$/.test(iso) ? iso : `${iso}Z`) / 1000;
