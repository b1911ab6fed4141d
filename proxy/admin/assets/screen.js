// Puts the numbers on the page. Every text is set as text: nothing that comes from elsewhere is ever read as markup.

import { level, spark, stack } from "./charts.js";
import * as n from "./numbers.js";

export const byId = (id) => document.getElementById(id);

export function element(name, { text, kind, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...(text === undefined ? children : [String(text)]));
  return made;
}

// A row for each item. Rows stay where they are and get new texts, so that focus and pointer keep their place.
function rows(parent, items, make, fill) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  while (parent.children.length < items.length) parent.append(make());
  items.forEach((item, at) => fill(parent.children[at], item));
}

function write(place, text, kind) {
  if (place.textContent !== text) place.textContent = text;
  if (kind !== undefined && place.className !== kind) place.className = kind;
}

function cells(...labels) {
  return () => {
    const [first, ...others] = labels;
    const row = element("tr", {}, element("th", { scope: "row", "data-label": first }));
    row.append(...others.map((label) => element("td", { "data-label": label })));
    return row;
  };
}

const fill = (row, texts) => texts.forEach((text, at) => write(row.children[at], ...[text].flat()));

function empty(name, items) {
  byId(`${name}-table`).hidden = items.length === 0;
  byId(`${name}-empty`).hidden = items.length > 0;
}

function figure(id, value, text, note) {
  byId(id).value = value ?? "";
  write(byId(id), text);
  write(byId(`${id}-note`), note);
}

// The newest reading and the oldest of the last so many seconds that leads to it without a gap; null of one alone.
function over(readings, seconds) {
  const now = readings.at(-1);
  let from = readings.length - 1;
  while (from > 0 && !readings[from].gap && now.at - readings[from - 1].at <= seconds * 1000 + 500) from -= 1;
  if (from === readings.length - 1) return null;
  return { now: now.stats, was: readings[from].stats, seconds: (now.at - readings[from].at) / 1000 };
}

const RESULTS = {
  hit: "fresh, from memory",
  shared: "fresh, from Redis",
  stale: "stale, by a window",
  revalidated: "the upstream said 304",
  miss: "fetched",
  bypass: "past the cache",
  error: "the upstream failed",
  purged: "a PURGE that was done",
  refused: "by this proxy",
  gone: "the client left",
};
const SOURCES = { cache: "from the cache", upstream: "from upstream", proxy: "by the proxy itself" };
const FEWEST = 20; // readings that the width of a line stands for
const REDIS_EVENTS = ["gaps", "restarts"];

const durations = (stats, names = Object.keys(SOURCES)) => n.added(names.map((name) => stats.durations[name]));
const each = (readings, of) =>
  readings.map((reading, at) =>
    at === 0 || reading.gap ? null : of(reading.stats, readings[at - 1].stats, (reading.at - readings[at - 1].at) / 1000),
  );

export class Screen {
  // `pick` is told what somebody wants to do with a hot key.
  constructor(pick) {
    this.pick = pick;
  }

  show(readings, { hot, instances }) {
    const { stats } = readings.at(-1);
    const minute = over(readings, 60);
    write(byId("version"), stats.version);
    const ready = byId("ready");
    write(ready, stats.ready ? "Ready" : "Not ready", stats.ready ? "pill good" : "pill warn");
    byId("fresh").hidden = stats.requests.total > 0;
    this.#glance(readings, minute);
    this.#results(minute);
    this.#latencies(stats, minute);
    this.#upstreams(stats, minute);
    this.#routes(stats, minute);
    this.#instances(stats, instances);
    this.#hot(hot);
    this.#limits(stats, minute);
  }

