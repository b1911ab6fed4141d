// The purge box: one call, then how far it has come, instance by instance.

import { ask, Locked, problem } from "./api.js";
import { count, milliseconds } from "./numbers.js";
import { byId, element } from "./screen.js";

const KINDS = {
  urls: ["URLs, one a line", "Every variant of it. With scheme and host, or a path for those on every host."],
  prefixes: ["Prefixes, one a line", "What is below it, cut at segments: /a takes /a/b, not /ab."],
  tags: ["Tags, one a line", "Whatever carries one of them, from a route or from the upstream."],
  hosts: ["Hosts, one a line", "Whatever was asked for under one of them, on both schemes."],
  all: ["", ""],
};
const AGAIN = 500; // ms between two looks at how far it has come
const PATIENCE = 60_000; // ms after which nobody looks any more

export class Purge {
  #sure = false;
  #turn = 0;

  constructor(locked) {
    this.locked = locked;
    const form = byId("purge-form");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    form.addEventListener("change", () => this.#changed());
    byId("purge-values").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    this.#changed();
  }

  // Put a URL into the box, for somebody to look at and press the button.
  offer(url) {
    byId("purge-form").elements.kind.value = "urls";
    byId("purge-values").value = url;
    this.#changed();
    byId("purge-button").focus();
    byId("purge").scrollIntoView({ block: "nearest" });
  }

  get #kind() {
    return byId("purge-form").elements.kind.value;
  }

  #changed() {
    const [label, hint] = KINDS[this.#kind];
    byId("purge-some").hidden = this.#kind === "all";
    byId("purge-label").textContent = label;
    byId("purge-hint").textContent = hint;
    this.#ask(false);
  }

  // Everything goes only when the button is pressed a second time.
  #ask(sure) {
    this.#sure = sure;
    const button = byId("purge-button");
    button.textContent = sure ? "Yes, purge everything" : this.#kind === "all" ? "Purge everything" : "Purge";
    button.classList.toggle("danger", sure);
  }

  async #submit() {
    const kind = this.#kind;
    const values = byId("purge-values").value.split("\n").map((line) => line.trim()).filter(Boolean);
    this.#say("", []);
    if (kind !== "all" && values.length === 0) {
      this.#say("", ["There is nothing to purge yet: write one a line."]);
      byId("purge-values").focus();
      return;
    }
    if (kind === "all" && !this.#sure) {
      this.#ask(true);
      this.#say("Everything that is stored will be fetched anew. Press again to do it.", []);
      return;
    }
    this.#ask(false);
    const turn = (this.#turn += 1);
    const button = byId("purge-button");
    button.disabled = true;
    this.#say("Purging…", []);
    const wait = byId("purge-wait").value;
    const body = { [kind]: kind === "all" ? true : values, soft: byId("purge-soft").checked };
    try {
      const answer = await ask(wait === "0s" ? "invalidate" : `invalidate?wait=${wait}`, { body, within: 45 });
      button.disabled = false;
      if (document.activeElement === document.body) button.focus(); // who has gone on is not called back
      if (answer.status !== 200 && answer.status !== 202) this.#say("", problem(answer));
      else await this.#follow(answer.members, turn);
    } catch (error) {
      button.disabled = false;
      if (error instanceof Locked) this.locked();
      else this.#say("", [`Nobody knows whether it was done: ${error.message}. Asking again does no harm.`]);
    }
  }

  async #follow(told, turn) {
    const until = performance.now() + PATIENCE;
    let members = told;
    this.#show(members);
    while (this.#turn === turn && !(members.applied && members.pending?.length === 0) && performance.now() < until) {
      await new Promise((done) => setTimeout(done, AGAIN));
      if (this.#turn !== turn) return;
      const answer = await this.#look(told.id);
      if (answer?.status === 404) return;
      if (answer?.status === 200) members = answer.members;
      if (this.#turn === turn) this.#show(members);
    }
  }

  // Where nobody answers there is another time: it is written all the same.
  async #look(id) {
    try {
      return await ask(`invalidations/${encodeURIComponent(id)}`);
    } catch (error) {
      if (error instanceof Locked) throw error;
      return null;
    }
  }

  #show({ id, applied = {}, pending = null }) {
    const done = Object.entries(applied);
    const waiting = pending ?? [];
    const all = done.length + waiting.length;
    const slowest = Math.max(...done.map(([, after]) => after));
    let text = "Written to the log; how far it has come is not known yet.";
    if (pending !== null && waiting.length > 0) text = `${count(waiting.length)} of ${count(all)} instances have not applied it yet.`;
    if (pending !== null && waiting.length === 0) {
      const who = all === 1 ? "Applied by the only instance" : `Applied by all ${count(all)} instances`;
      text = `${who}, ${all === 1 ? "" : "the slowest "}after ${milliseconds(slowest)}.`;
    }
    this.#say(`${text} Id ${id}.`, []);
    byId("purge-table").hidden = all === 0;
    const row = (name, words, kind) =>
      element(
        "tr",
        {},
        element("th", { scope: "row", kind: "code", text: name }),
        ...words.map((word, at) => element("td", { text: word, kind: at === 0 ? kind : "" })),
      );
    byId("purge-rows").replaceChildren(
      ...done.map(([name, after]) => row(name, ["applied", milliseconds(after)], "good")),
      ...waiting.map((name) => row(name, ["not yet", "–"], "warn")),
    );
  }

  #say(outcome, problems) {
    byId("purge-outcome").textContent = outcome;
    byId("purge-problem").replaceChildren(...problems.map((line) => element("p", { text: line })));
    if (problems.length || !outcome) byId("purge-table").hidden = true;
  }
}
