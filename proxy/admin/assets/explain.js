// The explain box: how a request would be answered if it came now, and why.

import { ask, Locked, problem } from "./api.js";
import { byId, element } from "./screen.js";

const PAGE = "application/vnd.readthrough.explanation+json";
const ACTS = {
  serve: ["good", "Served from the cache"],
  fetch: ["warn", "Fetched from the upstream"],
  purge: ["good", "Purged, for clients that may"],
  refuse: ["bad", "Refused"],
};

export class Explain {
  #turn = 0;

  constructor(locked) {
    this.locked = locked;
    const form = byId("explain-form");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    byId("explain-headers").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
  }

  // Explain a GET of a URL.
  offer(url) {
    byId("explain-method").value = "GET";
    byId("explain-url").value = url;
    byId("explain-button").focus();
    byId("explain").scrollIntoView({ block: "nearest" });
    this.#submit();
  }

  async #submit() {
    const turn = (this.#turn += 1); // only the last question is answered
    this.#complain([]);
    byId("explain-verdict").textContent = "";
    byId("explain-steps").replaceChildren();
    const lines = byId("explain-headers").value.split("\n").filter((line) => line.trim());
    const headers = lines.map((line) => [line.split(":", 1)[0].trim(), line.slice(line.indexOf(":") + 1).trim()]);
    const wrong = lines.find((line) => !line.includes(":"));
    if (wrong !== undefined) {
      this.#complain([`A header field is written as Name: value, which this is not: ${wrong}`]);
      return;
    }
    const body = { method: byId("explain-method").value.trim(), url: byId("explain-url").value.trim(), headers };
    const client = byId("explain-client").value.trim();
    if (client) body.client = client;
    try {
      const answer = await ask("explain", { body, accept: PAGE });
      if (this.#turn !== turn) return;
      if (answer.status === 200) this.#show(answer.members);
      else this.#complain(problem(answer));
    } catch (error) {
      if (error instanceof Locked) this.locked();
      else this.#complain([`It was not explained: ${error.message}.`]);
    }
  }

  #show({ answer, page }) {
    const [kind, words] = ACTS[answer.act] ?? ["", answer.act];
    byId("explain-verdict").replaceChildren(
      element("span", { kind: `pill ${kind}`, text: words }),
      element("code", { text: `${answer.status === null ? "" : `${answer.status}, `}${answer.reason}` }),
    );
    byId("explain-steps").replaceChildren(
      ...page.map(({ title, rows }) => {
        const list = element("dl");
        for (const [name, value] of rows) {
          list.append(element("dt", { text: name }), element("dd", { text: value }));
        }
        return element("section", {}, element("h3", { text: title }), list);
      }),
    );
  }

  #complain(lines) {
    byId("explain-problem").replaceChildren(...lines.map((line) => element("p", { text: line })));
  }
}
