// Where there is nothing to show: why, and what to do about it.
import { html } from "../dom.js";
import { duration, moment } from "../format.js";
import { address } from "../route.js";
import { Icon } from "./icons.js";

function State({ icon, title, children }) {
  return html`<section class="state"><span class="state-icon"><${Icon} name=${icon} size=${26} /></span><h1>${title}</h1>${children}</section>`;
}

export const Loading = () => html`<section class="state" aria-busy="true"><p class="muted">Loading …</p></section>`;

export function NoExperiment({ store }) {
  if (store.sources?.kafka.ok === false) {
    return html`<${State} icon="open" title="Waiting for Kafka">
      <p>Experiments and decisions are read from Kafka, which does not answer yet. They appear here as soon as it does.</p>
      <p class="muted">It is the one that <code>SLUICE_KAFKA</code> names, or that of <code>sluice infra up</code>.</p>
    </${State}>`;
  }
  return html`<${State} icon="draft" title="No experiment yet">
    <p>An experiment is a YAML file: a name, variants and one primary metric. Publish one, send it traffic, and it appears here by itself.</p>
    <pre tabindex="0" aria-label="Commands to begin with">sluice experiment apply sluice/experiments/demo.yaml
sluice process &
sluice analyze &
sluice replay --data synthetic --limit 2000</pre>
    <p class="muted">Or everything at once: <code>sluice demo --open</code></p>
  </${State}>`;
}

export function NoDecision({ model }) {
  const status = model.entry.status;
  const why = {
    draft: html`It is a draft: nobody sees it yet. <code>sluice experiment start ${model.name}</code> begins it.`,
    paused: "It is paused: everybody sees the control.",
  }[status];
  return html`<section class="card empty"><h2>No decision yet</h2>
    <p>${why ?? html`The analyzer writes one as soon as it knows the experiment and counting has begun. If this lasts, look whether <code>sluice process</code> and <code>sluice analyze</code> are running.`}</p>
  </section>`;
}

export function Problem({ error, name, store }) {
  if (error.status === 404) {
    return html`<${State} icon="unknown" title="Not found">
      <p>${error.message}</p>
      ${store.experiments?.size > 0 && html`<p><a href=${address([...store.experiments.keys()][0])}>Show ${[...store.experiments.keys()][0]}</a></p>`}
    </${State}>`;
  }
  return html`<${State} icon="bad" title=${`${name ?? "The list"} cannot be shown`}>
    <p role="alert">${error.message}</p><p><button class="button primary" onClick=${() => store.retry()}>Try again</button></p>
  </${State}>`;
}

/** Above everything: what the page cannot see at the moment. */
export function Banner({ store }) {
  const { connection, sources } = store;
  if (!connection.open && connection.lostMs !== null) {
    const wait = Math.max(0, Math.ceil((connection.retryAtMs - Date.now()) / 1000));
    return html`<div class="banner bad" role="status"><${Icon} name="offline" size=${18} />
      <p><b>Disconnected.</b> ${connection.ever ? html`What you see is of <span class="num">${moment(connection.lostMs + store.clockMs).slice(11)}</span> UTC.` : "The dashboard's server does not answer."} Trying again${wait > 0 ? ` in ${duration(wait)}` : " now"}.</p>
      <button class="button" onClick=${() => store.retry()}>Try now</button></div>`;
  }
  const away = Object.entries(sources ?? {}).filter(([, source]) => !source.ok);
  if (away.length === 0) return null;
  return html`<div class="banner warn" role="status"><${Icon} name="warn" size=${18} />
    ${away.map(
      ([kind, source]) => html`<p key=${kind}><b>${kind === "kafka" ? "Kafka" : "Redis"} is away</b> for ${duration((store.now() - source.since_ms) / 1000)}: ${
        kind === "kafka" ? "decisions stand still here" : "live counters stand still"
      }. The dashboard keeps trying.${source.error && html` <span class="small muted">${source.error}</span>`}</p>`,
    )}</div>`;
}
