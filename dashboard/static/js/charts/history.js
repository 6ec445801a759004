// The charts over decisions: what each shows, its sentence and its table. Pure, but for colours drawn by `decorate`.
import { count, interval, metricFormat, probability, shares, wholePercent } from "../format.js";
import { cssValue } from "../palette.js";
import { evenly, indexAt } from "../series.js";

const SYNC = "decisions";
const AREA = 0.42;

/** All of them for one experiment; `model` is that of `model.js`. */
export function historyFigures(model) {
  if (model.series.version.length === 0) return [];
  return [rate(model), allocation(model), best(model), loss(model), ...(model.series.regret?.some(isNumber) ? [regret(model)] : [])];
}

const isNumber = (value) => typeof value === "number";

function base(model, id, title) {
  const { series } = model;
  const marker = model.pinned;
  const index = model.live ? series.version.length - 1 : indexAt(series, model.pinned);
  return {
    id,
    title,
    sync: SYNC,
    marker,
    index,
    key: `${id}|${model.name}|${model.names.join("|")}|${model.metric.measure}`,
    stamp: `${series.version.length}|${series.version.at(-1)}|${marker}|${model.truthStamp}`,
    formatX: (x) => (Number.isInteger(x) ? count(x) : ""),
    formatAt: (x) => `decision ${count(x)}`,
    range: (low, high) => padded(low, high),
  };
}

/** A column of each variant as lines, with a legend and a table. */
function lines(model, id, title, column, format) {
  const { series } = model;
  const columns = model.names.map((name) => series.variants[name]?.[column] ?? []);
  return {
    ...base(model, id, title),
    data: [series.version, ...columns],
    series: model.names.map((name) => ({ label: name, ...model.style(name) })),
    formatY: format,
    legend: model.names.map((name, i) => ({ name, style: model.style(name), text: (at) => format(columns[i][at]) })),
    table: (most) => tableOf(model, model.names, columns, format, most),
  };
}

function tableOf(model, head, columns, format, most) {
  const { version } = model.series;
  const last = model.live ? version.length - 1 : indexAt(model.series, model.pinned);
  const shown = evenly(Array.from({ length: last + 1 }, (_, i) => i), most).reverse();
  return {
    head: ["Decision", ...head],
    rows: shown.map((i) => [count(version[i]), ...columns.map((column) => format(column[i]))]),
  };
}

function rate(model) {
  const { series, names } = model;
  const format = metricFormat(model.metric.measure);
  const of = (name, column) => series.variants[name]?.[column] ?? [];
  const found = lines(model, "rate", model.metric.title, "rate", format.level);
  const at = found.index;
  const told = names
    .filter((name) => isNumber(of(name, "rate")[at]))
    .map((name) => {
      const band = isNumber(of(name, "lower")[at]) ? ` (${interval([of(name, "lower")[at], of(name, "upper")[at]], format.level)})` : "";
      return `${name} ${format.level(of(name, "rate")[at])}${band}`;
    });
  const [low, high] = focus(names.map((name) => [of(name, "rate"), of(name, "lower"), of(name, "upper")]));
  const bounds = model.metric.measure === "value" ? [low, high] : [Math.max(0, low), Math.min(1, high)];
  return {
    ...found,
    wide: true,
    height: 280,
    data: [series.version, ...names.flatMap((name) => [of(name, "upper"), of(name, "lower"), of(name, "rate")])],
    series: names.flatMap((name) => [
      { label: `${name} upper`, hidden: true, ...model.style(name) },
      { label: `${name} lower`, hidden: true, ...model.style(name) },
      { label: name, ...model.style(name) },
    ]),
    bands: names.map((name, i) => ({ series: [1 + 3 * i, 2 + 3 * i], variable: model.style(name).variable, alpha: 0.13 })),
    range: () => bounds,
    summary: told.length
      ? `${told.join("; ")}. Bands hold the true ${model.metric.word} at all times at once with 95 %.${model.truth ? " Dotted: the true rates, which the replay knows." : ""}`
      : "Nothing has been counted yet.",
    decorate: (plot) => truthLines(plot, model),
    table: (most) =>
      tableOf(
        model,
        names.flatMap((name) => [name, `${name} at all times`]),
        names.flatMap((name) => [
          of(name, "rate").map(format.level),
          of(name, "lower").map((low, i) => (isNumber(low) ? interval([low, of(name, "upper")[i]], format.level) : "–")),
        ]),
        (text) => text ?? "–",
        most,
      ),
  };
}

function truthLines(plot, model) {
  if (!model.truth) return;
  const { ctx } = plot;
  const { left, width } = plot.bbox;
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.setLineDash([devicePixelRatio, 5 * devicePixelRatio]);
  for (const name of model.names) {
    const value = model.truth.variants[name]?.rate;
    if (!isNumber(value)) continue;
    const y = plot.valToPos(value, "y", true);
    ctx.strokeStyle = cssValue(model.style(name).variable);
    ctx.beginPath();
    ctx.moveTo(left, y);
    ctx.lineTo(left + width, y);
    ctx.stroke();
  }
  ctx.setLineDash([]);
}

