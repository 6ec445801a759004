// The lives of registered models: which version serves, what is under way, whether the world has drifted, what happened.
import { html } from "../dom.js";
import { ago, capital, count, moment, significant, typeset, wholePercent } from "../format.js";
import { Icon, Light } from "./icons.js";

const STAGES = ["trained", "gated", "shadow", "canary", "in force"];
const TITLES = { trained: "trained", gated: "model tests", shadow: "shadow", canary: "canary", "in force": "in force" };
const DONE = { requested: 0, trained: 1, gated: 2, shadow: 2, judged: 3, canary: 3 };
const ICONS = { ok: "ok", warn: "warn", bad: "bad", calm: "open" };
const FIRST = 6;

/** Those that rank for this experiment before the others. */
export function Models({ model, lives }) {
  const used = (model.configuration?.variants ?? []).map((variant) => variant.ranker ?? "");
  const all = [...lives.values()].flat();
  if (!model.live || all.length === 0) return null;
  const ranks = (life) => (used.includes(`models:/${life.model}@${life.alias}`) ? 0 : 1);
  return html`<section class="card" aria-labelledby="models">
    <header class="card-head"><h2 id="models">Models</h2><span class="muted small">which version serves, and how it came there</span></header>
    ${all
      .sort((a, b) => ranks(a) - ranks(b))
      .map((life) => html`<${Life} key=${`${life.model}@${life.alias}`} life=${life} here=${ranks(life) === 0} nowMs=${model.nowMs} />`)}
  </section>`;
}

function Life({ life, here, nowMs }) {
  const [first, rest] = [life.events.slice(0, FIRST), life.events.slice(FIRST)];
  return html`<article class="life">
    <header class="life-head">
      <h3>${life.model}${life.alias && html`<span class="muted">@${life.alias}</span>`}</h3>
      ${here && html`<span class="tag">ranks here</span>`}
      <span class="spring"></span>
      ${life.paused !== null && html`<${Light} tone="warn">paused</${Light}>`}
      ${life.in_force && html`<${Light} tone="ok">version ${life.in_force} serves</${Light}>`}
    </header>
    <${Attempt} life=${life} />
    <${Drift} drift=${life.drift} nowMs=${nowMs} />
    ${first.length > 0 && html`<ol class="moves">${first.map((event) => html`<${Event} key=${event.id} event=${event} nowMs=${nowMs} />`)}</ol>`}
    ${rest.length > 0 && html`<details class="more-events"><summary>${count(rest.length)} before</summary><ol class="moves">${rest.map((event) => html`<${Event} key=${event.id} event=${event} nowMs=${nowMs} />`)}</ol></details>`}
  </article>`;
}

/** What is under way, as steps. */
function Attempt({ life }) {
  const { attempt } = life;
  if (attempt === null || attempt.stage === "ended") return null;
  const done = attempt.share === 100 ? STAGES.length - 1 : (DONE[attempt.stage] ?? 0);
  return html`<ol class="stepper" aria-label="The attempt to release a new version">
    ${STAGES.map((stage, i) => {
      const tone = i < done ? "done" : i === done ? "current" : "";
      return html`<li key=${stage} class=${`step ${tone}`} aria-current=${tone === "current" ? "step" : undefined}>
        <span class="step-mark num">${i < done ? html`<${Icon} name="ok" size=${14} />` : i + 1}</span>
        <span class="step-text"><b>${capital(TITLES[stage])}</b>
          <span class="small muted">${stage === "trained" && attempt.version ? `version ${attempt.version}` : stage === "canary" && attempt.share ? wholePercent(attempt.share) : ""}</span></span>
      </li>`;
    })}
  </ol>`;
}

function Drift({ drift, nowMs }) {
  if (drift === null) return null;
  const [tone, state] = drift.settling !== null ? ["calm", "settling"] : drift.drifted ? ["warn", "drifted"] : ["ok", "no drift"];
  return html`<div class="drift">
    <p title=${drift.settling !== null ? "what is normal is learned from what this version itself shows" : undefined}>
      <${Light} tone=${tone}>${state}${drift.settling !== null && `: ${drift.settling}`}</${Light}>
      <span class="small muted num">version ${drift.version}, latest ${count(drift.rows)} rows, looked at ${ago(drift.checked_ms, nowMs)}</span></p>
    <ul class="drifts">
      ${drift.measures.map(
        (one) => html`<li key=${one.name} class=${one.drifted ? "drifted" : ""} title=${one.drifted ? "drifted" : "no drift"}>
          <span>${one.name.replaceAll("_", " ")}</span> <b class="num">${one.effect === null ? "–" : signed(one.effect)}</b>${one.drifted && html`<${Icon} name="warn" size=${12} />`}
        </li>`,
      )}
    </ul>
  </div>`;
}

const signed = (effect) => `${effect < 0 ? "−" : "+"}${significant(Math.abs(effect), 2)}`;

function Event({ event, nowMs }) {
  return html`<li>
    <p class="log-head"><span class=${`life-event ${event.tone}`}><${Icon} name=${ICONS[event.tone]} size=${14} />${typeset(event.words)}</span>
      ${event.by && html`<span class="small muted">by ${event.by}</span>`}<span class="small muted num" title=${moment(event.at_ms)}>${ago(event.at_ms, nowMs)}</span></p>
    ${event.reasons.map((reason, i) => html`<p key=${i} class="small muted">${typeset(reason)}</p>`)}
  </li>`;
}
