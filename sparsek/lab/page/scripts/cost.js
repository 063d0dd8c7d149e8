// Panel "cost": parameters of a classifier on a flattened and on a pooled map, and the cost table of sparsek.nn.

panel("cost", ({ side, channels, classes }) => {
  const flat = side * side * channels * classes;
  const pooled = channels * classes;
  const lesson = [7, 14, 1].map((n) => n * n * 512 * 1000);
  const bars = [
    ["cost-lesson-0", "Flatten 7 × 7 × 512", lesson[0], "var(--max)"],
    ["cost-lesson-1", "Flatten 14 × 14 × 512", lesson[1], "var(--max)"],
    ["cost-lesson-2", "Global pooling, 512", lesson[2], "var(--mean)"],
    ["cost-flat", `Flatten ${side} × ${side} × ${channels}`, flat, "var(--max)"],
    ["cost-pooled", `Global pooling, ${channels}`, pooled, "var(--mean)"],
  ];
  show(stage("cost"), costBars(bars));
  show(stage("cost", "controls"), [
    slider("cost", "side", "Height and width of the map", { step: 1, digits: 0 }),
    slider("cost", "channels", "Channels", { step: 16, digits: 0 }),
    slider("cost", "classes", "Classes", { step: 1, digits: 0 }),
    h("p", { class: "fact" }, "Flattening takes ", number("cost-ratio", flat / pooled, 0), " times the parameters, height times width of the map."),
    h("div", { class: "presets" }, button("cost-preset-224", "224 px image", () => change("cost", { side: 7 })), button("cost-preset-448", "448 px image", () => change("cost", { side: 14 })),
      button("cost-reset", "Reset", () => reset("cost"))),
  ]);
  show(stage("cost", "table"), costTable());
});

/** Parameters as bars of true length: the first three are the lesson's, to 1,000 classes. */
function costBars(bars) {
  const width = room("cost");
  const longest = Math.max(...bars.map((bar) => bar[2]));
  const row = 46;
  const lines = bars.map(([id, name, value, colour], i) => {
    const y = 4 + i * row + (i > 2 ? 26 : 0);
    return h("g", {},
      h("text", { class: "label", x: 0, y: y + 11 }, name),
      h("rect", { x: 0, y: y + 18, width: Math.max(1.5, (value / longest) * (width - 2)), height: 12, rx: 3, fill: colour }),
      h("text", { class: "number", x: width, y: y + 11, "text-anchor": "end", "data-testid": id, "data-value": value }, counted(value)));
  });
  return drawing(width, bars.length * row + 26, "Parameters of a classifier", lines,
    h("text", { class: "tick", x: 0, y: 3 * row + 20 }, "yours"));
}

function costTable() {
  const most = Math.max(...DATA.costs.map((cost) => cost.operations));
  const rows = DATA.costs.map(({ pooling, formula, parameters, order, operations }) => [
    h("code", {}, pooling), formula, h("span", { class: "number", "data-testid": `cost-parameters-${pooling}` }, counted(parameters)), order,
    h("span", { class: "number", "data-testid": `cost-operations-${pooling}` }, written(operations, 1)),
    h("span", { class: "meter" }, h("i", { style: `width: ${(100 * operations) / most}%; background: var(--heat)` })),
  ]);
  return table(["Pooling", "Parameters", "at D = 128", "Grows with", "Operations per value", ""], rows, { label: "Cost of each pooling", stacked: "compact" });
}
