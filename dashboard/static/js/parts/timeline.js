// Time travel: a slider over decisions. Arrows, Page Up and Down, Home and End are those of every slider.
import { html } from "../dom.js";
import { ago, count, moment } from "../format.js";
import { freshness } from "../model.js";
import { Icon } from "./icons.js";

export function Timeline({ model, store }) {
  const { series, shown, pinned } = model;
  const newest = series.version.at(-1);
  if (newest === undefined) return null;
  const first = series.version[0];
  const at = pinned ?? newest;
  const fresh = freshness(model);
  const go = (event) => {
    const version = Number(event.currentTarget.value);
    store.travel(version >= newest ? null : version);
  };
  return html`<section class=${`timeline ${model.live ? "" : "past"}`} aria-label="Time travel">
    <div class="timeline-row">
      <div class="timeline-text">
        <b class="num">Decision ${count(at)}</b><span class="muted num"> of ${count(newest)}</span>
        <span class="muted small num when" title="Event time the evidence reaches to (UTC)">${moment(shown?.at_ms)}</span>
      </div>
      ${model.live
        ? html`<${Age} fresh=${fresh} model=${model} />`
        : html`<button class="button primary" onClick=${() => store.travel(null)}><${Icon} name="play" size=${13} />Back to live</button>`}
    </div>
    <input type="range" min=${first} max=${newest} step="1" value=${at} onInput=${go} disabled=${first === newest}
      aria-label="Decision" aria-valuetext=${`Decision ${at} of ${newest}${model.live ? ", live" : `, ${moment(shown?.at_ms)}`}`} />
    ${!model.live &&
    html`<p class="past-note small" role="status">
      ${store.viewError ?? html`You see everything as it was at decision ${count(pinned)}. What came after it is faded.`}
    </p>`}
  </section>`;
}

function Age({ fresh, model }) {
  const age = ago(model.series.wall_ms.at(-1), model.nowMs);
  if (!model.connected) return html`<span class="light warn"><${Icon} name="offline" size=${14} />not connected</span>`;
  if (fresh.kind === "stale") {
    return html`<span class="light warn" title="Events are counted, but the analyzer has decided nothing since">
      <${Icon} name="warn" size=${14} />stale: last decision ${age}
    </span>`;
  }
  if (fresh.kind === "quiet") {
    return html`<span class="light calm" title="No new evidence, so nothing to decide"><${Icon} name="open" size=${14} />quiet: last decision ${age}</span>`;
  }
  return html`<span class="light ok"><span class="dot live" aria-hidden="true"></span>live: last decision ${age}</span>`;
}
