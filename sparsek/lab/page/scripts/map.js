// Panel "map": a 4 × 4 map, its pooled values, the winners, and the gradient that flows back.

const SHAKES = 200;
const POOLINGS = { max: "Max 2 × 2", average: "Average 2 × 2", global: "Global average" };

/** Output, and gradient at the input, of one pooling of 16 values. */
function poolMap(values, pooling, upstream) {
  const groups = pooling === "global" ? windows(4, 4) : windows(4, 2);
  const gradient = new Array(16).fill(0);
  const winners = [];
  const output = groups.map((cells, i) => {
    if (pooling === "max") {
      const best = winner(values, cells);
      winners.push(best);
      gradient[best] += upstream[i];
      return values[best];
    }
    for (const cell of cells) gradient[cell] += upstream[i] / cells.length;
    return mean(cells.map((cell) => values[cell]));
  });
  return { groups, output, gradient, winners };
}

function noisy(values, level, seed, stream) {
  const noise = normals(uniforms(seed, stream), 16);
  return values.map((value, i) => value + level * noise[i]);
}

/** The first output of every pooling, over draws of the noise. */
function shakes({ x, noise, seed }) {
  const source = uniforms(seed, 10);
  const found = { max: [], average: [], global: [] };
  for (let draw = 0; draw < SHAKES; draw++) {
    const shake = normals(source, 16);
    const values = x.map((value, i) => value + noise * shake[i]);
    for (const pooling of Object.keys(found)) found[pooling].push(poolMap(values, pooling, [0, 0, 0, 0]).output[0]);
  }
  return found;
}

panel("map", (settings) => {
  const used = noisy(settings.x, settings.noise, settings.seed, 9);
  const pooled = poolMap(used, settings.pooling, settings.gradient);
  show(stage("map"), mapFigure(settings, used, pooled));
  show(stage("map", "controls"), mapControls(settings, pooled));
  show(stage("map", "strip"), mapStrip(settings));
});

function mapFigure({ x, pooling, noise, gradient: upstream }, used, pooled) {
  const width = Math.min(room("map"), 560);
  const cell = Math.floor(Math.min(68, (width - 46) / 6));
  const gap = 3;
  const [right, size] = [Math.min(width - (pooling === "global" ? 1.4 : 2) * cell - 4, 4 * cell + 110), 4 * cell];
  const outputs = pooled.output.map((value, i) => {
    const side = pooling === "global" ? 1.4 * cell : cell;
    const [row, column] = pooling === "global" ? [0, 0] : [Math.floor(i / 2), i % 2];
    return { value, side, x: right + column * cell, y: (size - (pooling === "global" ? 1.4 : 2) * cell) / 2 + row * cell };
  });
  const top = Math.max(...used.map(Math.abs), 1e-9);
  const heat = (value) => `background: ${warmth(value / top)}`;
  const inputs = x.map((_, i) => {
    const place = `left: ${(i % 4) * cell}px; top: ${Math.floor(i / 4) * cell}px; width: ${cell - gap}px; height: ${cell - gap}px;`;
    const label = `Cell in row ${Math.floor(i / 4) + 1}, column ${(i % 4) + 1}`;
    return h("div", { class: "cell", style: place + heat(used[i]) },
      field("map", "x", i, label, { ...scrubbable("map", "x", i, 0.02), style: "" }),
      noise > 0 && number(`map-used-${i}`, used[i], 2, { class: "number small" }),
      number(`map-flow-${i}`, pooled.gradient[i], pooled.gradient[i] ? 3 : 0, { class: pooled.gradient[i] ? "number flow" : "number flow faint" }));
  });
  const boxes = outputs.map(({ value, side, x: left, y }, i) => h("div", {
    class: "cell out", style: `left: ${left}px; top: ${y}px; width: ${side - gap}px; height: ${side - gap}px; ${heat(value)}`,
  }, number(`map-out-${i}`, value, 3), h("span", { class: "flow small" }, `g = ${written(upstream[i], 2)}`)));
  return h("div", { class: "map", style: `width: ${right + (pooling === "global" ? 1.4 : 2) * cell}px; height: ${size}px` },
    inputs, boxes, mapArrows(pooled, outputs, cell, gap, upstream, right + 2 * cell, size));
}

