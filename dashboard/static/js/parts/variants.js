// One line a variant: what was counted, what is concluded, what traffic it gets.
import { html } from "../dom.js";
import { count, interval, metricFormat, probability } from "../format.js";
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
  return html`<section class="card" aria-labelledby="variants">
    <header class="card-head"><h2 id="variants">Variants</h2>
      <span class="muted small">${live ? "impressions and outcomes are live; the rest as of the decision" : "as of this decision"}</span></header>
    <div class="scroll" tabindex="0" role="group" aria-label="Table of variants">
      <table class="variants">
        <thead><tr>
          <th scope="col">Variant</th><th scope="col">Impressions</th><th scope="col">${model.metric.outcome === "click" ? "Clicks" : model.metric.outcome}</th>
          <th scope="col">${model.metric.word}</th><th scope="col">at all times</th>${known && html`<th scope="col">true</th>`}
          <th scope="col">P(best)</th><th scope="col">Expected loss</th><th scope="col">Allocation</th>
        </tr></thead>
        <tbody>
          ${model.names.map(row).map(
            (one) => html`<tr key=${one.name}>
              <th scope="row"><span class="variant-name"><${Swatch} style=${model.style(one.name)} /><span>${one.name}</span>${one.name === model.control && html`<span class="tag">control</span>`}</span>
                ${one.ranker && one.ranker !== one.name && html`<span class="ranker small muted">${one.ranker}</span>`}</th>
              <td class="num">${count(one.impressions)}</td>
              <td class="num">${count(one.clicks)}</td>
              <td class="num strong">${format.level(one.rate)}</td>
              <td class="num muted">${interval(one.sequence, format.level)}</td>
              ${known && html`<td class="num muted">${format.level(one.truth)}</td>`}
              <td class="num"><${Bar} share=${one.best} style=${model.style(one.name)} />${probability(one.best)}</td>
              <td class="num">${format.amount(one.loss)}${one.loss != null && format.unit ? html` <span class="unit">${format.unit}</span>` : ""}</td>
              <td class="num"><${Bar} share=${(one.share ?? 0) / 100} style=${model.style(one.name)} />${one.share ?? "–"} %</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}

function Bar({ share, style }) {
  const width = Math.round(100 * Math.min(1, Math.max(0, share ?? 0)));
  return html`<svg class="bar" width="56" height="6" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" focusable="false">
    <rect class="bar-ground" width="100" height="6" rx="3" /><rect width=${width} height="6" rx="3" fill=${`var(${style.variable})`} />
  </svg>`;
}
