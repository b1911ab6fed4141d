// Numbers as people read them, and what can be worked out from two readings. Nothing here touches the page.

const THIN = "\u202f"; // a narrow space that does not break
export const NONE = "–";

const grouped = (digits) => digits.replace(/\B(?=(\d{3})+(?!\d))/g, THIN);

const short = (value) => (value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0));

function scaled(value, step, units) {
  let unit = 0;
  let rest = value;
  while (rest >= step && unit < units.length - 1) {
    rest /= step;
    unit += 1;
  }
  return `${unit === 0 ? grouped(rest.toFixed(0)) : short(rest)}${units[unit] && THIN + units[unit]}`;
}

// A whole number: exact while it is short.
export const count = (value) =>
  value < 100_000 ? grouped(Math.round(value).toFixed(0)) : scaled(value, 1000, ["", "k", "M", "G", "T"]);

// So many a second.
export function rate(value) {
  const told = value === 0 ? "0" : value < 0.05 ? "<" + THIN + "0.1" : value < 10 ? value.toFixed(1) : count(value);
  return `${told}/s`;
}

export const bytes = (value) => scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);

// Rounded down, so that 100 % is all of them.
export const percent = (share) => `${(Math.floor(share * 1000 + 1e-9) / 10).toFixed(1)}${THIN}%`;

export function duration(seconds) {
  if (seconds === 0) return `0${THIN}s`;
  if (seconds < 1) return `${short(seconds * 1000).replace(/\.0+$/, "")}${THIN}ms`;
  if (seconds < 60) return `${seconds.toFixed(1)}${THIN}s`;
  const all = Math.floor(seconds);
  for (const [unit, size, less, part] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
    if (all >= size) {
      const rest = Math.floor((all % size) / part);
      return `${grouped(String(Math.floor(all / size)))}${THIN}${unit}${rest ? ` ${rest}${THIN}${less}` : ""}`;
    }
  }
  return NONE;
}

export const whole = (seconds) => (seconds < 60 ? `${Math.round(seconds)}${THIN}s` : duration(seconds));

export const milliseconds = (value) => (value < 0.01 ? `<${THIN}0.01${THIN}ms` : duration(value / 1000));

// The index of the bucket in which that share of all lies; -1 where there is none.
function bucket(counts, share) {
  const total = counts.reduce((sum, one) => sum + one, 0);
  let below = 0;
  if (!total) return -1;
  return counts.findIndex((one) => (below += one) >= share * total);
}

// Buckets do not tell more than a bound: what is shown is what is known.
export function percentile(bounds, counts, share) {
  const at = bucket(counts, share);
  if (at < 0) return NONE;
  const bound = (seconds) => (seconds < 1 ? `${+(seconds * 1000).toFixed(3)}${THIN}ms` : `${seconds}${THIN}s`);
  return at < bounds.length ? `≤${THIN}${bound(bounds[at])}` : `>${THIN}${bound(bounds.at(-1))}`;
}

// The same as a number to draw: which bucket.
export function rank(counts, share) {
  const at = bucket(counts, share);
  return at < 0 ? null : at + 1;
}

export function added(histograms) {
  const all = histograms.filter(Boolean).map((histogram) => histogram.counts);
  return (all[0] ?? []).map((_, at) => all.reduce((sum, counts) => sum + counts[at], 0));
}

export const since = (counts, before) => counts.map((one, at) => Math.max(one - (before?.[at] ?? 0), 0));

// What each name has grown by.
export const grown = (now, before) =>
  Object.fromEntries(Object.entries(now ?? {}).map(([name, one]) => [name, Math.max(one - (before?.[name] ?? 0), 0)]));

export const total = (counts) => Object.values(counts ?? {}).reduce((sum, one) => sum + one, 0);

const FROM_CACHE = ["hit", "shared", "stale"];
const NOT_ASKED = ["purged", "refused", "gone"];

// As docs/admin.md has it; null before the first request that counts.
export function hitRatio(results) {
  const of = (names) => names.reduce((sum, name) => sum + (results[name] ?? 0), 0);
  const asked = total(results) - of(NOT_ASKED);
  return asked > 0 ? of(FROM_CACHE) / asked : null;
}
