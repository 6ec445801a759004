// How far a canary is, and the reason of each move.
import { html } from "../dom.js";
import { count, duration, interval, metricFormat, moment, typeset, wholePercent } from "../format.js";
import { CanaryBadge, Icon, Light } from "./icons.js";

const STATUS = { passed: ["ok", "good enough"], worse: ["bad", "worse"], open: ["calm", "not known yet"] };

export function Canary({ model, store }) {
  const { canary } = model.shown ?? {};
  if (!canary) return null;
  const format = metricFormat(model.metric.measure);
  return html`<section class="card" aria-labelledby="canary">
    <header class="card-head"><h2 id="canary">Canary</h2><${CanaryBadge} state=${canary.state} /></header>
    <ol class="stepper">
      ${canary.steps.map((step, i) => html`<${Step} key=${i} step=${step} place=${i + 1} canary=${canary} format=${format} />`)}
      <${Last} canary=${canary} />
    </ol>
    ${canary.metrics.length > 0 &&
    html`<ul class="checks">
      ${canary.metrics.map((metric) => {
        const [tone, word] = STATUS[metric.status] ?? ["calm", metric.status];
        return html`<li key=${metric.outcome}>
          <span class="check-name">${metric.outcome}</span><${Light} tone=${tone}>${word}</${Light}>
          <span class="check-text small muted num">${metric.difference === null
            ? "nothing known yet"
            : `${format.difference(metric.difference)} ${format.unit}${metric.interval ? ` (${interval(metric.interval, format.difference)} at all times)` : ""}`}; margin ${format.amount(metric.margin)} ${format.unit}</span>
        </li>`;
      })}
    </ul>`}
    ${canary.needed_units && !ended(canary) &&
    html`<p class="small muted pad">If differences stay as they are, this step needs ${Object.entries(canary.needed_units)
      .map(([name, units]) => `${count(units)} more ${model.metric.unit}s of ${name}`)
      .join(" and ")}.</p>`}
    <${Moves} moves=${canary.moves} store=${store} />
  </section>`;
}

const ended = (canary) => canary.state === "promoted" || canary.state === "rolled-back";

function Step({ step, place, canary, format }) {
  const promoted = canary.state === "promoted";
  const done = promoted || place < canary.step;
  const current = !promoted && place === canary.step;
  const word = done ? "done" : current ? canary.state.replace("-", " ") : "to come";
  return html`<li class=${`step ${done ? "done" : current ? "current" : ""} ${current && canary.state === "rolled-back" ? "bad" : ""}`} aria-current=${current ? "step" : undefined}>
    <span class="step-mark num">${done ? html`<${Icon} name="ok" size=${14} />` : current && canary.state === "rolled-back" ? html`<${Icon} name="bad" size=${14} />` : place}</span>
    <span class="step-text"><b class="num">${wholePercent(step.share)}</b><span class="small muted">${word}</span>
      <span class="small muted num">margin ${format.amount(step.margin)} ${format.unit}</span>
      <span class="small muted num">at least ${duration(step.shortest_s)}</span></span>
  </li>`;
}

function Last({ canary }) {
  const done = canary.state === "promoted";
  return html`<li class=${`step ${done ? "done" : ""}`}>
    <span class="step-mark"><${Icon} name=${done ? "ok" : "ship"} size=${14} /></span>
    <span class="step-text"><b class="num">${wholePercent(100)}</b><span class="small muted">${done ? "promoted" : "to come"}</span></span>
  </li>`;
}

function Moves({ moves, store }) {
  if (moves.length === 0) return null;
  const told = moves.filter((move) => move.step !== move.from_step || move.because !== "evidence").reverse();
  return html`<details class="more" open><summary>Moves <span class="num muted">${told.length}</span></summary>
    <ol class="moves">
      ${told.map(
        (move) => html`<li key=${move.version}>
          <p class="log-head"><button class="link num" onClick=${() => store.travel(move.version)}>Decision ${count(move.version)}</button>
            <span class="small muted num">${moment(move.at_ms)}</span></p>
          <p>${typeset(move.reason)}</p>
        </li>`,
      )}
    </ol>
  </details>`;
}
