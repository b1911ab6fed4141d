// Small drawings as inline SVG. What they show is said beside them in words.

const SVG = "http://www.w3.org/2000/svg";

function drawn(place, width, height, shapes) {
  place.setAttribute("viewBox", `0 0 ${width} ${height}`);
  place.setAttribute("preserveAspectRatio", "none");
  place.replaceChildren(
    ...shapes.map(([name, attributes]) => {
      const shape = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
      return shape;
    }),
  );
}

// A line through values, the newest at the right; null is a gap. `most` is what the top stands for.
export function spark(place, values, slots, most = Math.max(...values.map((value) => value ?? 0)) * 1.1) {
  const [width, height] = [120, 30];
  const x = (at) => (width * (at + slots - values.length)) / (slots - 1);
  const y = (value) => height - 1 - (height - 3) * Math.min(most > 0 ? value / most : 0, 1);
  const runs = [];
  values.forEach((value, at) => {
    if (value === null) return;
    if (at === 0 || values[at - 1] === null) runs.push([]);
    runs.at(-1).push([x(at), y(value)]);
  });
  const line = (run) => `M${run.map(([left, top]) => `${left.toFixed(1)} ${top.toFixed(1)}`).join("L")}`;
  const long = runs.filter((run) => run.length > 1);
  const area = long.map((run) => `${line(run)}L${run.at(-1)[0].toFixed(1)} ${height}L${run[0][0].toFixed(1)} ${height}Z`);
  drawn(place, width, height, [
    ["path", { class: "area", d: area.join("") }],
    ["path", { class: "line", d: long.map(line).join(""), "vector-effect": "non-scaling-stroke" }],
  ]);
}

// Parts of a whole, side by side. Each is [class, size].
export function stack(place, parts) {
  const whole = parts.reduce((sum, [, size]) => sum + size, 0);
  let left = 0;
  drawn(
    place,
    1000,
    10,
    parts.map(([kind, size]) => {
      const width = whole ? (1000 * size) / whole : 0;
      left += width;
      return ["rect", { class: kind, x: left - width, y: 0, width: Math.max(width - 1, Math.min(width, 1)), height: 10 }];
    }),
  );
}

// How full something is, from 0 to 1; where it has an end, that it comes to it is shown.
export function level(place, share, ends = false) {
  const width = 1000 * Math.min(Math.max(share, 0), 1);
  drawn(place, 1000, 10, [
    ["rect", { class: "track", x: 0, y: 0, width: 1000, height: 10 }],
    ["rect", { class: ends && share > 0.97 ? "fill full" : "fill", x: 0, y: 0, width, height: 10 }],
  ]);
}
