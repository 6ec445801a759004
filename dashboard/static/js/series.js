// The history of an experiment in columns. Bounded like the server's: at most LIMIT points after each thinning.

export const LIMIT = 600;
const SLACK = 60;
const COLUMNS = ["version", "at_ms", "wall_ms", "verdict", "allocation_version"];
const VARIANT_COLUMNS = ["rate", "lower", "upper", "allocation", "p_best", "expected_loss", "impressions", "clicks"];

/** Appends the new points to `series`, those it has already left out. Returns the series to go on with. */
export function append(series, points) {
  const newest = series.version.at(-1) ?? -1;
  const from = points.version.findIndex((version) => version > newest);
  if (from < 0) return series;
  const before = series.version.length;
  const added = points.version.length - from;
  for (const column of COLUMNS) series[column].push(...points[column].slice(from));
  for (const [name, columns] of Object.entries(points.variants)) {
    series.variants[name] ??= Object.fromEntries(VARIANT_COLUMNS.map((column) => [column, Array(before).fill(null)]));
    for (const column of VARIANT_COLUMNS) series.variants[name][column].push(...columns[column].slice(from));
  }
  for (const [name, columns] of Object.entries(series.variants)) {
    if (name in points.variants) continue;
    for (const column of VARIANT_COLUMNS) columns[column].push(...Array(added).fill(null));
  }
  if (series.regret || points.regret) {
    series.regret ??= Array(before).fill(null);
    series.regret.push(...(points.regret?.slice(from) ?? Array(added).fill(null)));
  }
  series.decisions += added;
  return series.version.length > LIMIT + SLACK ? thinned(series) : series;
}

/** At most LIMIT points: first, last and changes of verdict or allocation before the others, all evenly. */
export function thinned(series) {
  const size = series.version.length;
  const wanted = [];
  const others = [];
  for (let i = 0; i < size; i += 1) {
    const moves =
      i === 0 ||
      i === size - 1 ||
      series.verdict[i] !== series.verdict[i - 1] ||
      series.allocation_version[i] !== series.allocation_version[i - 1];
    (moves ? wanted : others).push(i);
  }
  const kept = wanted.length < LIMIT ? [...wanted, ...evenly(others, LIMIT - wanted.length)] : evenly(wanted, LIMIT);
  kept.sort((a, b) => a - b);
  const pick = (column) => kept.map((i) => column[i]);
  return {
    ...series,
    ...Object.fromEntries(COLUMNS.map((column) => [column, pick(series[column])])),
    variants: Object.fromEntries(
      Object.entries(series.variants).map(([name, columns]) => [
        name,
        Object.fromEntries(VARIANT_COLUMNS.map((column) => [column, pick(columns[column])])),
      ]),
    ),
    regret: series.regret && pick(series.regret),
  };
}

/** `most` of them, the first and the last among them. */
export function evenly(items, most) {
  if (items.length <= most) return items;
  if (most < 2) return items.slice(0, most);
  return Array.from({ length: most }, (_, k) => items[Math.round((k * (items.length - 1)) / (most - 1))]);
}

/** Index of the last point whose version is at most `version`; 0 when all are later. */
export function indexAt(series, version) {
  let low = 0;
  let high = series.version.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (series.version[middle] <= version) low = middle;
    else high = middle - 1;
  }
  return low;
}
