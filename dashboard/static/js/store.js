// All state of the page, and the only place that changes it. Everything that grows is bounded.
import * as api from "./api.js";
import { Latest } from "./latest.js";
import { address, parse } from "./route.js";
import { append } from "./series.js";
import { Stream } from "./stream.js";

const MOST_LINES = 500;
const KEPT_VIEWS = 64;
const MOST_EARLY = 100;
const NO_LINES = { lines: [], more: false, loading: false, error: null };

export class Store {
  /** `changed()` is called after every change; whoever draws does so at most once a frame. */
  constructor(changed) {
    this._changed = changed;
    this.experiments = null; // name → Entry, once the list is known
    this.listError = null;
    this.lives = new Map(); // registered model → its LifeViews
    this.connection = { open: false, ever: false, lostMs: null, retryAtMs: null };
    this.sources = null;
    this.lag = null;
    this.skipped = 0;
    this.clockMs = 0; // the server's clock minus ours
    this.name = null;
    this._started = false;
    this._viewAsked = new Latest((version) => this._loadView(version));
    this._linesAsked = new Latest((version) => this._loadPastLines(version));
    this._forget();
    this._stream = new Stream(
      (kind, data) => this._event(kind, data),
      (state) => this._connected(state),
    );
  }

  start() {
    addEventListener("hashchange", () => this._routed());
    this._routed();
  }

  now() {
    return Date.now() + this.clockMs;
  }

  /** The decision that is shown: the one travelled to, or the newest. */
  get shown() {
    return this.pinned === null ? (this.detail?.decision ?? null) : this.view;
  }

  get live() {
    return this.pinned === null;
  }

  choose(name) {
    location.hash = address(name);
  }

  /** To decision `version`; null: back to the newest. */
  travel(version) {
    const newest = this.detail?.series.version.at(-1) ?? null;
    const wanted = version === null || newest === null || version < 1 ? null : Math.min(version, newest);
    if (wanted === this.pinned) return;
    history.replaceState(null, "", address(this.name, wanted));
    this._pin(wanted);
    this._changed();
  }

  retry() {
    this._stream.retryNow();
    this._load();
  }

  /** The decision log as of the decision that is shown. */
  get shownLog() {
    if (this.pinned === null) return this.log;
    return this.pastLog ?? { ...this.log, lines: this.log.lines.filter((line) => line.version <= this.pinned) };
  }

  async moreLines() {
    const log = this.shownLog;
    if (log.loading) return;
    await this._loadLines(log.lines.at(-1)?.version ?? null, log === this.pastLog ? "pastLog" : "log");
  }

  async explain(version) {
    const asked = { version, loading: true, answer: null, error: null };
    this.explained = asked;
    this._changed();
    try {
      asked.answer = await api.explanation(this.name, version);
    } catch (error) {
      asked.error = error.message;
    }
    asked.loading = false;
    this._changed();
  }

  closeExplanation() {
    this.explained = null;
    this._changed();
  }

  _forget() {
    this._aborted?.abort();
    this._aborted = new AbortController();
    this.detail = null;
    this.detailError = null;
    this.pinned = null;
    this.view = null; // DecisionView of `pinned`; the one before while it is fetched
    this.viewError = null;
    this._views = new Map();
    this._early = null; // decisions told while the state is fetched
    this._viewAsked.forget();
    this._linesAsked.forget();
    this.log = { ...NO_LINES };
    this.pastLog = null; // only where the decision travelled to is older than what `log` holds
    this.explained = null;
  }

  _routed() {
    const { name, version } = parse(location.hash);
    if (name === null && !this._started) {
      this._started = true;
      this._loadList(); // and there, if it can be, on to an experiment
      return;
    }
    if (name !== this.name || !this._started) {
      this._started = true;
      this.name = name;
      this._forget();
      this._listen();
    }
    this._pin(version);
    this._changed();
  }

  /** The state is fetched when the stream says hello, so nothing falls between the two. */
  _listen() {
    this._stream.open(api.streamAddress(this.name));
  }

  async _loadList() {
    try {
      const found = await api.overview();
      this.experiments = new Map(found.experiments.map((entry) => [entry.name, entry]));
      this.listError = null;
      this.skipped = found.skipped ?? 0;
      this._sources(found);
      if (this.name === null && found.experiments.length) {
        history.replaceState(null, "", address(mostInteresting(found.experiments).name));
        this._routed();
        return;
      }
    } catch (error) {
      if (error.status === 401) location.reload(); // the server asks for the token in place of the page
      this.listError = error.message;
    }
    if (!this._stream.started) this._listen();
    this._changed();
  }

  async _load() {
    const signal = this._aborted.signal;
    if (this.name === null) return;
    this._early = [];
    try {
      const found = await api.detail(this.name, signal);
      if (signal.aborted) return;
      this.detail = found;
      this.detailError = null;
      this._sources(found);
      this.lag = found.lag;
      const early = this._early;
      this._early = null;
      early.forEach((told) => this._decided(told));
      await this._loadLines(null);
      if (!signal.aborted) this._pin(this.pinned);
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return;
      this.detailError = { status: error.status, message: error.message };
      if (error.status === 404) this.detail = null; // it was there, and is not any more
    }
    this._changed();
  }

  /** What cannot be had is told beside the experiments; the lives known so far stay. */
  async _loadModels() {
    try {
      const found = await api.models();
      this.lives = Map.groupBy(found.lives, (life) => life.model);
    } catch {
      return;
    }
    this._changed();
  }

