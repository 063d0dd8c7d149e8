// Panel "attention": tokens in the plane, a query that turns, weights, and the output beside the mean.

panel("attention", (settings) => {
  const tokens = pairs(settings.tokens).slice(0, Number(settings.count));
  const weights = attentionWeights(tokens, settings.query);
  const output = weighted(tokens, weights);
  const centre = meanPool(tokens);
  show(stage("attention"), attentionFigure(tokens, weights, output, centre));
  show(stage("attention", "controls"), [
    ...queryControls("attention"),
    choice("attention", "count", "Tokens", [["4", "The lesson's four"], ["6", "Six"]]),
    h("div", { class: "readout" },
      h("span", { class: "control-label ink-gold" }, "Output"),
      h("div", {}, number("attention-output-0", output[0], 4, { class: "number large" }), h("span", { class: "comma" }, ", "),
        number("attention-output-1", output[1], 4, { class: "number large" })),
      h("p", { class: "fact" }, "mean ", number("attention-mean-0", centre[0], 4), ", ", number("attention-mean-1", centre[1], 4), h("br"),
        "as many as ", number("attention-effective", Math.exp(-dot(weights, weights.map(Math.log))), 2), " equal tokens")),
    h("div", { class: "presets" },
      button("attention-preset-lesson", "The lesson's example", () => change("attention", { ...structuredClone(DEFAULTS.attention), count: "4", query: [0.7, -0.5] })),
      button("attention-reset", "Reset", () => reset("attention"))),
  ]);
  show(stage("attention", "weights"), attentionBars(tokens, weights, settings.query));
});

function attentionFigure(tokens, weights, output, centre) {
  const size = Math.min(room("attention"), 460);
  const scale = plane(size);
  const { x, y } = scale;
  const rays = tokens.map((t, i) => h("line", { class: "ray", x1: x(output[0]), y1: y(output[1]), x2: x(t[0]), y2: y(t[1]), "stroke-width": 1 + 9 * weights[i] }));
  return board(size, size, "Tokens, query and output in the plane", scale.grid, h("g", {}, rays),
    queryArrow("attention", scale, 1.02),
    h("g", {}, tokens.map((_, i) => token("attention", i, scale, 9 + 12 * Math.sqrt(weights[i])))),
    h("circle", { class: "ghost", cx: x(centre[0]), cy: y(centre[1]), r: 7 }),
    h("text", { class: "tick", x: x(centre[0]) + 11, y: y(centre[1]) + 4 }, "mean"),
    h("circle", { class: "output", cx: x(output[0]), cy: y(output[1]), r: 7.5 }));
}

/** One bar a token: its weight, against the 1/T of the mean. */
function attentionBars(tokens, weights, query) {
  const width = room("attention", "weights");
  const [left, right, row] = [108, 64, 26];
  const length = (value) => value * (width - left - right);
  const bars = tokens.map((t, i) => {
    const y = 22 + i * row;
    return h("g", {},
      h("text", { class: "label", x: 0, y: y + 13 }, `Token ${i}`),
      numberAt(`attention-score-${i}`, left - 12, y + 13, dot(t, query) / Math.SQRT2, 3, { class: "number tick", "text-anchor": "end" }),
      h("rect", { x: left, y, width: length(weights[i]), height: 18, rx: 3, fill: "var(--attention)" }),
      numberAt(`attention-weight-${i}`, left + length(weights[i]) + 8, y + 13, weights[i], 4, { class: "number halo" }));
  });
  const line = left + length(1 / tokens.length);
  return drawing(width, 26 + tokens.length * row, "Weights of the tokens",
    h("text", { class: "tick", x: left - 12, y: 11, "text-anchor": "end" }, "score"),
    h("text", { class: "tick", x: line + 5, y: 11 }, `mean: 1/${tokens.length}`),
    h("line", { class: "now", x1: line, x2: line, y1: 0, y2: 22 + tokens.length * row }), bars);
}
