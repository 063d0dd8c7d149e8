// Panel "heads": measured scores of the methods, weighted as the reader likes.

const FAMILIES = ["classification", "similarity", "retrieval"];
const LESSON = {
  text: { MaxPool: "Max", MeanPool: "Mean", ClsPool: "CLS", LastTokenPool: "Last token", AttentionPool: "Attention", GeM: "GeM, signed" },
  image: {
    MaxPool2d: "Max, windows", AvgPool2d: "Average, windows", MeanPool: "Global average", MaxPool: "Global max",
    ClsPool: "First place", LastTokenPool: "Last place", AttentionPool: "Attention", GeM: "GeM",
  },
};
const TINTS = {
  MeanPool: "mean", MaxPool: "max", ClsPool: "cls", LastTokenPool: "last", AttentionPool: "attention", GeM: "gem", GatedPool: "gated",
  TopKMeanPool: "topk", SigmoidTopKPool: "sigmoid", LogSumExpPool: "lse", MaxPool2d: "max4", AvgPool2d: "avg4",
};

/** Methods with their scores by family, and the weighted mean of those that count; best first. */
function ranking({ world, weights, all }) {
  const total = sum(weights);
  const rows = Object.entries(DATA.scores).filter(([method]) => all || method in LESSON[world]).map(([method, tasks]) => {
    const scores = FAMILIES.map((family) => tasks[`${world}/${family}`]);
    const counting = FAMILIES.map((_, i) => i).filter((i) => weights[i] > 0);
    const complete = total > 0 && counting.every((i) => scores[i]);
    return { method, scores, composite: complete ? sum(counting.map((i) => weights[i] * scores[i].mean)) / total : null };
  });
  return rows.filter((row) => row.scores.some(Boolean)).sort((a, b) => (b.composite ?? -1) - (a.composite ?? -1));
}

function methodName(method, world) {
  return LESSON[world][method] ?? method.replace(/Pool$/, "").replace(/([a-z])([A-Z])/g, "$1 $2").replace("Top K", "Top-k");
}

panel("heads", (settings) => {
  const rows = ranking(settings);
  show(stage("heads"), headsChart(rows, settings));
  show(stage("heads", "table"), differenceTable(rows, settings));
  show(stage("heads", "controls"), [
    choice("heads", "world", "Features of", [["text", "Text"], ["image", "Images"]]),
    FAMILIES.map((family, i) => slider("heads", `weight-${family}`, `Weight of ${family}`, {
      range: LIMITS.heads.weights, step: 0.05, value: settings.weights[i], onchange: (value) => changeAt("heads", "weights", i, value),
    })),
    toggle("heads", "all", "All poolings, not the lesson’s alone"),
    rows.every((row) => row.composite === null) && h("p", { class: "fact" }, "No task counts: give one a weight."),
    h("div", { class: "presets" },
      FAMILIES.map((family, i) => button(`heads-preset-${family}`, `Only ${family}`, () => change("heads", { weights: FAMILIES.map((_, j) => (i === j ? 1 : 0)) }))),
      button("heads-reset", "Reset", () => reset("heads"))),
  ]);
});

/** Each method less the mean, paired by split: what the data tell apart is coloured. */
function differenceTable(rows, { world }) {
  const lines = rows.filter(({ method }) => DATA.differences[method]).map(({ method }) => [
    named(TINTS[method] ?? "lse", methodName(method, world)),
    ...FAMILIES.map((family) => difference(`heads-${method}-${family}`, DATA.differences[method][`${world}/${family}`])),
  ]);
  return table([`Less the ${world === "text" ? "mean" : "global average"}, in points`, ...FAMILIES], lines, { label: "Differences from the mean", stacked: "compact" });
}

function difference(id, gap) {
  if (!gap) return "–";
  const side = gap.low > 0 ? "gap above" : gap.high < 0 ? "gap below" : "gap";
  return h("span", { class: side }, gap.mean > 0 && "+", number(`${id}-mean`, 100 * gap.mean, 1), " [", number(`${id}-low`, 100 * gap.low, 1, { class: "bound" }), ", ",
    number(`${id}-high`, 100 * gap.high, 1, { class: "bound" }), "]");
}

