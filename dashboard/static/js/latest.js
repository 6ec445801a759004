// One question at a time, and of those that come meanwhile only the last: a slider asks more than anybody can look at.

export class Latest {
  /** `job(key)` answers one question; it must not throw. */
  constructor(job) {
    this._job = job;
    this._wanted = null;
    this._running = false;
  }

  async ask(key) {
    this._wanted = key;
    if (this._running) return;
    this._running = true;
    while (this._wanted !== null) {
      const next = this._wanted;
      this._wanted = null;
      await this._job(next);
    }
    this._running = false;
  }

  forget() {
    this._wanted = null;
  }
}
