// How the page is put together.
import { densityFigure } from "./charts/density.js";
import { historyFigures } from "./charts/history.js";
import { Chart } from "./charts/plot.js";
import { exportAddress } from "./api.js";
import { Component, html } from "./dom.js";
import { wholePicture, save } from "./export/picture.js";
import { count, metricFormat, moment, probability, shares } from "./format.js";
import { modelOf } from "./model.js";
import { Canary } from "./parts/canary.js";
import { Checks } from "./parts/checks.js";
import { Explain } from "./parts/explain.js";
import { Icon, StatusBadge } from "./parts/icons.js";
import { Changes, DecisionLog } from "./parts/log.js";
import { Models } from "./parts/models.js";
import { Segments, Shadow } from "./parts/shadow.js";
import { Sidebar } from "./parts/sidebar.js";
import { Banner, Loading, NoDecision, NoExperiment, Problem } from "./parts/states.js";
import { Timeline } from "./parts/timeline.js";
import { Variants } from "./parts/variants.js";
import { headingOf, Tiles, Verdict } from "./parts/verdict.js";

export function App({ store, theme, onTheme }) {
  return html`<div class="page">
    <header class="top">
      <a class="brand" href="#/"><img src="/static/favicon.svg" width="24" height="24" alt="" />Sluice</a>
      <span class="spring"></span>
      <${Connection} store=${store} />
      <button class="icon-button" onClick=${onTheme} aria-label=${theme === "dark" ? "Light colours" : "Dark colours"} title=${theme === "dark" ? "Light colours" : "Dark colours"}>
        <${Icon} name=${theme === "dark" ? "sun" : "moon"} size=${18} />
      </button>
    </header>
    <${Banner} store=${store} />
    <div class="body">
      <${Sidebar} store=${store} />
      <main id="main" tabindex="-1"><${Main} store=${store} theme=${theme} /></main>
    </div>
    ${store.explained && html`<${Explain} key=${store.explained.version} explained=${store.explained} store=${store} />`}
  </div>`;
}

function Connection({ store }) {
  const { open } = store.connection;
  return html`<span class=${`connection ${open ? "ok" : "bad"}`}><span class=${`dot ${open ? "live" : ""}`} aria-hidden="true"></span>${open ? "connected" : "not connected"}</span>`;
}

function Main({ store, theme }) {
  if (store.name === null) {
    if (store.listError) return html`<${Problem} error=${{ status: 0, message: store.listError }} store=${store} />`;
    return store.experiments?.size === 0 ? html`<${NoExperiment} store=${store} />` : html`<${Loading} />`;
  }
  if (store.detail === null) {
    return store.detailError ? html`<${Problem} error=${store.detailError} name=${store.name} store=${store} />` : html`<${Loading} />`;
  }
  return html`<${Experiment} key=${store.name} store=${store} theme=${theme} />`;
}

class Experiment extends Component {
  constructor(props) {
    super(props);
    this._charts = new Map();
    this._register = (id, chart) => (chart ? this._charts.set(id, chart) : this._charts.delete(id));
  }

  _chart(figure, model) {
    const { theme, store } = this.props;
    const pick = figure.sync ? (version) => store.travel(version) : null;
    return html`<${Chart} key=${figure.id} figure=${figure} theme=${theme} onPick=${pick} register=${this._register} fileName=${fileName(model)} />`;
  }

  _picture(model) {
    const format = metricFormat(model.metric.measure);
    const rows = (model.shown?.results ?? []).map((result) => ({
      style: model.style(result.variant),
      text: `${result.variant}: ${count(result.impressions)} impressions, ${count(result.outcomes)} × ${model.metric.outcome}, ${format.level(result.weighted_rate ?? result.rate)}, P(best) ${probability(result.p_best)}`,
    }));
    const picture = wholePicture({
      heading: `${model.name} · decision ${count(model.shown?.version)}`,
      sub: `${moment(model.shown?.at_ms)} UTC (event time) · ${model.metric.word} by ${model.metric.unit} · allocation: ${shares(model.shown?.allocation)}`,
      verdict: model.shown ? headingOf(model) : "No decision yet",
      reasons: model.shown?.reasons ?? [],
      rows,
      charts: [...this._charts.values()].map((chart) => chart.picture()),
    });
    save(picture, `${fileName(model)}.png`);
  }

  render() {
    const { store } = this.props;
    const model = modelOf(store);
    const [rate, ...others] = historyFigures(model);
    const density = densityFigure(model);
    return html`
      <header class="title">
        <div>
          <h1>${model.name}</h1>
          <p class="meta muted">${model.entry.defined ? html`<${StatusBadge} status=${model.entry.status} />` : html`<span>not in the catalogue</span>`}<span>${model.entry.kind}</span><span>${model.metric.word} by ${model.metric.unit}</span><span>control: ${model.control}</span></p>
        </div>
        <${Export} model=${model} onPicture=${() => this._picture(model)} />
      </header>
      <${Timeline} model=${model} store=${store} />
      ${model.shown ? html`<${Verdict} model=${model} store=${store} />` : model.live ? html`<${NoDecision} model=${model} />` : null}
      <${Tiles} model=${model} />
      <${Canary} model=${model} store=${store} />
      <${Variants} model=${model} />
      <div class="charts">
        ${rate && this._chart(rate, model)}
        ${density && this._chart(density, model)}
        ${others.map((figure) => this._chart(figure, model))}
      </div>
      <div class="columns">
        <div class="column"><${DecisionLog} model=${model} store=${store} /></div>
        <div class="column"><${Checks} model=${model} /><${Changes} model=${model} /></div>
      </div>
      <${Shadow} model=${model} />
      <${Segments} model=${model} />
      <${Models} model=${model} lives=${store.lives} />`;
  }
}

const fileName = (model) => `sluice-${model.name}${model.live ? "" : `-${model.pinned}`}`;

function Export({ model, onPicture }) {
  return html`<div class="export">
    <button class="button" onClick=${onPicture}><${Icon} name="download" size=${14} />Picture</button>
    <a class="button" href=${exportAddress(model.name, "csv")} download>CSV</a>
    <a class="button" href=${exportAddress(model.name, "json")} download>JSON</a>
  </div>`;
}