/** Winners get a ring, and every cell that receives gradient an arrow from its output. */
function mapArrows({ groups, winners, gradient }, outputs, cell, gap, upstream, width, height) {
  const between = Math.round(0.07 * cell); // what a cell holds stands above, its gradient below
  const middle = (i) => [(i % 4) * cell + (cell - gap) / 2, Math.floor(i / 4) * cell + (cell - gap) / 2 + between];
  const arrows = groups.flatMap((cells, i) => cells.filter((c) => gradient[c] !== 0).map((c) => {
    const [cx, cy] = middle(c);
    const [fromX, fromY] = i % 2 ? [outputs[i].x + outputs[i].side / 2, outputs[i].y + (i > 1 ? outputs[i].side - gap : 0)] : [outputs[i].x - 2, outputs[i].y + outputs[i].side / 2 + between];
    const toX = cx + cell * 0.36;
    const strength = Math.abs(upstream[i]) / (winners.length ? 1 : cells.length);
    const bend = (fromX - toX) * 0.4;
    return h("path", {
      d: `M${fromX} ${fromY}C${fromX - bend} ${fromY} ${toX + bend} ${cy} ${toX} ${cy}`, "marker-end": "url(#head)",
      class: gradient[c] < 0 ? "arrow minus" : "arrow", "stroke-width": clamp(1 + 3 * strength, 1, 4), opacity: winners.length ? 1 : 0.55,
    });
  }));
  const rings = winners.map((c) => h("rect", {
    class: "ring", x: (c % 4) * cell + 1, y: Math.floor(c / 4) * cell + 1, width: cell - gap - 2, height: cell - gap - 2, rx: 7,
  }));
  const marker = h("marker", { id: "head", viewBox: "0 0 6 6", refX: 5, refY: 3, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" },
    h("path", { d: "M0 0L6 3L0 6Z", class: "arrow-head" }));
  return h("svg", { class: "overlay", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, h("defs", {}, marker), rings, arrows);
}

/** From paper to the colour of heat for 0..1, to the colour of cold for negative values. */
function warmth(share) {
  const strength = Math.round(clamp(Math.abs(share), 0, 1) * 72);
  return `color-mix(in oklab, var(${share < 0 ? "--cold" : "--heat"}) ${strength}%, var(--surface))`;
}

function mapControls({ gradient, pooling }, pooled) {
  const total = sum(pooled.gradient.map(Math.abs));
  return [
    choice("map", "pooling", "Pooling", [["max", "Max"], ["average", "Average"], ["global", "Global"]]),
    slider("map", "noise", "Noise σ", { step: 0.05 }),
    h("div", { class: "control" },
      h("span", { class: "control-label ink-flow" }, "Gradient at the output"),
      h("div", { class: "fields" }, gradient.map((_, i) =>
        (pooling !== "global" || i === 0) && field("map", "gradient", i, `Gradient at output ${i + 1}`)))),
    h("p", { class: "fact" }, `${pooled.gradient.filter((g) => g !== 0).length} of 16 cells learn; `,
      "|gradient| in all ", number("map-total", total, 3)),
    h("div", { class: "presets" },
      button("map-preset-first", "Quiet map", () => change("map", { x: [0.2, 0.8, 0.1, 0.9, 0.5, 0.3, 0.7, 0.4, 0.6, 0.1, 0.3, 0.5, 0.4, 0.9, 0.2, 0.8] })),
      button("map-preset-second", "Peaks", () => change("map", { x: [...DEFAULTS.map.x] })),
      button("map-shake", "Other noise", () => change("map", { seed: state.map.seed + 1 })),
      button("map-reset", "Reset", () => reset("map"))),
  ];
}

/** One row of dots for each pooling: where its first output falls over draws of the noise. */
function mapStrip(settings) {
  const width = room("map", "strip");
  if (settings.noise === 0) return h("p", { class: "caption" }, "Raise the noise to see how far, and to which side, it moves each pooling.");
  const drawn = shakes(settings);
  const clean = Object.fromEntries(Object.keys(drawn).map((p) => [p, poolMap(settings.x, p, [0, 0, 0, 0]).output[0]]));
  const all = [...Object.values(drawn).flat(), ...Object.values(clean)];
  const [low, high] = [Math.min(...all) - 0.3, Math.max(...all) + 0.3];
  const left = 112;
  const right = width < 560 ? 12 : 148;
  const rowHeight = width < 560 ? 50 : 36;
  const x = (value) => left + ((value - low) / (high - low)) * (width - left - right);
  const lines = Object.entries(drawn).map(([pooling, values], row) => {
    const y = 24 + row * rowHeight;
    const centre = mean(values);
    const deviation = Math.sqrt(mean(values.map((value) => (value - centre) ** 2)));
    const colour = { max: "var(--max)", average: "var(--mean)", global: "var(--gap)" }[pooling];
    const [tx, ty] = width < 560 ? [left, y + 22] : [width - right + 12, y + 4];
    return h("g", { style: `color: ${colour}` },
      h("text", { class: "label", x: 0, y: y + 4 }, POOLINGS[pooling]),
      h("line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y }),
      values.map((value, i) => h("circle", { cx: x(value).toFixed(1), cy: y + ((i * 7) % 11) - 5, r: 2.2, fill: "currentColor", opacity: 0.28 })),
      h("path", { d: `M${x(clean[pooling])} ${y - 11}v22`, class: "mark clean" }),
      h("path", { d: `M${x(centre)} ${y - 11}v22`, class: "mark", stroke: "currentColor" }),
      numberAt(`map-${pooling}-mean`, tx, ty, centre, 3, {}),
      h("text", { class: "tick", x: tx + 44, y: ty }, "±"),
      numberAt(`map-${pooling}-deviation`, tx + 58, ty, deviation, 3, {}));
  });
  return [
    h("p", { class: "caption" }, `The first output over ${SHAKES} draws of the noise: `, h("span", { class: "key" }, "mean over draws"), " and ",
      h("span", { class: "key clean" }, "value without noise"), "."),
    drawing(width, 24 + 3 * rowHeight, "First output of three poolings under noise", lines),
  ];
}
