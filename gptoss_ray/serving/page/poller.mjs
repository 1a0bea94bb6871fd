// Reads again and again: the next time a while after the last, and not while nobody looks.

export class Poller {
  /** `read` is awaited; it deals with its own errors. */
  constructor(read, intervalMs) {
    Object.assign(this, { read, intervalMs, isPaused: false, timer: null, reading: null });
    document.addEventListener("visibilitychange", () => document.hidden || this.now());
  }

  /** Read now, unless that is under way. */
  now() {
    this.reading ??= this.once().finally(() => (this.reading = null));
    return this.reading;
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    clearTimeout(this.timer);
    if (!isPaused) this.now();
  }

  async once() {
    clearTimeout(this.timer);
    await this.read();
    if (!this.isPaused && !document.hidden) this.timer = setTimeout(() => this.now(), this.intervalMs);
  }
}
