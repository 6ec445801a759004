// The list of experiments.
import { html } from "../dom.js";
import { ago, count } from "../format.js";
import { address } from "../route.js";
import { StatusBadge, VerdictBadge } from "./icons.js";

export function Sidebar({ store }) {
  const entries = [...(store.experiments?.values() ?? [])].sort(order);
  return html`<nav class="side" aria-label="Experiments">
    <h2 class="side-title">Experiments <span class="num muted">${entries.length || ""}</span></h2>
    <ul>
      ${entries.map((entry) => html`<${Line} key=${entry.name} entry=${entry} current=${entry.name === store.name} nowMs=${store.now()} />`)}
    </ul>
    ${store.skipped > 0 && html`<p class="small muted note">${count(store.skipped)} records could not be read and are left out.</p>`}
  </nav>`;
}

function order(a, b) {
  const running = (entry) => (entry.status === "running" ? 0 : 1);
  return running(a) - running(b) || (a.name < b.name ? -1 : 1);
}

function Line({ entry, current, nowMs }) {
  return html`<li>
    <a class="entry" href=${address(entry.name)} aria-current=${current ? "page" : undefined}>
      <span class="entry-top"><b class="entry-name">${entry.name}</b>${entry.spark.length > 2 && html`<${Spark} values=${entry.spark} />`}</span>
      <span class="entry-badges">
        ${entry.verdict ? html`<${VerdictBadge} verdict=${entry.verdict} />` : html`<span class="badge calm">no decision yet</span>`}
        ${entry.defined && entry.status !== "running" && html`<${StatusBadge} status=${entry.status} />`}
        <span class="small muted num entry-age">${ago(entry.updated_ms, nowMs)}</span>
      </span>
      <span class="entry-sub small muted">
        ${entry.leader && entry.kind !== "canary" ? html`<span class="leads">${entry.leader} leads</span> · ` : ""}<span class="num">${count(entry.impressions)}</span> shown
      </span>
      ${!entry.defined && html`<span class="entry-sub small muted">not in the catalogue any more</span>`}
    </a>
  </li>`;
}

function Spark({ values }) {
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const place = values.map((value, i) => `${((i / (values.length - 1)) * 60 + 2).toFixed(1)},${(18 - ((value - low) / span) * 14).toFixed(1)}`);
  const [x, y] = place.at(-1).split(",");
  return html`<svg class="spark" width="66" height="22" viewBox="0 0 66 22" aria-hidden="true" focusable="false">
    <polyline points=${place.join(" ")} /><circle cx=${x} cy=${y} r="2.2" />
  </svg>`;
}
