// Every decision, the newest first, and every change somebody made.
import { html } from "../dom.js";
import { ago, count, moment, shares, typeset } from "../format.js";
import { StatusBadge, VerdictBadge } from "./icons.js";

export function DecisionLog({ model, store }) {
  const log = store.shownLog;
  const at = model.pinned ?? model.shown?.version;
  return html`<section class="card" aria-labelledby="log">
    <header class="card-head"><h2 id="log">Decisions</h2><span class="muted small num">${model.live ? `${count(model.series.decisions)} so far` : `up to ${count(model.pinned)}`}</span></header>
    ${log.error && html`<p class="pad small" role="alert">${log.error}</p>`}
    <ol class="log" tabindex="0" aria-label="Decisions, the newest first">
      ${log.lines.map((line) => html`<${Line} key=${line.version} line=${line} current=${line.version === at} store=${store} />`)}
    </ol>
    ${log.more &&
    html`<p class="pad"><button class="button" disabled=${log.loading} onClick=${() => store.moreLines()}>${log.loading ? "Loading …" : "Older decisions"}</button></p>`}
  </section>`;
}

function Line({ line, current, store }) {
  return html`<li class=${current ? "current" : ""} aria-current=${current ? "true" : undefined}>
    <button class="link num version" onClick=${() => store.travel(line.version)} aria-label=${`Show decision ${line.version}`}>${count(line.version)}</button>
    <div class="log-text">
      <p class="log-head"><${VerdictBadge} verdict=${line.verdict} /><span class="small muted num">${moment(line.at_ms)}</span></p>
      <p class="log-reason">${typeset(line.reason)}</p>
      <p class="small muted num">${shares(line.allocation)}</p>
    </div>
    <button class="button small-button" onClick=${() => store.explain(line.version)} aria-label=${`Explain decision ${line.version}`}>Explain</button>
  </li>`;
}

export function Changes({ model }) {
  const changes = [...(model.state?.changes ?? [])].reverse();
  if (changes.length === 0) return null;
  return html`<section class="card" aria-labelledby="changes">
    <header class="card-head"><h2 id="changes">Who changed what</h2></header>
    <ol class="changes">
      ${changes.map(
        (change) => html`<li key=${change.revision}>
          <${StatusBadge} status=${change.status} />
          <span><b>${change.action}</b>${change.variant && ` ${change.variant}`}${change.by && ` by ${change.by}`}${change.why && html`: “${change.why}”`}</span>
          <span class="small muted num" title=${moment(change.at_ms)}>${ago(change.at_ms, model.nowMs)}</span>
        </li>`,
      )}
    </ol>
  </section>`;
}