function allocation(model) {
  const { series, names } = model;
  const columns = names.map((name) => series.variants[name]?.allocation ?? []);
  const running = Array(series.version.length).fill(0);
  const stacked = columns.map((column) => column.map((share, i) => (running[i] += share ?? 0)));
    const found = lines(model, "allocation", "Allocation", "allocation", wholePercent);
  const now = Object.fromEntries(names.map((name, i) => [name, columns[i][found.index] ?? 0]));
  // The last variant is drawn first, so that each area lies in front of the one above it.
  const order = names.map((_, i) => names.length - 1 - i);
  return {
    ...found,
    data: [series.version, ...order.map((i) => stacked[i])],
    // The lowest area has no line below it to make a band with.
    series: order.map((i) => ({
      label: names[i],
      variable: model.style(names[i]).variable,
      width: 1.5,
      stepped: true,
      fill: i === 0 ? AREA : 0,
    })),
    bands: order.slice(0, -1).map((i, place) => ({ series: [place + 1, place + 2], variable: model.style(names[i]).variable, alpha: AREA })),
    range: () => [0, 100],
    summary: `New ${model.metric.unit}s go: ${shares(now)}.`,
    decorate: (plot) => allocationLabels(plot, model, stacked),
  };
}

/** The names stand in the areas where there is room: nobody has to tell them by colour. */
function allocationLabels(plot, model, stacked) {
  const { ctx } = plot;
  const { left, width } = plot.bbox;
  const size = 12 * devicePixelRatio;
  ctx.font = `600 ${size}px ${cssValue("--sans")}`;
  ctx.fillStyle = cssValue("--text");
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  model.names.forEach((name, i) => {
    const high = stacked[i].at(-1) ?? 0;
    const low = i ? (stacked[i - 1].at(-1) ?? 0) : 0;
    const room = plot.valToPos(low, "y", true) - plot.valToPos(high, "y", true);
    if (room < size * 1.3) return;
    ctx.fillText(name, left + width - 8 * devicePixelRatio, plot.valToPos((low + high) / 2, "y", true), width * 0.6);
  });
}

function best(model) {
  const found = lines(model, "best", "Probability of being the best", "p_best", probability);
  const values = model.names.map((name) => [name, model.series.variants[name]?.p_best?.[found.index]]).filter(([, p]) => isNumber(p));
  values.sort((a, b) => b[1] - a[1]);
  return {
    ...found,
    range: () => [0, 1],
    formatY: (p) => wholePercent(Math.round(100 * p)),
    summary: values.length ? `${values.map(([name, p]) => `${name} ${probability(p)}`).join("; ")}.` : "Not known yet.",
  };
}

function loss(model) {
  const format = metricFormat(model.metric.measure);
  const amount = (value) => (isNumber(value) ? `${format.amount(value)}${format.unit ? ` ${format.unit}` : ""}` : "–");
  const found = lines(model, "loss", "Expected loss of choosing it", "expected_loss", amount);
  const allowed = model.entry.kind === "canary" ? null : model.stopping?.expected_loss;
  const columns = model.names.map((name) => model.series.variants[name]?.expected_loss ?? []);
  const top = focus(columns.map((column) => [column, column, column]))[1];
  const least = model.names
    .map((name, i) => [name, columns[i][found.index]])
    .filter(([, value]) => isNumber(value))
    .sort((a, b) => a[1] - b[1])[0];
  return {
    ...found,
    range: () => [0, Math.max(top, isNumber(allowed) ? allowed * 1.5 : 0) || 1],
    formatY: (value) => format.amount(value),
    summary: least
      ? `Least with ${least[0]}: ${amount(least[1])}${isNumber(allowed) ? `; allowed for a winner: ${amount(allowed)} (line)` : ""}.`
      : "Not known yet.",
    decorate: (plot) => isNumber(allowed) && allowedLine(plot, allowed),
  };
}

function allowedLine(plot, allowed) {
  const { ctx } = plot;
  const { left, width } = plot.bbox;
  const y = plot.valToPos(allowed, "y", true);
  ctx.strokeStyle = cssValue("--text");
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(left, y);
  ctx.lineTo(left + width, y);
  ctx.stroke();
  ctx.setLineDash([]);
}

function regret(model) {
  const { series, truth } = model;
  const found = base(model, "regret", "Regret against the truth");
  const text = (value) => (isNumber(value) ? `${count(value)} clicks` : "–");
  const style = { variable: "--accent", dash: [] };
  const now = series.regret[found.index];
  const exact = truth && model.live ? ` Slate by slate it is ${count(truth.regret)}; a fixed equal split would have lost ${count(truth.regret_fixed_split)}.` : "";
  return {
    ...found,
    data: [series.version, series.regret],
    series: [{ label: "regret", ...style, fill: 0.1 }],
    range: (low, high) => [Math.min(0, low ?? 0), Math.max(1, (high ?? 1) * 1.08)],
    formatY: (value) => count(value),
    legend: [{ name: "clicks lost", style, text: (at) => count(series.regret[at]) }],
    summary: isNumber(now) ? `${text(now)} lost by the true rates to showing other variants than the best.${exact}` : "Not known at this decision.",
    table: (most) => tableOf(model, ["Clicks lost"], [series.regret], count, most),
  };
}

function padded(low, high) {
  if (low == null || high == null) return [0, 1];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

/** [rate, lower, upper] of each → a range in which the later history fills the chart; the first guesses may leave it. */
function focus(columns) {
  let low = Infinity;
  let high = -Infinity;
  const take = (value) => {
    if (!isNumber(value)) return;
    low = Math.min(low, value);
    high = Math.max(high, value);
  };
  for (const [rates, lowers, uppers] of columns) {
    const from = Math.floor(rates.length * 0.35);
    for (let i = Math.floor(rates.length * 0.1); i < rates.length; i += 1) {
      take(rates[i]);
      if (i < from) continue;
      take(lowers[i]);
      take(uppers[i]);
    }
  }
  return low === Infinity ? [0, 1] : padded(low, high);
}

