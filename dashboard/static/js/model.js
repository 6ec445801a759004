// What the parts of the page draw from: the state of the store, seen at the decision that is shown. Pure.
import { capital } from "./format.js";
import { styles } from "./palette.js";

export function modelOf(store) {
  const { detail, shown } = store;
  const { entry, series } = detail;
  const names = namesOf(detail, shown);
  const found = styles(names, entry.control);
  const metric = metricOf(detail, shown);
  return {
    name: store.name,
    entry,
    series,
    shown,
    live: store.live,
    pinned: store.pinned,
    names,
    metric,
    control: entry.control,
    style: (name) => found.get(name),
    state: detail.state,
    configuration: detail.experiment,
    stopping: detail.experiment?.stopping ?? null,
    counters: detail.counters,
    truth: detail.truth,
    truthStamp: detail.truth === null ? "" : JSON.stringify(detail.truth.variants),
    shadow: detail.shadow ?? [],
    lag: store.lag,
    connected: store.connection.open,
    nowMs: store.now(),
  };
}

/** In the order they are configured; then what was counted besides. */
function namesOf(detail, shown) {
  const names = new Set(detail.entry.variants);
  for (const result of shown?.results ?? []) names.add(result.variant);
  for (const name of Object.keys(detail.series.variants)) names.add(name);
  return [...names];
}

function metricOf(detail, shown) {
  const outcome = shown?.metric.outcome ?? detail.entry.metric;
  const measure = shown?.metric.measure ?? detail.experiment?.measure ?? "rate";
  const unit = shown?.metric.unit ?? detail.experiment?.unit ?? "user";
  const word = measure === "value" ? `${outcome} value` : `${outcome} rate`;
  return { outcome, measure, unit, word, title: `${capital(word)} over decisions` };
}

/** The variant that leads at the decision shown: the one shipped, else the most probable best. */
export function leaderOf(model) {
  const results = model.shown?.results ?? [];
  const known = results.filter((result) => result.p_best != null && result.impressions);
  return known.length ? known.reduce((a, b) => (b.p_best > a.p_best ? b : a)) : null;
}

/** Of a canary: the variant beside the control. */
export const candidateOf = (model) => (model.shown?.canary ? (model.names.find((name) => name !== model.control) ?? null) : null);

/** How fresh the newest decision is: `fresh`, `quiet` (nothing to decide on) or `stale` (events come, decisions do not). */
export function freshness(model) {
  const written = model.series.wall_ms.at(-1);
  if (written === undefined) return { kind: "none", ageMs: null };
  const ageMs = model.nowMs - written;
  if (ageMs < 30_000 || model.entry.status !== "running") return { kind: ageMs < 30_000 ? "fresh" : "quiet", ageMs };
  const flows = (model.lag?.events_per_s ?? 0) > 0 || (model.lag?.events ?? 0) > 0;
  return { kind: flows ? "stale" : "quiet", ageMs };
}
