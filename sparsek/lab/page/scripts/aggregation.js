// Panel "aggregation": rows of tokens or feature maps, pooled under noise; what survives, by linear R² and by naive variance.

panel("aggregation", (stored) => {
  const settings = consistent(stored);
  const { rows, curves } = sweep(settings);
  const now = Object.fromEntries(Object.entries(methodsOf(settings)).map(([method, pool]) => [method, measure(rows, pool, settings.noise, settings)]));
  show(stage("aggregation", "experiments"), experimentCards(settings, now));
  show(stage("aggregation"), aggregationFigure(settings, rows[settings.row]));
  show(stage("aggregation", "controls"), aggregationControls(settings));
  show(stage("aggregation", "sweep"), [
    sweepChart("Information retained: linear R²", "r2", settings, curves, "r2"),
    sweepChart("The naive measure: variance out / variance in", "naive", settings, curves, "naive"),
  ]);
  show(stage("aggregation", "table"), survivalTable(settings, now));
});

/** Each world has its own methods: the mean of tokens is the global average of a map. */
function consistent(settings) {
  const known = Object.keys(methodsOf(settings));
  const method = known.includes(settings.method) ? settings.method : settings.world === "map" ? "gap" : "mean";
  return { ...settings, method, row: Math.round(settings.row) };
}

function aggregationControls(settings) {
  const tokens = settings.world === "tokens";
  const options = Object.keys(methodsOf(settings));
  return [
    choice("aggregation", "world", "World", [["tokens", "Text: tokens"], ["map", "Vision: a map"]]),
    choice("aggregation", "target", "Retained of", [["content", "the content"], ["input", "the whole input"]]),
    h("label", { class: "control" }, h("span", { class: "control-label" }, "Pooling in the picture"),
      h("select", { "data-testid": "aggregation-method", value: settings.method, onchange: (event) => change("aggregation", { method: event.target.value }) },
        options.map((method) => h("option", { value: method }, METHOD_NAMES[method])))),
    slider("aggregation", "noise", "Noise σ", { step: 0.05 }),
    tokens && slider("aggregation", "carriers", "Tokens that carry the content", { step: 1, digits: 0 }),
    tokens && slider("aggregation", "strength", "Length of query and gate", { step: 0.5, digits: 1 }),
    tokens && choice("aggregation", "summary", "A token trained to sum up", [["none", "None"], ["first", "CLS"], ["last", "Last"]]),
    h("div", { class: "presets" },
      button("aggregation-row", "Another row", () => change("aggregation", { row: (settings.row + 1) % ROWS })),
      button("aggregation-seed", "Other seed", () => change("aggregation", { seed: settings.seed + 1 })),
      button("aggregation-reset", "Reset", () => reset("aggregation"))),
  ];
}

/** One row with its noise, and what the chosen pooling makes of it. */
function aggregationFigure(settings, row) {
  const width = room("aggregation");
  const values = shaken(row, settings.noise);
  const output = methodsOf(settings)[settings.method](shaped(values, settings.world));
  return settings.world === "tokens" ? tokenPicture(width, values, output, settings) : mapPicture(width, values, output, settings);
}

function heatCell(x, y, width, height, value, reach) {
  return h("rect", { x: x + 1, y: y + 1, width: width - 2, height: height - 2, rx: 3, fill: warmth(value / reach) });
}

/** Tokens as columns of four values, the pooled vector at the side. */
function tokenPicture(width, values, output, { method, row }) {
  const cell = Math.min(46, Math.floor((width - 74) / 11.6));
  const gap = Math.round(0.6 * cell);
  const reach = Math.max(...values.map(Math.abs), 1);
  const left = 74;
  const names = ["content 1", "content 2", "content 3", "marker"];
  const numbersAt = left + 10 * cell + gap;
  return drawing(width, 4 * cell + 66, `Row ${row}: ten tokens and their ${METHOD_NAMES[method]}`,
    names.map((name, d) => h("text", { class: "tick", x: left - 8, y: 26 + (d + 0.5) * cell + 4, "text-anchor": "end" }, name)),
    Array.from({ length: TOKENS }, (_, t) => [
      h("text", { class: "tick", x: left + (t + 0.5) * cell, y: 16, "text-anchor": "middle" }, t === 0 ? "CLS" : t === TOKENS - 1 ? "last" : String(t)),
      [0, 1, 2, 3].map((d) => heatCell(left + t * cell, 26 + d * cell, cell, cell, values[4 * t + d], reach)),
    ]),
    h("text", { class: "label", x: Math.min(width, numbersAt + cell), y: 4 * cell + 46, "text-anchor": "end", style: `fill: ${tint(method)}` }, `↑ ${METHOD_NAMES[method]}`),
    output.map((value, d) => [heatCell(numbersAt, 26 + d * cell, cell, cell, value, reach),
      numberAt(`aggregation-output-${d}`, numbersAt + cell / 2, 26 + (d + 0.5) * cell + 4, value, cell > 36 ? 2 : 1, { class: "number", "text-anchor": "middle" })]));
}

