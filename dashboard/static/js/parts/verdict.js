// What is concluded, and why, in words; beside it the three figures it rests on.
import { html } from "../dom.js";
import { capital, count, interval, metricFormat, pValue, probability, typeset, wholePercent } from "../format.js";
import { candidateOf, leaderOf } from "../model.js";
import { guardrailLight, sampleRatioLight } from "./checks.js";
import { Icon, Light, verdictLook } from "./icons.js";

const HEADINGS = {
  ship: "Ship",
  stop: "Stop",
  rollback: "Roll back",
  invalid: "Invalid",
  continue: "Go on",
  "insufficient-data": "Too early to say",
  "no-traffic": "No traffic yet",
};

export function headingOf(model) {
  const { shown } = model;
  const word = HEADINGS[shown.verdict] ?? shown.verdict;
  const leader = leaderOf(model);
  if (shown.verdict !== "ship" || !leader) return word;
  return `${word} ${candidateOf(model) ?? leader.variant}`;
}

export function Verdict({ model, store }) {
  const { shown } = model;
  if (!shown) return null;
  const [tone, icon] = verdictLook(shown.verdict);
  const [first, ...others] = shown.reasons;
  const heading = headingOf(model);
  return html`<section class=${`card verdict ${tone}`} aria-labelledby="verdict">
    <div class="verdict-words">
      <p class="verdict-word"><span class="verdict-icon"><${Icon} name=${icon} size=${22} /></span><span id="verdict" role="heading" aria-level="2">${heading}</span></p>
      <p class="lead">${first ? typeset(withoutHeading(first, heading)) : "The record of this decision gives no reasons."}</p>
      <${Lights} model=${model} store=${store} />
      ${others.length > 0 && html`<ul class="reasons">${others.map((reason, i) => html`<li key=${i}>${typeset(reason)}</li>`)}</ul>`}
      ${shown.missing?.length > 0 &&
      html`<p class="small muted">This decision was written by another version of Sluice and tells nothing of: ${shown.missing.join(", ")}.</p>`}
    </div>
    <${Figures} model=${model} />
  </section>`;
}

/** The first reason often begins with what stands above it. */
function withoutHeading(reason, heading) {
  return reason.startsWith(`${heading}: `) ? capital(reason.slice(heading.length + 2)) : reason;
}

/** What everything else rests on, at a glance; `Checks` tells more. */
function Lights({ model, store }) {
  const { sample_ratio: ratio, guardrails } = model.shown;
  const [tone, word] = sampleRatioLight(ratio.status);
  const rails = guardrails.length ? guardrailLight(guardrails) : null;
  return html`<ul class="lights">
    <li><button class="button small-button" onClick=${() => store.explain(model.shown.version)}>Explain this decision</button></li>
    <li><${Light} tone=${tone}>Sample ratio ${word}</${Light}></li>
    ${rails && html`<li><${Light} tone=${rails[0]}>Guardrails: ${rails[1]}</${Light}></li>`}
  </ul>`;
}

function Figures({ model }) {
  const { results } = model.shown;
  const candidate = candidateOf(model);
  const leader = candidate ? results.find((result) => result.variant === candidate) : leaderOf(model);
  if (!leader?.impressions) return null;
  const format = metricFormat(model.metric.measure);
  const unit = format.unit && html` <span class="unit">${format.unit}</span>`;
  // A leading control is told by how the next one stands against it.
  const compared = leader.contrast ? leader : results.find((result) => result.contrast);
  const allowed = candidate ? null : model.stopping?.expected_loss;
  return html`<dl class="figures">
    ${candidate && html`<${Figure} title=${`Traffic of ${candidate}`} value=${wholePercent(model.shown.allocation[candidate])} />`}
    ${!candidate && html`<${Figure} title=${`P(best) of ${leader.variant}`} value=${probability(leader.p_best)} />`}
    ${compared &&
    html`<${Figure} title=${`${compared.variant} against ${model.control}`} value=${format.difference(compared.contrast.difference)} unit=${unit}
      sub=${`${interval(compared.contrast.interval, format.difference)} at all times, p ${pValue(compared.contrast.always_valid_p)}`} />`}
    <${Figure} title=${`Risk of choosing ${leader.variant}`} value=${format.amount(leader.expected_loss)} unit=${unit}
      sub=${allowed == null ? null : `allowed: ${format.amount(allowed)} ${format.unit}`} />
  </dl>`;
}

function Figure({ title, value, unit, sub }) {
  return html`<div><dt>${title}</dt><dd class="num big">${value}${unit}</dd>${sub && html`<dd class="small muted num">${sub}</dd>`}</div>`;
}

/** Live counters above all charts; in the past what the decision had counted. */
export function Tiles({ model }) {
  const { shown, counters, truth, live } = model;
  const results = shown?.results ?? [];
  const sum = (column) => results.reduce((total, result) => total + (result[column] ?? 0), 0);
  const current = live && counters ? Object.values(counters.variants) : null;
  const shownCount = current ? current.reduce((total, one) => total + one.impressions, 0) : sum("impressions");
  const clicks = current ? current.reduce((total, one) => total + one.clicks, 0) : sum("outcomes");
  const rate = model.metric.measure === "rate" && shownCount ? clicks / shownCount : null;
  const lag = live ? (counters?.lag ?? model.lag?.events) : null;
  const speed = live ? (counters?.events_per_s ?? model.lag?.events_per_s) : null;
  return html`<dl class="tiles">
    <${Tile} title="Impressions" value=${count(shownCount)} sub=${live ? "live" : "then"} />
    <${Tile} title=${model.metric.outcome === "click" ? "Clicks" : capital(model.metric.outcome)} value=${count(clicks)} sub=${live ? "live" : "then"} />
    ${rate !== null && html`<${Tile} title=${`${capital(model.metric.outcome)} rate`} value=${metricFormat("rate").level(rate)} sub="all variants" />`}
    ${live && html`<${Tile} title="Throughput" value=${speed == null ? "–" : count(speed)} sub="events a second" />`}
    ${live && html`<${Tile} title="Lag of counting" value=${count(lag)} sub=${lag === 1 ? "event" : "events"} />`}
    ${live && truth && html`<${Tile} title="Regret" value=${count(truth.regret)} sub=${`equal split: ${count(truth.regret_fixed_split)}`} />`}
  </dl>`;
}

function Tile({ title, value, sub }) {
  return html`<div class="tile"><dt>${title}</dt><dd class="num"><b>${value}</b> <span class="sub small muted">${sub}</span></dd></div>`;
}