  /** The newest lines, or with `before` those that follow the ones which `which` holds. */
  async _loadLines(before, which = "log") {
    const log = this[which];
    this[which] = { ...log, loading: true };
    this._changed();
    const found = await this._lines(before, before === null ? [] : log.lines);
    if (!found || !this[which]) return;
    this[which] = before === null ? this._withToldMeanwhile(found) : found;
    this._changed();
  }

  /** The lines that were fetched, below those of decisions that were told while they were. */
  _withToldMeanwhile(found) {
    const fetched = found.lines[0]?.version ?? 0;
    const newest = this.detail?.decision?.version ?? 0;
    const told = this.log.lines.filter((line) => line.version > fetched && line.version <= newest);
    return { ...found, lines: [...told, ...found.lines] };
  }

  async _loadPastLines(version) {
    const found = await this._lines(version + 1, []);
    if (found && this.pinned === version) this.pastLog = found;
    this._changed();
  }

  /** `kept` and the lines before version `before`; null when another experiment is looked at by then. */
  async _lines(before, kept) {
    const signal = this._aborted.signal;
    try {
      const found = await api.decisions(this.name, before, signal);
      const lines = [...kept, ...found.decisions];
      return { lines: lines.slice(0, MOST_LINES), more: found.more && lines.length < MOST_LINES, loading: false, error: null };
    } catch (error) {
      return signal.aborted ? null : { ...NO_LINES, lines: kept, error: error.message };
    }
  }

  _pin(version) {
    this.pinned = version;
    this.viewError = null;
    this.pastLog = null;
    if (version === null) {
      this.view = null;
      return;
    }
    const oldest = this.log.lines.at(-1)?.version;
    if (oldest > version) this._linesAsked.ask(version);
    const kept = this._views.get(version);
    if (kept) this.view = kept;
    else if (this.detail?.decision?.version === version) this._keep(this.detail.decision);
    else if (this.detail !== null) this._viewAsked.ask(version);
  }

  async _loadView(version) {
    const signal = this._aborted.signal;
    try {
      const found = await api.decision(this.name, version, signal);
      if (!signal.aborted) this._keep(found, version);
    } catch (error) {
      if (!signal.aborted && this.pinned === version) this.viewError = error.message;
    }
    this._changed();
  }

  _keep(view, version = view.version) {
    this._views.set(version, view);
    if (this._views.size > KEPT_VIEWS) this._views.delete(this._views.keys().next().value);
    if (this.pinned === version) this.view = view;
  }

  _connected({ open, retryAtMs }) {
    if (open === this.connection.open && open) return;
    const lostMs = open ? null : (this.connection.lostMs ?? Date.now());
    this.connection = { open, ever: this.connection.ever || open, lostMs, retryAtMs };
    if (!open) this._loadList(); // whose error tells what is wrong: a token that is asked for, for example
    this._changed();
  }

  _sources(told) {
    this.sources = told.sources;
    this.clockMs = told.now_ms - Date.now();
  }

  _event(kind, data) {
    const handle = {
      hello: () => this._hello(data),
      reload: () => {
        if (data.experiment !== null && data.experiment !== this.name) return;
        this._load();
        this._loadList();
        this._loadModels();
      },
      decision: () => this._decided(data),
      counters: () => this._counted(data),
      experiment: () => this._listed(data),
      lifecycle: () => this.lives.set(data.model, data.lives),
      status: () => {
        this._sources(data);
        this.lag = data.lag;
      },
    }[kind];
    handle();
    this._changed();
  }

  _hello(data) {
    this.clockMs = data.now_ms - Date.now();
    if (data.resumed) return;
    this._load();
    this._loadList();
    this._loadModels();
  }

  _decided(told) {
    const { experiment, decision, points } = told;
    const { detail } = this;
    if (experiment !== this.name) return;
    this._early?.push(told); // what is being fetched may be older
    if (this._early?.length > MOST_EARLY) this._early.shift();
    if (detail === null) return;
    const before = detail.decision?.version ?? 0;
    if (decision.version < before) return;
    detail.decision = decision;
    detail.series = append(detail.series, points);
    if (decision.version === before) return;
    if (decision.version > before + 1 && this.log.lines.length) {
      this._loadLines(null);
      return;
    }
    const line = {
      version: decision.version,
      at_ms: decision.at_ms,
      wall_ms: decision.wall_ms,
      verdict: decision.verdict,
      reason: decision.reasons[0] ?? "",
      allocation: decision.allocation,
      allocation_version: decision.allocation_version,
    };
    const lines = [line, ...this.log.lines];
    this.log = { ...this.log, lines: lines.slice(0, MOST_LINES), more: this.log.more || lines.length > MOST_LINES };
  }

  _counted({ experiment, counters, truth }) {
    if (experiment !== this.name || this.detail === null) return;
    this.detail.counters = counters;
    if (truth) this.detail.truth = truth;
  }

  _listed({ entry, experiment, state, name }) {
    if (this.experiments === null) return;
    if (entry === null) {
      this.experiments.delete(name);
      if (name === this.name) this._load();
      return;
    }
    this.experiments.set(entry.name, entry);
    if (this.name === null) {
      this.choose(entry.name);
      return;
    }
    if (entry.name !== this.name || this.detail === null) return;
    this.detail.entry = entry;
    if (experiment) this.detail.experiment = experiment;
    if (state) this.detail.state = state;
  }
}

/** What runs before what rests, what changed last before the others. */
function mostInteresting(entries) {
  const running = entries.filter((entry) => entry.status === "running");
  return (running.length ? running : entries).reduce((a, b) => (b.updated_ms > a.updated_ms ? b : a));
}