/** A map of 8 × 8 and its pooled map. */
function mapPicture(width, values, output, { method, row }) {
  const size = Math.min(300, Math.floor((width - 30) * 0.58));
  const [cell, side] = [size / SIDE, Math.sqrt(output.length)];
  const pooledSize = Math.min(size, Math.floor(width - size - 34), 190);
  const reach = Math.max(...values.map(Math.abs), 1);
  const [left, top, step] = [size + 34, (size - pooledSize) / 2, pooledSize / side];
  return drawing(width, size + 34, `Row ${row}: a feature map and its ${METHOD_NAMES[method]}`,
    values.map((value, i) => heatCell((i % SIDE) * cell, Math.floor(i / SIDE) * cell, cell, cell, value, reach)),
    output.map((value, i) => {
      const [cx, cy] = [left + (i % side) * step, top + Math.floor(i / side) * step];
      return [heatCell(cx, cy, step, step, value, reach), numberAt(`aggregation-output-${i}`, cx + step / 2, cy + step / 2 + 4, value, 2, { class: "number", "text-anchor": "middle" })];
    }),
    h("text", { class: "tick", x: 0, y: size + 22 }, "64 numbers"),
    h("text", { class: "label", x: left + pooledSize, y: size + 22, "text-anchor": "end", style: `fill: ${tint(method)}` }, `${METHOD_NAMES[method]}: ${output.length} number${output.length > 1 ? "s" : ""}`));
}

/** A measure of every method over the level of noise, the chosen one on top. */
function sweepChart(title, id, settings, curves, measureName) {
  const width = Math.floor((room("aggregation", "sweep") - (innerWidth > 820 ? 30 : 0)) / (innerWidth > 820 ? 2 : 1));
  const height = 260;
  const all = Object.values(curves).flatMap((points) => points.map((point) => point[measureName]));
  const top = measureName === "r2" ? 1 : Math.max(1, ...all);
  const { x, y, frame } = axes(width, height, [0, 2], [0, top], {
    xLabel: "noise σ", yLabel: "", xTicks: [0, 0.5, 1, 1.5, 2], yTicks: evenTicks(top), yDigits: top <= 1 ? 2 : 1, top: 16,
  });
  const order = Object.entries(curves).sort(([a], [b]) => (a === settings.method) - (b === settings.method));
  return h("div", { class: "figure" }, h("h3", {}, title), drawing(width, height, title, frame,
    h("line", { class: "now", x1: x(settings.noise), x2: x(settings.noise), y1: y(0), y2: y(top) }),
    order.map(([method, points]) => h("g", { style: `color: ${tint(method)}`, opacity: method === settings.method ? 1 : 0.62 },
      h("title", {}, METHOD_NAMES[method]),
      h("path", { class: "curve", stroke: "currentColor", "stroke-width": method === settings.method ? 3.2 : 1.6, d: path(points.map((point, i) => [x(LEVELS[i]), y(Math.max(0, point[measureName]))])) }),
      points.map((point, i) => h("circle", {
        cx: x(LEVELS[i]), cy: y(Math.max(0, point[measureName])), r: method === settings.method ? 3 : 1.8, fill: "currentColor",
        "data-testid": `aggregation-${id}-${method}-${i}`, "data-value": point[measureName],
      }))))));
}

/** All measures of all methods at the noise of the slider, best first. */
function survivalTable({ noise, target, method: chosen }, now) {
  const rows = Object.entries(now).sort(([, a], [, b]) => b.r2 - a.r2).map(([method, { r2, naive, moved }]) => [
    h("button", { type: "button", class: method === chosen ? "plain chosen" : "plain", "data-testid": `aggregation-show-${method}`, onclick: () => change("aggregation", { method }) }, named(method, METHOD_NAMES[method])),
    h("span", { class: "meter wide" }, h("i", { style: `width: ${100 * clamp(r2, 0, 1)}%; background: ${tint(method)}` })),
    number(`aggregation-now-r2-${method}`, r2, 3), number(`aggregation-now-naive-${method}`, naive, 3), number(`aggregation-now-moved-${method}`, moved, 3),
  ]);
  const kept = target === "content" ? "R², content" : "R², input";
  return table([`At σ = ${written(noise, 2)}`, "", kept, "Naive", "Moved"], rows, { label: "What survives", stacked: "compact" });
}
