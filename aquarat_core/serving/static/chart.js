// One chart: curves by step as SVG, with a cursor that reads values.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 380;
const HEIGHT = 180;
const EDGE = { left: 46, right: 8, top: 8, bottom: 22 };
const BINS = 300;

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Means of bins, so that long curves stay light: [[step, value], ...]. */
function binned(points) {
  const size = Math.ceil(points.length / BINS);
  if (size <= 1) return points;
  const bins = [];
  for (let i = 0; i < points.length; i += size) {
    const part = points.slice(i, i + size);
    bins.push([0, 1].map((k) => part.reduce((sum, point) => sum + point[k], 0) / part.length));
  }
  return bins;
}

/** Mean over a tenth of the curve around each point. */
function smoothed(points) {
  const half = Math.max(1, Math.floor(points.length / 20));
  return points.map(([step], i) => {
    const part = points.slice(Math.max(0, i - half), i + half + 1);
    return [step, part.reduce((sum, point) => sum + point[1], 0) / part.length];
  });
}

/** Round numbers between two limits, about `n` of them. */
function ticks(lo, hi, n) {
  const raw = (hi - lo) / n;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((k) => k * unit >= raw) * unit;
  const found = [];
  for (let x = Math.ceil(lo / step) * step; x <= hi + step / 1e6; x += step) found.push(Number(x.toPrecision(12)));
  return found;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(size >= 1000 ? 5 : 4)));
}

/** A figure of several curves. `rows` are [step, {metric: value}]; null if none of them has one of the metrics. */
function chart({ title, unit, metrics }, rows, smooth) {
  const curves = metrics.map((name) => ({ name, points: binned(rows.filter((row) => name in row[1])
    .map((row) => [row[0], row[1][name]])) })).filter((curve) => curve.points.length);
  if (!curves.length) return null;
  const all = curves.flatMap((curve) => curve.points);
  const x = scale(all.map((point) => point[0]), EDGE.left, WIDTH - EDGE.right, false);
  const y = scale(all.map((point) => point[1]), HEIGHT - EDGE.bottom, EDGE.top, true);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const ends = curves.map(({ name, points }) => `${name} ${short(points.at(-1)[1])} at step ${points.at(-1)[0].toFixed(0)}`);
  drawing.setAttribute("aria-label", `${title}, ${unit}: ${ends.join("; ")}`);
  axes(drawing, x, y);
  curves.forEach((curve, i) => lines(drawing, curve.points, i, x, y, smooth));
  const key = make("div", { class: "key" });
  const cursor = svg("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
  drawing.append(cursor);
  const read = (step) => {
    cursor.setAttribute("visibility", step === null ? "hidden" : "visible");
    if (step !== null) for (const end of ["x1", "x2"]) cursor.setAttribute(end, x.at(step));
    show(key, ...curves.map(({ name, points }, i) => {
      const near = step === null ? points.at(-1) : nearest(points, step);
      return make("span", { class: `k${i}` }, make("i"), `${name} `, make("b", {}, short(near[1])),
        step === null ? "" : ` at ${near[0].toFixed(0)}`);
    }));
  };
  read(null);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * WIDTH;
    read(x.lo + ((place - EDGE.left) / (WIDTH - EDGE.left - EDGE.right)) * (x.hi - x.lo));
  });
  drawing.addEventListener("pointerleave", () => read(null));
  return make("figure", { class: "chart" }, make("figcaption", {}, title, make("span", { class: "unit" }, `${unit}, by step`)), drawing, key);
}

/** A linear scale over the values; `pad` leaves room at both ends. */
function scale(values, from, to, pad) {
  let lo = values.reduce((a, b) => Math.min(a, b), Infinity);
  let hi = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (lo === hi) [lo, hi] = [lo - (Math.abs(lo) || 1) / 10, hi + (Math.abs(hi) || 1) / 10];
  if (pad) [lo, hi] = [lo - (hi - lo) / 20, hi + (hi - lo) / 20];
  return { lo, hi, at: (value) => Number((from + ((value - lo) / (hi - lo)) * (to - from)).toFixed(1)) };
}

function axes(drawing, x, y) {
  for (const value of ticks(y.lo, y.hi, 4)) {
    const at = y.at(value);
    drawing.append(svg("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: at, y2: at }),
      svg("text", { x: EDGE.left - 6, y: at + 4, "text-anchor": "end" }, short(value)));
  }
  for (const value of ticks(x.lo, x.hi, 4).filter(Number.isInteger)) {
    const at = x.at(value);
    const anchor = at > WIDTH - 24 ? "end" : "middle";
    drawing.append(svg("text", { x: at, y: HEIGHT - 6, "text-anchor": anchor }, short(value)));
  }
}

function lines(drawing, points, i, x, y, smooth) {
  const path = (line) => line.map(([step, value], n) => `${n ? "L" : "M"}${x.at(step)} ${y.at(value)}`).join("");
  const rough = points.length > 30;
  if (rough && smooth) drawing.append(svg("path", { class: `faint s${i}`, d: path(points) }),
    svg("path", { class: `bold s${i}`, d: path(smoothed(points)) }));
  else drawing.append(svg("path", { class: `bold s${i}`, d: path(points) }));
  if (!rough) for (const [step, value] of points) drawing.append(svg("circle", { class: `s${i}`, r: 2.5, cx: x.at(step), cy: y.at(value) }));
}

function nearest(points, step) {
  return points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));
}
