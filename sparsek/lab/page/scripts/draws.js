// Panel "operator", lower part: draws from three designs, and their running frequencies against π.

const DESIGNS = { pivotal: "Tournament pivotal", systematic: "Systematic", poisson: "Conditional Poisson" };
const SHOWN = 14;
const LONGEST = 20000;

const drawn = { key: "", designs: {} };

/** Counts of units and the last samples after `settings.draws` draws of each design, one u for each draw and design. */
function drawUpTo({ scores, k, temperature, seed, draws }, probs) {
  const key = JSON.stringify([scores, k, temperature, seed]);
  const stale = drawn.key !== key || Object.values(drawn.designs).some((design) => design.count > draws);
  if (stale) {
    drawn.key = key;
    drawn.designs = Object.fromEntries(Object.keys(DESIGNS).map((name, i) => [name, {
      law: law(name, probs, k), source: uniforms(seed, 20 + i), count: 0, units: new Array(UNITS).fill(0), last: [], errors: [],
    }]));
  }
  for (const design of Object.values(drawn.designs)) {
    while (design.count < draws) drawOne(design, probs);
  }
  return drawn.designs;
}

function drawOne(design, probs) {
  const sample = drawFrom(design.law, design.source());
  design.count += 1;
  for (let i = 0; i < UNITS; i++) if (sample & (1 << i)) design.units[i] += 1;
  design.last.push(sample);
  if (design.last.length > SHOWN) design.last.shift();
  const exponent = Math.log10(design.count) * 12;
  if (Math.floor(exponent) !== Math.floor(Math.log10(design.count - 1) * 12) || design.count === 1) {
    design.errors.push([design.count, Math.max(...probs.map((p, i) => Math.abs(design.units[i] / design.count - p)))]);
  }
}

let running = false;

function runDraws() {
  if (!running) return;
  const { draws } = state.operator;
  change("operator", { draws: Math.min(LONGEST, draws + Math.max(1, Math.round(draws * 0.02))) });
  if (state.operator.draws >= LONGEST) stopDraws();
  else requestAnimationFrame(runDraws);
}

function stopDraws() {
  running = false;
  render("operator");
}

/** Start drawing; where motion is not wanted, draw a thousand at once. */
function startDraws() {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
    change("operator", { draws: Math.min(LONGEST, state.operator.draws + 1000) });
    return;
  }
  if (state.operator.draws >= LONGEST) change("operator", { draws: 0 });
  running = true;
  runDraws();
}

function showDraws(settings, probs) {
  const designs = drawUpTo(settings, probs);
  const more = (number) => () => change("operator", { draws: Math.min(LONGEST, state.operator.draws + number) });
  show(stage("operator", "draw"), [
    button("operator-draw-1", "Draw one", more(1)),
    button("operator-draw-100", "Draw 100", more(100)),
    button("operator-run", running ? "Pause" : "Run", running ? stopDraws : startDraws, { class: "button first" }),
    button("operator-clear", "Clear", () => change("operator", { draws: 0 })),
    button("operator-seed", "Other seed", () => change("operator", { seed: settings.seed + 1 })),
    h("span", { class: "fact" }, h("output", { "data-testid": "operator-count" }, counted(settings.draws)), " draws of each"),
  ]);
  show(stage("operator", "designs"), Object.entries(designs).map(([name, design]) => designCard(name, design, probs)));
  show(stage("operator", "error"), settings.draws > 1 && errorChart(designs, probs, settings.draws));
}

function designCard(name, design, probs) {
  const width = Math.min(280, room("operator", "designs"));
  return h("article", { class: "design", style: `color: ${tint(name)}` },
    h("h3", {}, DESIGNS[name]),
    frequencyBars(name, design, probs, width),
    lastSamples(name, design, width),
    jointMap(name, design, width),
    h("p", { class: "fact" }, number(`operator-${name}-samples`, design.law.samples.length, 0), " possible samples, entropy ",
      number(`operator-${name}-entropy`, entropy(design.law), 4), " nats"));
}

