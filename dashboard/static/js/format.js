// Numbers and times, written as everywhere in Sluice: 57.7 %, 1,023, 2018-04-11 09:12:40 (UTC).

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const NONE = "–";
const PERCENT = "\u00a0%"; // a number and its unit stay on one line

const known = (value) => typeof value === "number" && Number.isFinite(value);

export const capital = (word) => word && word[0].toUpperCase() + word.slice(1);

const MOST_DIGITS = 1e15; // a record may hold any number: longer ones are told by their size
const plain = (value) => (Math.abs(value) < MOST_DIGITS ? whole.format(value) : value.toExponential(2));

export const count = (value) => (known(value) ? plain(value) : NONE);

export function significant(value, digits = 3) {
  if (!known(value)) return NONE;
  if (Math.abs(value) >= 1000) return plain(value);
  return String(Number(value.toPrecision(digits)));
}

/** 0.577 → `57.7 %`; a small rate keeps three digits that tell something: 0.00412 → `0.412 %`. */
export function percent(share, digits = 1) {
  const value = 100 * share;
  if (!known(share) || !known(value)) return NONE;
  if (value !== 0 && (Math.abs(value) < 1 || Math.abs(value) >= MOST_DIGITS)) return `${significant(value)}${PERCENT}`;
  return `${value.toFixed(digits)}${PERCENT}`;
}

export const wholePercent = (percents) => (known(percents) ? `${percents}${PERCENT}` : NONE);

/** Sentences of the server, their numbers beside their percent signs. */
export const typeset = (sentence) => sentence.replaceAll(/(\d) %/g, `$1${PERCENT}`);

/** A probability: never `100 %` or `0 %` unless it is exactly that. */
export function probability(share) {
  if (!known(share)) return NONE;
  if (share < 0 || share > 1) return NONE;
  if (share > 0.9999 && share < 1) return `> 99.99${PERCENT}`;
  if (share < 0.0001 && share > 0) return `< 0.01${PERCENT}`;
  return `${(100 * share).toFixed(share > 0.995 || share < 0.005 ? 2 : 1)}${PERCENT}`;
}

/** A difference of rates in percentage points, as the reasons say it: two digits. */
export function points(difference, signed = true) {
  const value = 100 * difference;
  if (!known(difference) || !known(value)) return NONE;
  const text = Math.abs(value) < 99.5 ? significant(Math.abs(value), 2) : plain(Math.abs(value));
  return `${signed ? (value < 0 ? "−" : "+") : value < 0 ? "−" : ""}${text}`;
}

/** How amounts of the metric are written: rates in percent and points, values as numbers. */
export function metricFormat(measure) {
  if (measure === "value") {
    const signed = (value) => (known(value) ? `${value < 0 ? "−" : "+"}${significant(Math.abs(value))}` : NONE);
    return { level: (v) => significant(v), difference: signed, amount: (v) => significant(v), unit: "" };
  }
  return {
    level: (v) => percent(v),
    difference: (v) => points(v),
    amount: (v) => points(v, false),
    unit: "points",
  };
}

export function interval(pair, format) {
  return Array.isArray(pair) && pair.length === 2 ? `${format(pair[0])} to ${format(pair[1])}` : NONE;
}

export function pValue(p) {
  if (!known(p)) return NONE;
  return p < 0.0001 ? "< 0.0001" : significant(p, 2);
}

export function moment(ms) {
  if (!known(ms) || ms < 0 || ms > 8.64e15) return NONE;
  return new Date(ms).toISOString().slice(0, 19).replace("T", " ");
}

export function duration(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 2 * 86400) return `${Math.round(seconds / 3600)} h`;
  return `${whole.format(Math.round(seconds / 86400))} days`;
}

export const ago = (ms, nowMs) => (known(ms) && ms > 0 ? `${duration((nowMs - ms) / 1000)} ago` : NONE);

/** `PolicyB 78 % · random 10 %`, largest first. */
export function shares(allocation) {
  return Object.entries(allocation ?? {})
    .sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))
    .map(([name, share]) => `${name} ${wholePercent(share)}`)
    .join(" · ");
}
