// One line a variant: what was counted, what is concluded, what traffic it gets.
import { html } from "../dom.js";
import { capital, count, interval, metricFormat, probability, wholePercent } from "../format.js";
import { Swatch } from "./icons.js";

export function Variants({ model }) {
  const { shown, counters, live, truth } = model;
  const format = metricFormat(model.metric.measure);
  const results = new Map((shown?.results ?? []).map((result) => [result.variant, result]));
  const rankers = new Map((model.configuration?.variants ?? []).map((variant) => [variant.name, variant.ranker]));
  const row = (name) => {
    const result = results.get(name) ?? {};
    const counted = live ? counters?.variants[name] : null;
    return {
      name,
      ranker: rankers.get(name),
      impressions: counted?.impressions ?? result.impressions,
      clicks: counted?.clicks ?? result.outcomes,
      rate: result.weighted_rate ?? (result.impressions ? result.rate : null),
      sequence: result.sequence,
      best: result.impressions ? result.p_best : null,
      loss: result.impressions ? result.expected_loss : null,
      share: shown?.allocation[name],
      truth: truth?.variants[name]?.rate,
    };
  };
  const known = live && truth;
  const outcome = model.metric.outcome === "click" ? "Clicks" : capital(model.metric.outcome);
  const titles = ["Variant", "Impressions", outcome, `${capital(model.metric.word)}, at all times`, ...(known ? ["True"] : []), "P(best)", "Expected loss", "Allocation"];
  return html`<section class="card" aria-labelledby="variants">
    <header class="card-head"><h2 id="variants">Variants</h2>
      <span class="muted small">${live ? "impressions and outcomes are live; the rest as of the decision" : "as of this decision"}</span></header>
    <table class="variants" role="table">
      <thead role="rowgroup"><tr role="row">
        ${titles.map((title) => html`<th key=${title} scope="col" role="columnheader">${title}</th>`)}
      </tr></thead>
      <tbody role="rowgroup">
        ${model.names.map(row).map((one) => html`<${Row} key=${one.name} one=${one} titles=${titles} known=${known} model=${model} format=${format} />`)}
      </tbody>
    </table>
  </section>`;
}

/** On narrow screens every cell carries its title, and a row becomes a block; the roles keep it a table for everybody. */
function Row({ one, titles, known, model, format }) {
  const style = model.style(one.name);
  const cells = [
    count(one.impressions),
    count(one.clicks),
    html`<span class="strong">${format.level(one.rate)}</span>${one.sequence && html`<span class="under small muted">${interval(one.sequence, format.level)}</span>`}`,
    ...(known ? [format.level(one.truth)] : []),
    html`${probability(one.best)}<${Bar} share=${one.best} style=${style} />`,
    html`${format.amount(one.loss)}${one.loss != null && format.unit ? html` <span class="unit">${format.unit}</span>` : ""}`,
    html`${wholePercent(one.share)}<${Bar} share=${(one.share ?? 0) / 100} style=${style} />`,
  ];
  return html`<tr role="row">
    <th scope="row" role="rowheader">
      <span class="variant-name"><${Swatch} style=${style} /><span>${one.name}</span>${one.name === model.control && html`<span class="tag">control</span>`}</span>
      ${one.ranker && one.ranker !== one.name && html`<span class="under small muted">${one.ranker}</span>`}
    </th>
    ${cells.map((cell, i) => html`<td key=${i} role="cell" class="num" data-title=${titles[i + 1]}><span>${cell}</span></td>`)}
  </tr>`;
}

function Bar({ share, style }) {
  const width = Math.round(100 * Math.min(1, Math.max(0, share ?? 0)));
  return html`<svg class="bar" width="72" height="5" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" focusable="false">
    <rect class="bar-ground" width="100" height="6" rx="3" /><rect width=${width} height="6" rx="3" fill=${`var(${style.variable})`} />
  </svg>`;
}
