// Panel "gem": the power mean of four activations over p, with each one's share, and the gradient in p.

const POWERS = [-1, 0, 1, 3, 10, 30, 100];

panel("gem", (settings) => {
  const found = gem(settings.x, settings.p);
  show(stage("gem"), gemCurve(settings, found));
  show(stage("gem", "controls"), [
    slider("gem", "power", "Power p", {
      range: [Math.asinh(-1), Math.asinh(100)], step: 0.005, value: Math.asinh(settings.p), text: written(settings.p, 2),
      onchange: (v) => change("gem", { p: Math.round(clamp(Math.sinh(v), -1, 100) * 100) / 100 }),
    }),
    h("div", { class: "control" }, h("span", { class: "control-label" }, "Activations"),
      h("div", { class: "fields" }, settings.x.map((_, i) => field("gem", "x", i, `Activation ${i + 1}`, { ...scrubbable("gem", "x", i, 0.02), style: "width: 3.6em" })))),
    h("div", { class: "readout" }, h("span", { class: "control-label ink-gold" }, `GeM at p = ${tidy(settings.p)}`),
      number("gem-value", found.value, 6, { class: "number large" }),
      h("p", { class: "fact" }, "dy/dp = ", number("gem-slope", found.slope, 6))),
    h("div", { class: "presets" }, POWERS.slice(1, 5).map((p) => button(`gem-p-${p}`, `p = ${p}`, () => change("gem", { p }))),
      button("gem-reset", "Reset", () => reset("gem"))),
  ]);
  show(stage("gem", "shares"), gemShares(settings, found));
});

/** y over p. The axis is that of asinh p: nearly linear about 0, nearly logarithmic far out. */
function gemCurve({ x: values, p }, { value }) {
  const width = room("gem");
  const height = 300;
  const [low, high] = [Math.min(...values.map((v) => Math.max(v, EPS))), Math.max(...values, EPS)];
  const span = high - low || 1;
  const yTicks = [...values].sort((a, b) => a - b).filter((v, i, all) => i === 0 || v - all[i - 1] > 0.05 * span);
  const digits = span > 20 ? 0 : 2;
  const { x, y, frame } = axes(width, height, [Math.asinh(-1), Math.asinh(100)], [low - 0.06 * span, high + 0.08 * span], {
    xLabel: "", yLabel: "y, with the activations as lines", xTicks: [], yTicks, yDigits: digits, left: digits ? 46 : 60, bottom: 40,
  });
  const points = Array.from({ length: 161 }, (_, i) => {
    const t = Math.asinh(-1) + (i / 160) * (Math.asinh(100) - Math.asinh(-1));
    return [x(t), y(gem(values, Math.sinh(t)).value)];
  });
  const take = (px) => {
    const share = clamp((px - x(Math.asinh(-1))) / (x(Math.asinh(100)) - x(Math.asinh(-1))), 0, 1);
    const power = Math.sinh(Math.asinh(-1) + share * (Math.asinh(100) - Math.asinh(-1)));
    change("gem", { p: Math.round(clamp(power, -1, 100) * 100) / 100 });
  };
  const at = [x(Math.asinh(p)), y(value)];
  return board(width, height, "Generalised mean over the power p", frame,
    POWERS.map((power) => h("text", { class: "tick", x: x(Math.asinh(power)), y: height - 22, "text-anchor": "middle" }, written(power, 0))),
    h("text", { class: "tick", x: x(Math.asinh(0)), y: height - 6, "text-anchor": "middle" }, "geometric"),
    h("text", { class: "tick", x: x(Math.asinh(1)) + 8, y: height - 6, "text-anchor": "start" }, "mean"),
    h("text", { class: "tick", x: width - 12, y: height - 6, "text-anchor": "end" }, "max at ∞"),
    h("path", { class: "curve", d: path(points), stroke: "var(--gem)" }),
    h("line", { class: "now", x1: at[0], x2: at[0], y1: at[1], y2: height - 40 }),
    h("g", {
      class: "handle", role: "slider", "aria-label": "Power p on the curve", "aria-valuenow": tidy(p), "aria-valuemin": -1, "aria-valuemax": 100, "data-testid": "gem-point",
      ...draggable(take), ...movable((dx, dy) => change("gem", { p: tidy(clamp(p + 0.1 * (dx || dy), -1, 100)) })),
    },
      h("circle", { cx: at[0], cy: at[1], r: 20, fill: "transparent" }),
      h("circle", { class: "grip output-grip", cx: at[0], cy: at[1], r: 8 })));
}

/** The share of each activation in the sum of powers, and its gradient. */
function gemShares({ x: values }, { shares, value }) {
  const width = room("gem", "shares");
  const [left, right, row] = [86, width < 560 ? 128 : 176, 30];
  const length = (share) => share * (width - left - right);
  const bars = values.map((v, i) => {
    const y = 22 + i * row;
    const gradient = v > EPS ? (shares[i] * value) / v : 0;
    return h("g", {},
      h("text", { class: "label", x: 0, y: y + 14 }, `x = ${tidy(v)}`),
      h("rect", { x: left, y, width: length(shares[i]), height: 20, rx: 3, fill: "var(--gem)" }),
      numberAt(`gem-share-${i}`, left + length(shares[i]) + 8, y + 14, shares[i], 4, { class: "number halo" }),
      numberAt(`gem-gradient-${i}`, width, y + 14, gradient, 4, { class: "number flow-text", "text-anchor": "end" }));
  });
  const line = left + length(1 / values.length);
  return drawing(width, 26 + values.length * row, "Shares of the activations",
    h("text", { class: "tick", x: 0, y: 11 }, "share of Σxᵖ"),
    h("text", { class: "tick", x: line + 5, y: 11 }, `1/${values.length}`),
    h("text", { class: "tick", x: width, y: 11, "text-anchor": "end" }, width < 560 ? "dy/dx" : "gradient dy/dx"),
    h("line", { class: "now", x1: line, x2: line, y1: 0, y2: 22 + values.length * row }), bars);
}