/** One line a method: the weighted mean, and each task's score with its interval. */
function headsChart(rows, { world, weights }) {
  const width = room("heads");
  const small = width < 520;
  const [left, right, row, top] = [small ? 0 : 128, 56, small ? 52 : 38, 56];
  const finite = rows.flatMap(({ scores }) => scores.filter((score, i) => score && weights[i] > 0)).flatMap(({ low, high }) => [low, high]);
  const low = Math.max(0, Math.floor(Math.min(...finite, 0.6) * 10) / 10);
  const x = (value) => left + ((clamp(value, low, 1) - low) / (1 - low)) * (width - left - right);
  const ticks = Array.from({ length: Math.round((1 - low) * 5) + 1 }, (_, i) => low + i * 0.2).filter((tick) => tick <= 1.001);
  const height = top + rows.length * row + 8;
  const best = rows.find((found) => found.composite !== null);
  return drawing(width, height, "Measured scores of the methods",
    h("g", {}, ticks.map((tick) => [
      h("line", { class: "grid", x1: x(tick), x2: x(tick), y1: top - 12, y2: height }),
      h("text", { class: "tick", x: x(tick), y: top - 18, "text-anchor": x(tick) < 8 ? "start" : "middle" }, written(100 * tick, 0)),
    ]), h("text", { class: "tick", x: width, y: 12, "text-anchor": "end" }, "weighted")),
    rows.map((found, i) => h("g", { style: `color: ${tint(TINTS[found.method] ?? "lse")}` }, headsLine(found, {
      y: top + i * row + (small ? 30 : 14), label: methodName(found.method, world), small, x, width, weights, left, star: found === best,
    }))),
    h("g", { class: "legend" }, FAMILIES.map((family, i) => h("g", { opacity: weights[i] > 0 ? 1 : 0.35 },
      taskMark(i, i * 112 + 6, 8), h("text", { class: "tick", x: i * 112 + 17, y: 12 }, family)))));
}

function headsLine({ method, scores, composite }, { y, label, small, x, width, weights, left, star }) {
  return [
    h("text", { class: "label", x: 0, y: small ? y - 14 : y + 4 }, (star ? "★ " : "") + label),
    h("line", { class: "grid", x1: left, x2: width - 56, y1: y, y2: y }),
    composite !== null && h("rect", { x: left, y: y - 8, width: Math.max(0, x(composite) - left), height: 16, rx: 3, fill: "currentColor", opacity: 0.2 }),
    scores.map((score, i) => score && h("g", { opacity: weights[i] > 0 ? 1 : 0.2 },
      h("line", { x1: x(score.low), x2: x(score.high), y1: y + (i - 1) * 4, y2: y + (i - 1) * 4, stroke: "currentColor", "stroke-width": 1.5 }),
      taskMark(i, x(score.mean), y + (i - 1) * 4, { "data-testid": `heads-${method}-${FAMILIES[i]}`, "data-value": score.mean }))),
    composite !== null && h("text", { class: "number", x: width, y: y + 4, "text-anchor": "end", "data-testid": `heads-${method}-weighted`, "data-value": composite }, written(100 * composite, 1)),
  ];
}

/** A disc, a square, a triangle: the three tasks without need of colour. */
function taskMark(i, x, y, attributes = {}) {
  const shapes = [
    () => h("circle", { cx: x, cy: y, r: 4.2, class: "task", ...attributes }),
    () => h("rect", { x: x - 3.8, y: y - 3.8, width: 7.6, height: 7.6, class: "task", ...attributes }),
    () => h("path", { d: `M${x - 4.8} ${y + 3.8}h9.6l-4.8 -8.4z`, class: "task", ...attributes }),
  ];
  return shapes[i]();
}
