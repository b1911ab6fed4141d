// Asks for the numbers every two seconds while somebody can see them, and remembers those of the last two minutes.

import { ask, Locked, Silent } from "./api.js";

const EVERY = 2000; // ms
const KEPT = 61; // readings
const LATE = 3 * EVERY; // between two readings: what lies between is not drawn as if it were known

export class Live {
  #readings = [];
  #timer = 0;
  #control = null;
  #closed = true;

  // `told` gets the readings and what belongs to the newest; `lost` why there is none; `locked` that a token is wanted.
  constructor({ told, lost, locked }) {
    Object.assign(this, { told, lost, locked });
    document.addEventListener("visibilitychange", () => this.#turn());
  }

  open() {
    this.#closed = false;
    this.#turn();
  }

  close() {
    this.#closed = true;
    this.#readings = [];
    this.#turn();
  }

  #turn() {
    clearTimeout(this.#timer);
    this.#control?.abort();
    this.#control = null;
    if (!this.#closed && !document.hidden) this.#ask();
  }

  async #ask() {
    const control = (this.#control = new AbortController());
    const began = performance.now();
    let trouble = null;
    try {
      await this.#read(control.signal);
    } catch (error) {
      trouble = error;
    }
    if (this.#control !== control) return; // it was told to stop meanwhile
    if (trouble instanceof Locked) {
      this.close();
      this.locked();
      return;
    }
    if (trouble !== null) this.lost(trouble instanceof Silent ? trouble.message : "what it answers cannot be understood");
    const soon = this.#readings.length === 1 ? EVERY / 2 : EVERY; // nothing can be said of a single reading
    this.#timer = setTimeout(() => this.#ask(), Math.max(began + soon - performance.now(), 0));
  }

  async #read(signal) {
    const quietly = (asked) => asked.catch((error) => (error instanceof Locked ? Promise.reject(error) : null));
    const [stats, hot, instances] = await Promise.all([
      ask("stats", { signal }),
      quietly(ask("hot?top=12", { signal })),
      quietly(ask("instances", { signal })),
    ]);
    if (signal.aborted) return;
    if (stats.status !== 200 || !stats.members.requests) {
      throw new Silent(stats.members.detail ?? `it answers ${stats.status}, which cannot be understood`);
    }
    const reading = { at: performance.now(), stats: stats.members };
    const before = this.#readings.at(-1);
    reading.gap = !before || reading.at - before.at > LATE;
    // Counters that fell are those of a new process: what was before says nothing of it.
    const fell = before && reading.stats.requests.total < before.stats.requests.total;
    const readings = [...(fell ? [] : this.#readings), reading].slice(-KEPT);
    this.told(readings, { hot, instances });
    this.#readings = readings; // only what could be shown is kept
  }
}