  #glance(readings, minute) {
    const { stats } = readings.at(-1);
    const lately = over(readings, 10);
    const slots = Math.max(readings.length, FEWEST);
    const results = minute && n.grown(minute.now.requests.by_result, minute.was.requests.by_result);
    const ratio = results ? n.hitRatio(results) : stats.hit_ratio;
    const ever = stats.hit_ratio === null ? "no requests yet" : `${n.percent(stats.hit_ratio)} since the start`;
    figure("ratio", ratio, ratio === null ? n.NONE : n.percent(ratio), ratio !== null && results ? `last minute · ${ever}` : ever);
    spark(
      byId("ratio-spark"),
      each(readings, (now, was) => n.hitRatio(n.grown(now.requests.by_result, was.requests.by_result))),
      slots,
      1,
    );

    const speed = (of) => lately && Math.max(of(lately.now) - of(lately.was), 0) / lately.seconds;
    const history = (of) => each(readings, (now, was, seconds) => Math.max(of(now) - of(was), 0) / seconds);
    const asked = (reading) => reading.requests.total;
    const requests = speed(asked);
    figure("rate", requests, requests === null ? n.NONE : n.rate(requests), `${n.count(stats.requests.total)} since the start`);
    spark(byId("rate-spark"), history(asked), slots);

    const { bounds } = stats.durations;
    const counts = minute ? n.since(durations(minute.now), durations(minute.was)) : durations(stats);
    const [p50, p95, p99] = [0.5, 0.95, 0.99].map((share) => n.percentile(bounds, counts, share));
    figure("latency", n.rank(counts, 0.95), p95, p95 === n.NONE ? "no answers in the last minute" : `p50 ${p50} · p99 ${p99}`);
    spark(
      byId("latency-spark"),
      each(readings, (now, was) => n.rank(n.since(durations(now), durations(was)), 0.95)),
      slots,
      bounds.length + 1,
    );

    const spared = (reading) => reading.saved_upstream_seconds;
    const saving = speed(spared);
    figure("saved", spared(stats), n.duration(spared(stats)), saving ? `${n.duration(saving)} more every second` : "since the start");
    spark(byId("saved-spark"), history(spared), slots);

    const { open } = stats.connections;
    const sent = (reading) => reading.sent_bytes;
    const sending = speed(sent);
    const clients = open === 1 ? "1 client connected" : `${n.count(open)} clients connected`;
    figure("sent", sending, sending === null ? n.NONE : `${n.bytes(sending)}/s`, `${n.bytes(sent(stats))} · ${clients}`);
    spark(byId("sent-spark"), history(sent), slots);

