// One chart: a canvas by uPlot, its title, legend, summary sentence and the numbers behind it. Library: uPlot.
import uPlot from "../../vendor/uplot/uPlot.esm.js";
import { Component, html } from "../dom.js";
import { cssValue, faded } from "../palette.js";
import { Icon, Swatch } from "../parts/icons.js";
import { chartPicture, save } from "../export/picture.js";

const TABLE_ROWS = 40;

export class Chart extends Component {
  constructor(props) {
    super(props);
    this.state = { index: null, table: false };
    this._visible = true;
    this._host = (element) => (this._element = element);
  }

  componentDidMount() {
    this._create();
    this._sizes = new ResizeObserver(() => {
      const width = this._element.clientWidth;
      if (width && width !== this._plot.width) this._plot.setSize({ width, height: this._height() });
    });
    this._sizes.observe(this._element);
    this._sights = new IntersectionObserver(([entry]) => this._seen(entry.isIntersecting), { rootMargin: "300px" });
    this._sights.observe(this._element);
    this.props.register(this.props.figure.id, this);
  }

  componentDidUpdate() {
    const { figure, theme } = this.props;
    if (this._key !== keyOf(figure, theme)) {
      this._plot.destroy();
      this._create();
      return;
    }
    if (this._visible) this._refresh();
  }

  componentWillUnmount() {
    this.props.register(this.props.figure.id, null);
    this._sizes.disconnect();
    this._sights.disconnect();
    this._plot.destroy();
  }

  /** What `picture.js` needs to draw this chart elsewhere. */
  picture() {
    this._refresh();
    const { figure } = this.props;
    return { title: figure.title, legend: this._legend(), canvas: this._plot.ctx.canvas, summary: figure.summary };
  }

  /** Charts that nobody sees are not drawn: ten decisions a second are many for six canvases. */
  _seen(visible) {
    this._visible = visible;
    if (visible) this._refresh();
  }

  _refresh() {
    const { figure } = this.props;
    if (figure.stamp === this._stamp) return; // the same picture
    this._stamp = figure.stamp;
    this._plot.batch((plot) => plot.setData(figure.data)); // at once: a picture of it may be taken next
  }

  _height() {
    return this.props.figure.height ?? 220;
  }

  _create() {
    const { figure, theme } = this.props;
    this._key = keyOf(figure, theme);
    this._stamp = figure.stamp;
    const text = cssValue("--muted");
    const axis = {
      stroke: text,
      font: `12px ${cssValue("--sans")}`,
      grid: { stroke: cssValue("--grid"), width: 1 },
      ticks: { show: false },
    };
    this._plot = new uPlot(
      {
        width: Math.max(200, this._element.clientWidth),
        height: this._height(),
        padding: [8, 10, 0, 0],
        legend: { show: false },
        cursor: {
          y: false,
          drag: { x: false, y: false },
          sync: figure.sync ? { key: figure.sync } : undefined,
          points: { size: 7 },
          bind: { mousedown: () => null, dblclick: () => null },
        },
        scales: { x: { time: false }, y: { range: (plot, low, high) => this.props.figure.range(low, high) } },
        axes: [
          { ...axis, size: 30, gap: 6, space: 64, values: (_, ticks) => ticks.map(figure.formatX) },
          { ...axis, size: figure.bareY ? 12 : 52, gap: 8, space: 38, values: (_, ticks) => ticks.map(figure.formatY) },
        ],
        series: [{}, ...figure.series.map((one) => this._series(one))],
        bands: figure.bands?.map((band) => ({ series: band.series, fill: faded(cssValue(band.variable), band.alpha) })),
        hooks: {
          drawClear: [(plot) => paint(plot, cssValue("--surface"))],
          draw: [(plot) => this._draw(plot)],
          setCursor: [(plot) => this._point(plot.cursor.idx)],
        },
      },
      figure.data,
      this._element,
    );
    this._plot.over.addEventListener("click", () => {
      const { index } = this.state;
      if (index !== null && this.props.onPick) this.props.onPick(this.props.figure.data[0][index]);
    });
  }

