// Where each variant's true rate lies, as the decision sees it: the posterior densities. Library: uPlot (joins the axes).
import uPlot from "../../vendor/uplot/uPlot.esm.js";
import { count, interval, metricFormat } from "../format.js";

export function densityFigure(model) {
  const { shown } = model;
  if (!shown) return null;
  const names = model.names.filter((name) => shown.density[name]?.x.length);
  if (names.length === 0) return null;
  const format = metricFormat(model.metric.measure);
  const data = uPlot.join(names.map((name) => [shown.density[name].x, shown.density[name].y]));
  const results = new Map(shown.results.map((result) => [result.variant, result]));
  const said = (name) => interval(results.get(name)?.interval, format.level);
  return {
    id: "density",
    title: `Posterior ${model.metric.word}s`,
    key: `density|${model.name}|${names.join("|")}|${model.metric.measure}`,
    stamp: `${shown.version}`,
    marker: null,
    index: null,
    data,
    series: names.map((name) => ({ label: name, ...model.style(name), fill: 0.14, spanGaps: true })),
    formatX: format.level,
    formatY: () => "",
    bareY: true,
    formatAt: format.level,
    height: 280,
    range: (_, high) => [0, (high ?? 1) * 1.08],
    legend: names.map((name) => ({ name, style: model.style(name), text: () => format.level(results.get(name)?.weighted_rate ?? results.get(name)?.rate) })),
    summary: `${names.map((name) => `${name} ${said(name)}`).join("; ")} with 95 % (posterior of decision ${count(shown.version)}).`,
    table: () => ({
      head: ["Variant", "Estimate", "95 % interval", "Beta posterior"],
      rows: names.map((name) => {
        const one = results.get(name) ?? {};
        const beta = one.alpha == null ? "–" : `α ${count(one.alpha)}, β ${count(one.beta)}`;
        return [name, format.level(one.weighted_rate ?? one.rate), said(name), beta];
      }),
    }),
  };
}