/** Bars of frequencies; the line over each is π. */
function frequencyBars(name, { units, count }, probs, width) {
  const [step, height] = [width / UNITS, 84];
  const y = (value) => height - value * (height - 6);
  return drawing(width, height + 18, `Frequencies of ${DESIGNS[name]} against π`, probs.map((p, i) => {
    const share = count ? units[i] / count : 0;
    return h("g", {},
      h("rect", { x: i * step + 3, y: y(share), width: step - 6, height: height - y(share), rx: 2.5, fill: "currentColor", opacity: 0.75, "data-testid": `operator-${name}-frequency-${i}`, "data-value": share }),
      h("line", { class: "hard", x1: i * step, x2: (i + 1) * step, y1: y(p), y2: y(p) }),
      h("text", { class: "tick", x: (i + 0.5) * step, y: height + 14, "text-anchor": "middle" }, String(i)));
  }));
}

/** The last samples, one line of dots each. */
function lastSamples(name, { last }, width) {
  const [step, row] = [width / UNITS, 10];
  const lines = last.map((sample, r) => Array.from({ length: UNITS }, (_, i) => h("circle", {
    cx: (i + 0.5) * step, cy: 8 + r * row, r: 3.6, fill: sample & (1 << i) ? "currentColor" : "var(--line)",
    opacity: sample & (1 << i) ? 0.35 + (0.65 * (r + 1)) / last.length : 0.7,
  })));
  return drawing(width, SHOWN * row + 10, `Last samples of ${DESIGNS[name]}`, h("g", {}, lines));
}

/** π_ij: how often two units come together, exactly. */
function jointMap(name, { law: { samples, chances } }, width) {
  const { second } = moments(samples, chances, UNITS);
  const step = Math.floor(width / UNITS);
  const cells = second.map((row, i) => row.map((value, j) => h("g", {},
    h("title", {}, `units ${i} and ${j} together: ${written(value, 4)}`),
    h("rect", {
      x: j * step + 1, y: 16 + i * step * 0.62 + 1, width: step - 2, height: step * 0.62 - 2, rx: 2, "data-testid": `operator-${name}-joint-${i}-${j}`, "data-value": value,
      fill: i === j ? "var(--wash)" : `color-mix(in oklab, currentColor ${Math.round(4 + 90 * value)}%, var(--surface))`, class: i !== j && value < 1e-9 ? "never" : null,
    }))));
  return drawing(width, 20 + UNITS * step * 0.62, `How often two units come together under ${DESIGNS[name]}`,
    h("text", { class: "tick", x: 0, y: 9 }, "together (outlined: never)"), cells);
}

/** The largest error of a frequency over the number of draws, both on logarithmic axes, with the standard error of a draw. */
function errorChart(designs, probs, draws) {
  const width = room("operator", "error");
  const height = 240;
  const right = width < 560 ? 12 : 150;
  const decades = Math.max(2, Math.ceil(Math.log10(draws)));
  const { x, y, frame } = axes(width, height, [0, decades], [-4, 0], {
    xLabel: "draws", yLabel: "largest |frequency − π|", xTicks: [], yTicks: [-4, -3, -2, -1, 0], yText: (tick) => String(10 ** tick), right, left: 52, top: 24,
  });
  const worst = Math.max(...probs.map((p) => p * (1 - p)));
  const level = (value) => y(clamp(Math.log10(Math.max(value, 1e-4)), -4, 0));
  const ends = Object.entries(designs).map(([name, { errors }]) => [name, errors.length ? level(errors.at(-1)[1]) : 0]).sort((a, b) => a[1] - b[1]);
  ends.forEach((end, i) => { if (i) end[1] = Math.max(end[1], ends[i - 1][1] + 16); });
  return drawing(width, height, "Error of the running frequencies", frame,
    Array.from({ length: decades + 1 }, (_, i) => h("text", { class: "tick", x: x(i), y: height - 18, "text-anchor": i === decades && right < 20 ? "end" : "middle" }, counted(10 ** i))),
    worst > 1e-9 && h("path", { class: "now", fill: "none", d: path([[x(0), level(Math.sqrt(worst))], [x(decades), level(Math.sqrt(worst / 10 ** decades))]]) }),
    Object.entries(designs).map(([name, { errors }]) => h("path", { class: "curve", stroke: tint(name), d: path(errors.map(([n, e]) => [x(Math.log10(n)), level(e)])) })),
    width >= 560 && ends.map(([name, at]) => h("text", { class: "label", x: width - right + 10, y: at + 4, style: `fill: ${tint(name)}` }, DESIGNS[name])));
}
