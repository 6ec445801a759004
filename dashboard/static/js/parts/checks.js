// Lights: may the evidence be believed? Each is an icon, a word and a sentence.
import { html } from "../dom.js";
import { count, interval, metricFormat, pValue } from "../format.js";
import { Light } from "./icons.js";

const SAMPLE_RATIO = {
  ok: ["ok", "as promised", "arrived in the proportions the allocations promised"],
  warning: ["warn", "doubtful", "arrive in proportions that are unlikely by chance"],
  mismatch: ["bad", "mismatch", "did not arrive in the proportions the allocations promised: the evidence is invalid"],
  unknown: ["calm", "too few yet", "are too few to compare their proportions with the allocations"],
};
const GUARDRAIL = { passed: ["ok", "held"], breached: ["bad", "breached"], open: ["calm", "not known yet"] };

/** Status → [tone, word] */
export const sampleRatioLight = (status) => SAMPLE_RATIO[status] ?? SAMPLE_RATIO.unknown;

/** The worst of them. */
export function guardrailLight(guardrails) {
  const worst = ["breached", "open", "passed"].find((status) => guardrails.some((rail) => rail.status === status));
  return GUARDRAIL[worst] ?? GUARDRAIL.open;
}

export function Checks({ model }) {
  const { shown } = model;
  if (!shown) return null;
  const format = metricFormat("rate");
  return html`<section class="card" aria-labelledby="checks">
    <header class="card-head"><h2 id="checks">Checks</h2></header>
    <ul class="checks">
      <${SampleRatio} model=${model} />
      ${shown.guardrails.map((rail) => {
        const [tone, word] = GUARDRAIL[rail.status] ?? ["calm", rail.status];
        return html`<li key=${`${rail.outcome}|${rail.variant}`}>
          <span class="check-name">Guardrail ${rail.outcome}<span class="muted"> · ${rail.variant}</span></span>
          <${Light} tone=${tone}>${word}</${Light}>
          <span class="check-text small muted">${rail.difference === null
            ? "too little to compare"
            : `${format.difference(rail.difference)} points (${interval(rail.interval, format.difference)} at all times)`}; allowed: ${format.amount(rail.margin)} points worse</span>
        </li>`;
      })}
      <${Delay} delay=${shown.delay} />
      <${Records} model=${model} />
      ${shown.moved.length > 0 &&
      html`<li><span class="check-name">Units that moved</span><${Light} tone="calm">left out</${Light}>
        <span class="check-text small muted">${shown.moved.map((one) => `${one.variant} ${count(one.units)} (${count(one.impressions)} impressions)`).join(", ")}</span></li>`}
    </ul>
  </section>`;
}

function SampleRatio({ model }) {
  const { sample_ratio: ratio } = model.shown;
  const [tone, word, sentence] = sampleRatioLight(ratio.status);
  return html`<li>
    <span class="check-name">Sample ratio</span><${Light} tone=${tone}>${word}</${Light}>
    <span class="check-text small muted">The ${model.metric.unit}s ${sentence}${ratio.always_valid_p == null ? "" : ` (always-valid p = ${pValue(ratio.always_valid_p)})`}.</span>
  </li>`;
}

function Delay({ delay }) {
  if (!delay) return null;
  const largest = Math.max(1, ...Object.values(delay.inflation));
  return html`<li>
    <span class="check-name">Outcomes still to come</span>
    <${Light} tone=${delay.immature ? "warn" : "ok"}>${delay.immature ? "too early" : "allowed for"}</${Light}>
    <span class="check-text small muted">${delay.immature
      ? "No impression is as old as the attribution window yet."
      : `Impressions whose window is open count in part; variances grow up to ${largest.toFixed(2)} times.`}</span>
  </li>`;
}

const HARMLESS = new Set(["counted", "duplicate", "heartbeat"]);

function Records({ model }) {
  const { counters } = model;
  if (!model.live || !counters) return null;
  const lost = [];
  for (const topic of ["impressions", "clicks"]) {
    for (const [outcome, number] of Object.entries(counters[topic])) {
      if (!HARMLESS.has(outcome) && number > 0) lost.push(`${count(number)} ${topic} ${outcome}`);
    }
  }
  const duplicates = (counters.impressions.duplicate ?? 0) + (counters.clicks.duplicate ?? 0);
  const open = `${count(counters.open_impressions)} impressions are open, ${count(counters.waiting_clicks)} clicks wait`;
  return html`<li>
    <span class="check-name">Records, all experiments</span>
    <${Light} tone=${lost.length ? "warn" : "ok"}>${lost.length ? "some not counted" : "all counted"}</${Light}>
    <span class="check-text small muted num">${lost.length ? `${lost.join(", ")}; ` : ""}${count(duplicates)} duplicates left out; ${open}.</span>
  </li>`;
}
