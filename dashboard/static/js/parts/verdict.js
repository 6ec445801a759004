// What is concluded, and why, in words; beside it the three figures it rests on.
import { html } from "../dom.js";
import { count, interval, metricFormat, pValue, probability } from "../format.js";
import { leaderOf } from "../model.js";
import { Icon, verdictLook } from "./icons.js";

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
  const candidate = shown.canary ? model.names.find((name) => name !== model.control) : leader.variant;
  return `${word} ${candidate}`;
}

export function Verdict({ model }) {
  const { shown } = model;
  if (!shown) return null;
  const [tone, icon] = verdictLook(shown.verdict);
  const [first, ...others] = shown.reasons;
  return html`<section class=${`card verdict ${tone}`} aria-labelledby="verdict">
    <div class="verdict-words">
      <p class="verdict-word" ><span class="verdict-icon"><${Icon} name=${icon} size=${22} /></span><span id="verdict" role="heading" aria-level="2">${headingOf(model)}</span></p>
      <p class="lead">${first ?? "The record of this decision gives no reasons."}</p>
      ${others.length > 0 && html`<ul class="reasons">${others.map((reason, i) => html`<li key=${i}>${reason}</li>`)}</ul>`}
      ${shown.missing?.length > 0 &&
      html`<p class="small muted">This decision was written by another version of Sluice and tells nothing of: ${shown.missing.join(", ")}.</p>`}
    </div>
    <${Figures} model=${model} />
  </section>`;
}

function Figures({ model }) {
  const leader = leaderOf(model);
  if (!leader) return null;
  const format = metricFormat(model.metric.measure);
  const against = leader.contrast ?? model.shown.results.find((result) => result.contrast)?.contrast;
  const who = leader.contrast ? leader.variant : model.shown.results.find((result) => result.contrast)?.variant;
  const unit = format.unit ? html` <span class="unit">${format.unit}</span>` : "";
  return html`<dl class="figures">
    <div>
      <dt>P(best) of ${leader.variant}</dt>
      <dd class="num big">${probability(leader.p_best)}</dd>
    </div>
    ${against &&
    html`<div>
      <dt>${who} against ${model.control}</dt>
      <dd class="num big">${format.difference(against.difference)}${unit}</dd>
      <dd class="small muted num">${interval(against.interval, format.difference)} at all times · p ${pValue(against.always_valid_p)}</dd>
    </div>`}
    <div>
      <dt>Risk of choosing ${leader.variant}</dt>
      <dd class="num big">${format.amount(leader.expected_loss)}${unit}</dd>
      ${model.stopping?.expected_loss != null && html`<dd class="small muted num">allowed: ${format.amount(model.stopping.expected_loss)}${format.unit && ` ${format.unit}`}</dd>`}
    </div>
  </dl>`;
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
    <${Tile} title="Impressions" value=${count(shownCount)} />
    <${Tile} title=${model.metric.outcome === "click" ? "Clicks" : model.metric.outcome} value=${count(clicks)} />
    ${rate !== null && html`<${Tile} title=${`${model.metric.word}, all variants`} value=${metricFormat("rate").level(rate)} />`}
    ${live && html`<${Tile} title="Throughput" value=${speed == null ? "–" : count(speed)} unit="events/s" />`}
    ${live && html`<${Tile} title="Lag of counting" value=${count(lag)} unit=${lag === 1 ? "event" : "events"} />`}
    ${live && truth && html`<${Tile} title="Regret" value=${count(truth.regret)} unit=${`clicks · equal split ${count(truth.regret_fixed_split)}`} />`}
  </dl>`;
}

function Tile({ title, value, unit }) {
  return html`<div class="tile"><dt>${title}</dt><dd class="num"><b>${value}</b>${unit && html` <span class="unit">${unit}</span>`}</dd></div>`;
}