  _series(one) {
    const colour = cssValue(one.variable);
    return {
      label: one.label,
      stroke: one.hidden ? "transparent" : colour,
      fill: one.fill ? faded(colour, one.fill) : undefined,
      width: one.hidden ? 0 : (one.width ?? 2),
      dash: one.dash,
      spanGaps: one.spanGaps ?? false,
      points: { show: one.hidden ? false : (plot) => plot.data[0].length === 1 },
      paths: one.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
    };
  }

  _point(index) {
    const found = index ?? null;
    if (found !== this.state.index) this.setState({ index: found });
  }

  _draw(plot) {
    const { figure } = this.props;
    const { ctx } = plot;
    const { left, top, width, height } = plot.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    figure.decorate?.(plot);
    if (figure.marker != null) {
      const x = plot.valToPos(figure.marker, "x", true);
      ctx.fillStyle = faded(cssValue("--surface"), 0.78);
      ctx.fillRect(x, top, left + width - x, height); // what was not known yet
      ctx.strokeStyle = cssValue("--accent");
      ctx.lineWidth = 2 * devicePixelRatio;
      ctx.setLineDash([]);
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + height);
      ctx.stroke();
    }
    ctx.restore();
  }

  _legend() {
    const { figure } = this.props;
    const index = this.state.index ?? figure.index;
    return figure.legend.map((one) => ({ ...one, value: one.text(index) }));
  }

  _export() {
    save(chartPicture(this.picture()), `${this.props.fileName}-${this.props.figure.id}.png`);
  }

  render() {
    const { figure } = this.props;
    const at = this.state.index === null ? null : figure.data[0][this.state.index];
    return html`<section class=${`card chart ${figure.wide ? "wide" : ""}`} aria-labelledby=${`t-${figure.id}`}>
      <header class="card-head">
        <h2 id=${`t-${figure.id}`}>${figure.title}</h2>
        <span class="muted small num at">${at == null ? "" : figure.formatAt(at)}</span>
        <button class="icon-button" onClick=${() => this._export()} aria-label=${`Save “${figure.title}” as PNG`} title="Save as PNG">
          <${Icon} name="download" size=${15} />
        </button>
      </header>
      <ul class="legend">
        ${this._legend().map(
          (one) => html`<li key=${one.name}><${Swatch} style=${one.style} /><span class="name">${one.name}</span> <b class="num">${one.value}</b></li>`,
        )}
      </ul>
      <div class="plot" ref=${this._host} role="img" aria-label=${`${figure.title}. ${figure.summary}`}></div>
      <p class="summary">${figure.summary}</p>
      <details class="table-of" onToggle=${(event) => this.setState({ table: event.currentTarget.open })}>
        <summary>Numbers</summary>
        ${this.state.table && html`<${DataTable} figure=${figure} />`}
      </details>
    </section>`;
  }
}

function DataTable({ figure }) {
  const { head, rows } = figure.table(TABLE_ROWS);
  return html`<div class="scroll" tabindex="0" role="group" aria-label=${`Numbers of “${figure.title}”`}>
    <table>
      <thead><tr>${head.map((title) => html`<th key=${title} scope="col">${title}</th>`)}</tr></thead>
      <tbody>
        ${rows.map((row) => html`<tr key=${row[0]}>${row.map((cell, i) => (i ? html`<td key=${i}>${cell}</td>` : html`<th key=${i} scope="row">${cell}</th>`))}</tr>`)}
      </tbody>
    </table>
  </div>`;
}

const keyOf = (figure, theme) => `${figure.key}|${theme}`;

/** Charts are saved as pictures, so they have a ground of their own. */
function paint(plot, colour) {
  const { ctx } = plot;
  ctx.save();
  ctx.fillStyle = colour;
  ctx.fillRect(0, 0, ctx.canvas.width, ctx.canvas.height);
  ctx.restore();
}