    const { entries, used_bytes: used, budget_bytes: budget, evictions } = stats.memory;
    const evicted = evictions ? ` · ${n.count(evictions)} evicted` : "";
    const answers = entries === 1 ? "1 answer" : `${n.count(entries)} answers`;
    figure("memory", entries, n.bytes(used), `of ${n.bytes(budget)} · ${answers}${evicted}`);
    level(byId("memory-level"), budget ? used / budget : 0, true);
  }

  #results(minute) {
    const grown = minute ? n.grown(minute.now.requests.by_result, minute.was.requests.by_result) : {};
    const some = Object.keys(RESULTS).filter((name) => grown[name] > 0);
    const all = n.total(grown);
    write(byId("results-when"), minute ? "last minute" : "");
    stack(byId("results-stack"), some.map((name) => [`r-${name}`, grown[name]]));
    byId("results-stack").toggleAttribute("hidden", some.length === 0);
    byId("results-empty").hidden = some.length > 0;
    const make = () =>
      element("li", {}, element("i"), element("b"), element("span", { kind: "note" }), element("span"), element("span"));
    rows(byId("results"), some, make, (row, name) => {
      const [mark, title, what, share, speed] = row.children;
      write(mark, "", `r-${name}`);
      write(title, name);
      write(what, RESULTS[name]);
      write(share, n.percent(grown[name] / all));
      write(speed, n.rate(grown[name] / minute.seconds));
    });
  }

  #latencies(stats, minute) {
    write(byId("latencies-when"), minute ? "last minute" : "since the start");
    const { bounds } = stats.durations;
    const wanted = [["all of them", Object.keys(SOURCES)], ...Object.entries(SOURCES).map(([name, told]) => [told, [name]])];
    rows(byId("latencies"), wanted, cells("Answered", "p50", "p95", "p99"), (row, [told, names]) => {
      const now = durations(stats, names);
      const counts = minute ? n.since(now, durations(minute.was, names)) : now;
      fill(row, [told, ...[0.5, 0.95, 0.99].map((share) => n.percentile(bounds, counts, share))]);
    });
  }

  #upstreams(stats, minute) {
    const items = Object.entries(stats.upstreams);
    empty("upstreams", items);
    write(byId("upstreams-when"), minute ? "last minute" : "since the start");
    rows(byId("upstreams"), items, cells("Name", "State", "Requests", "Errors", "p95", "Connections"), (row, [name, now]) => {
      const was = minute?.was.upstreams[name];
      const errors = was ? n.grown(now.errors, was.errors) : now.errors;
      const failed = n.total(errors);
      const calls = was ? Math.max(now.requests - was.requests, 0) : now.requests;
      const held = now.breaker === "open";
      const answers = was ? n.grown(now.responses, was.responses) : (now.responses ?? {});
      const broken = answers["5xx"] ?? 0;
      let state = failed > 0 || 2 * broken > n.total(answers) ? ["failing", "warn state"] : ["healthy", "good state"];
      if (now.gate?.waiting > 0) state = ["full", "warn state"];
      if (held) state = ["breaker open", "bad state"];
      const why = Object.entries({ ...errors, "5xx": broken }).filter(([, some]) => some > 0).map(([reason, some]) => `${n.count(some)} ${reason}`);
      const counts = now.durations ? n.since(now.durations.counts, was?.durations?.counts) : [];
      fill(row, [
        name,
        state,
        was ? n.rate(calls / minute.seconds) : n.count(calls),
        why.join(", ") || "none",
        n.percentile(stats.durations.bounds, counts, 0.95),
        n.count(now.connections),
      ]);
      const opened = now.breaker_opened ? ` The breaker has opened ${n.count(now.breaker_opened)} times.` : "";
      const breaker = held ? "The breaker is open: calls are held back." : "The breaker is closed.";
      const gate = now.gate ? ` ${n.count(now.gate.inside)} of ${n.count(now.gate.limit)} requests under way, ${n.count(now.gate.waiting)} waiting.` : "";
      row.children[1].title = `${breaker}${opened}${gate}`;
    });
  }

  #routes(stats, minute) {
    const calls = ([name, now]) => now.requests - (minute?.was.routes[name]?.requests ?? 0);
    const items = Object.entries(stats.routes).sort((one, other) => calls(other) - calls(one)).slice(0, 12);
    empty("routes", items);
    write(byId("routes-when"), minute ? "last minute" : "since the start");
    rows(byId("routes"), items, cells("Name", "Requests", "Hit ratio", "Time saved"), (row, [name, now]) => {
      const was = minute?.was.routes[name];
      const ratio = minute ? n.hitRatio(n.grown(now.by_result, was?.by_result)) : now.hit_ratio;
      const saved = Math.max(now.saved_upstream_seconds - (was?.saved_upstream_seconds ?? 0), 0);
      const asked = Math.max(calls([name, now]), 0);
      fill(row, [
        name === "" ? ["(none took it)", "note"] : [name, ""],
        minute ? n.rate(asked / minute.seconds) : n.count(asked),
        ratio === null ? n.NONE : n.percent(ratio),
        n.duration(saved),
      ]);
    });
  }

  #limits(stats, minute) {
    const routes = Object.entries(stats.limits?.routes ?? {});
    byId("limits-card").hidden = routes.length === 0;
    write(byId("limits-when"), minute ? "last minute" : "since the start");
    const through = (limits) => (limits?.allowed ?? 0) + (limits?.stale ?? 0);
    const refused = (limits) => (limits?.refused ?? 0) + (limits?.too_many_at_once ?? 0);
    rows(byId("limits"), routes, cells("Route", "Let through", "Refused", "Clients"), (row, [name, now]) => {
      const was = minute?.was.limits?.routes[name];
      const told = (of) => (minute ? n.rate(Math.max(of(now) - of(was), 0) / minute.seconds) : n.count(of(now)));
      const some = refused(now) > refused(was);
      fill(row, [name, told(through), [told(refused), some ? "warn" : ""], n.count(n.total(now.buckets))]);
    });
    const clients = (stats.limits?.refused ?? []).filter((client) => client.rate >= 0.01).slice(0, 8);
    byId("limited-some").hidden = clients.length === 0;
    rows(byId("limited"), clients, cells("Client", "Limit", "Refused"), (row, { client, route, limit, rate }) =>
      fill(row, [[client, "code"], limit === route ? route : `${route}, ${limit}`, n.rate(rate)]),
    );
  }

  #instances(stats, answer) {
    const known = answer?.status === 200 ? answer.members : null;
    const items = known?.instances ?? [];
    empty("instances", items);
    const why = answer === null ? "The instances did not answer in time." : (answer.members.detail ?? "");
    write(byId("instances-empty"), known ? "Nobody is alive." : why);
    rows(byId("instances"), items, cells("Name", "Log position", "Lag"), (row, one) => {
      const here = known.here.includes(one.instance) && items.length > known.here.length;
      const behind = one.behind === 1 ? "1 record" : `${n.count(one.behind ?? 0)} records`;
      fill(row, [
        one.instance,
        one.position === null ? n.NONE : n.count(one.position),
        one.behind === null ? ["reading the log", "warn"] : one.behind ? [`${behind} behind`, "warn"] : ["in step", "good"],
      ]);
      row.children[0].className = "code";
      if (here) row.children[0].append(element("span", { kind: "here", text: "here" }));
    });
    const { log, redis } = stats;
    if (redis === null) {
      write(byId("log-note"), "No Redis is configured: this instance keeps everything to itself.");
      return;
    }
    const events = REDIS_EVENTS.filter((name) => log[name]).map((name) => `${n.count(log[name])} ${name} so far`);
    const words = [
      redis.up ? `Redis is connected, a round trip takes ${n.duration(redis.round_trip_seconds ?? 0)}` : "Redis cannot be reached",
      log.blind_seconds ? `nobody has vouched for the log for ${n.duration(log.blind_seconds)}` : "the log is vouched for",
    ];
    if (log.lag_seconds) words.push(`a record has been missing for ${n.duration(log.lag_seconds)}`);
    if (log.outbox) words.push(`${n.count(log.outbox)} purges wait to be told`);
    const well = redis.up && !log.blind_seconds && !log.lag_seconds;
    const whose = items.length > (known?.here.length ?? 0) ? " All other numbers here are those of the instance marked here." : "";
    write(byId("log-note"), `${[...words, ...events].join("; ")}.${whose}`, well ? "note" : "note warn");
  }

  #hot(answer) {
    const keys = answer?.status === 200 ? answer.members.keys.filter((key) => key.rate >= 0.01) : [];
    byId("hot-empty").hidden = keys.length > 0;
    const most = keys[0]?.rate ?? 1;
    const button = (name) => element("button", { type: "button", kind: "quiet", "data-do": name, text: name });
    const make = () => {
      const row = element(
        "li",
        {},
        element("code"),
        element("span", { kind: "speed" }),
        document.createElementNS("http://www.w3.org/2000/svg", "svg"),
        element("span", { kind: "actions" }, button("Explain"), button("Purge")),
      );
      row.children[2].setAttribute("class", "level");
      row.children[2].setAttribute("aria-hidden", "true");
      row.addEventListener("click", (event) => {
        if (event.target.dataset.do) this.pick(event.target.dataset.do, row.firstElementChild.textContent.split("\n")[0]);
      });
      return row;
    };
    rows(byId("hot"), keys, make, (row, { key, rate }) => {
      const [name, speed, bar, actions] = row.children;
      write(name, key);
      name.title = key;
      write(speed, n.rate(rate));
      level(bar, rate / most);
      for (const act of actions.children) act.setAttribute("aria-label", `${act.textContent} ${key}`);
    });
  }
}
