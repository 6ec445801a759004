// Why this decision: computed again from its own record, with all that is needed to do the same elsewhere.
import { Component, html } from "../dom.js";
import { count } from "../format.js";
import { Icon, Light } from "./icons.js";

export class Explain extends Component {
  constructor(props) {
    super(props);
    this._ref = (dialog) => (this._dialog = dialog);
  }

  componentDidMount() {
    this._dialog.showModal();
  }

  render() {
    const { explained, store } = this.props;
    const { version, loading, answer, error } = explained;
    return html`<dialog class="dialog" ref=${this._ref} aria-labelledby="explain" onClose=${() => store.closeExplanation()}>
      <header class="dialog-head">
        <h2 id="explain" class="num">Decision ${count(version)} of ${store.name}</h2>
        <button class="icon-button" onClick=${() => this._dialog.close()} aria-label="Close" autofocus><${Icon} name="close" size=${18} /></button>
      </header>
      <div class="dialog-body" aria-live="polite" aria-busy=${loading ? "true" : "false"}>
        ${loading && html`<p class="muted">Computing the decision again from its own evidence …</p>`}
        ${error && html`<p role="alert"><${Light} tone="bad">not explained</${Light}> ${error}</p>`}
        ${answer && html`<${Answer} answer=${answer} />`}
      </div>
    </dialog>`;
  }
}

function Answer({ answer }) {
  const offsets = Object.entries(answer.offsets);
  return html`
    <p class="same">
      ${answer.matches
        ? html`<${Light} tone="ok">same bytes</${Light}> Computed again from its own evidence, the decision is the same, byte for byte (${answer.seconds.toFixed(1)} s).`
        : html`<${Light} tone="bad">differs</${Light}> Computed again, the decision is another one${answer.difference ? `: ${answer.difference}` : ""}.`}
    </p>
    <h3>Do it yourself</h3>
    <${Command} text=${answer.command} />
    <dl class="facts">
      <div><dt>Configuration</dt><dd><code>${answer.config_hash}</code></dd></div>
      <div><dt>Seed</dt><dd><code class="num">${answer.seed}</code></dd></div>
      <div><dt>Evidence up to offsets</dt><dd class="num offsets">${offsets.length
        ? offsets.map(([p, [i, c]]) => html`<span key=${p}><span class="muted">partition ${p}</span> ${count(i)} impressions, ${count(c)} clicks</span>`)
        : "nothing was read yet"}</dd></div>
    </dl>
    <h3>In full</h3>
    <pre tabindex="0" aria-label="What sluice explain prints">${answer.text}</pre>
    <details class="more"><summary>The record</summary><pre tabindex="0" aria-label="The record as JSON">${JSON.stringify(answer.record, null, 1)}</pre></details>`;
}

class Command extends Component {
  constructor(props) {
    super(props);
    this.state = { copied: false };
  }

  async _copy() {
    await navigator.clipboard.writeText(this.props.text).then(
      () => this.setState({ copied: true }),
      () => this.setState({ copied: false }), // refused: the text can still be selected
    );
  }

  render() {
    return html`<div class="command"><code tabindex="0">${this.props.text}</code>
      <button class="button small-button" onClick=${() => this._copy()}>${this.state.copied ? "Copied" : "Copy"}</button></div>`;
  }
}
