// Server-sent events with a backoff of our own: EventSource gives up for good after an error answer.

const FIRST_MS = 500;
const LONGEST_MS = 10_000;
const SILENT_MS = 20_000; // the server says something at least every five seconds
const KINDS = ["hello", "reload", "decision", "counters", "experiment", "status", "lifecycle"];

export class Stream {
  /** `onEvent(kind, data)`, `onState({open, retryAtMs})`. */
  constructor(onEvent, onState) {
    this._onEvent = onEvent;
    this._onState = onState;
    this._failures = 0;
    this._address = null;
  }

  get started() {
    return this._address !== null;
  }

  open(address) {
    this.close();
    this._address = address;
    const source = new EventSource(address);
    this._source = source;
    source.onopen = () => this._heard();
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        this._heard();
        this._onEvent(kind, JSON.parse(event.data));
      });
    }
    source.onerror = () => this._retry();
    this._listen();
  }

  close() {
    clearTimeout(this._timer);
    this._source?.close();
    this._source = null;
  }

  retryNow() {
    this._failures = 0;
    this.open(this._address);
  }

  _heard() {
    this._failures = 0;
    this._onState({ open: true, retryAtMs: null });
    this._listen();
  }

  _listen() {
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this._retry(), SILENT_MS);
  }

  _retry() {
    this.close();
    const wait = Math.min(LONGEST_MS, FIRST_MS * 2 ** this._failures) * (0.8 + 0.4 * Math.random());
    this._failures += 1;
    this._onState({ open: false, retryAtMs: Date.now() + wait });
    this._timer = setTimeout(() => this.open(this._address), wait);
  }
}
