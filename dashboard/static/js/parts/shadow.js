// Models that are asked and never shown, beside the variants that are; and what segments say.
import { html } from "../dom.js";
import { count, interval, metricFormat, percent, pValue, significant } from "../format.js";

const ms = (value) => (value == null ? "–" : `${significant(value, 2)} ms`);
const tau = (value) => (value == null ? "–" : value.toFixed(2));

export function Shadow({ model }) {
  if (!model.live || model.shadow.length === 0) return null;
  return html`<section class="card" aria-labelledby="shadow">
    <header class="card-head"><h2 id="shadow">Shadows</h2><span class="muted small">asked beside a variant, shown to nobody</span></header>
    <div class="scroll" tabindex="0" role="group" aria-label="Table of shadows">
      <table>
        <thead><tr><th scope="col">Shadow</th><th scope="col">beside</th><th scope="col">Compared</th><th scope="col">Same best items</th>
          <th scope="col">Rank correlation</th><th scope="col">Score distance</th><th scope="col">p95 shadow</th><th scope="col">p95 served</th><th scope="col">Failed</th></tr></thead>
        <tbody>
          ${model.shadow.map(
            (one) => html`<tr key=${`${one.shadow}|${one.shadow_version}|${one.variant}|${one.version}`}>
              <th scope="row">${one.shadow}${one.shadow_version && html` <span class="muted small">v${one.shadow_version}</span>`}</th>
              <td>${one.variant}${one.version && html` <span class="muted small">v${one.version}</span>`}</td>
              <td class="num">${count(one.compared)} of ${count(one.requests)}</td>
              <td class="num"><b>${percent(one.overlap)}</b> <span class="muted small">${interval(one.overlap_interval, percent)}</span></td>
              <td class="num"><b>${tau(one.rank_correlation)}</b> <span class="muted small">${interval(one.rank_correlation_interval, tau)}</span></td>
              <td class="num">${one.score_distance == null ? "–" : one.score_distance.toFixed(3)}</td>
              <td class="num">${ms(one.shadow_ms.p95)}</td><td class="num">${ms(one.served_ms.p95)}</td>
              <td class="num">${failures(one)}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}

function failures(one) {
  const told = Object.entries(one.errors).map(([kind, number]) => `${count(number)} ${kind}`);
  if (one.dropped) told.push(`${count(one.dropped)} not asked`);
  return told.join(", ") || "none";
}

export function Segments({ model }) {
  const segments = model.shown?.segments ?? [];
  if (segments.length === 0) return null;
  const format = metricFormat(model.metric.measure);
  return html`<section class="card" aria-labelledby="segments">
    <header class="card-head"><h2 id="segments">Segments</h2><span class="muted small">exploratory: found by looking in many places</span></header>
    <div class="scroll" tabindex="0" role="group" aria-label="Table of segments">
      <table>
        <thead><tr><th scope="col">Segment</th><th scope="col">Variant</th><th scope="col">Units</th><th scope="col">Against ${model.control}</th>
          <th scope="col">at all times</th><th scope="col">p, corrected</th></tr></thead>
        <tbody>
          ${segments.map(
            (one) => html`<tr key=${`${one.key}|${one.value}|${one.variant}`}>
              <th scope="row">${one.key} = ${one.value}</th><td>${one.variant}</td><td class="num">${count(one.units)}</td>
              <td class="num">${format.difference(one.difference)} ${format.unit}</td><td class="num muted">${interval(one.interval, format.difference)}</td>
              <td class="num">${pValue(one.p_holm)}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}
