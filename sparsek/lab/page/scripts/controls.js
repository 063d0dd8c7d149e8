// Controls and numbers. Every control has a label and a data-testid "panel-name"; every number that is a result carries its
// full value in data-value, which the tests compare with torch.

/** A number as it is written here: a true minus sign, a fixed number of digits, no negative zero. */
function written(value, digits = 3) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? "−" : "") + text;
}

/** Thousands apart: 25 088 000. */
function counted(value) {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** A result in running text or a table. */
function number(id, value, digits = 3, attributes = {}) {
  return h("output", { class: "number", "data-testid": id, "data-value": value, ...attributes }, written(value, digits));
}

/** A result in a drawing. */
function numberAt(id, x, y, value, digits = 2, attributes = {}) {
  return h("text", { x, y, class: "number", "data-testid": id, "data-value": value, ...attributes }, written(value, digits));
}

function slider(name, key, label, { step, digits = 2, unit = "", value, onchange, range, text }) {
  const [min, max] = range ?? LIMITS[name][key];
  const id = `${name}-${key}`;
  const current = value ?? state[name][key];
  const shown = text ?? written(current, digits) + unit;
  return h("label", { class: "control slider" },
    h("span", { class: "control-label" }, label),
    h("output", { class: "echo", "data-testid": `${id}-echo` }, shown),
    h("input", {
      type: "range", min, max, step, value: current, "data-testid": id, "aria-label": label, "aria-valuetext": shown,
      style: `--filled: ${((current - min) / (max - min)) * 100}%`,
      oninput: (event) => (onchange ?? setter(name, key))(Number(event.target.value)),
    }));
}

/** One of several, as joined buttons. `options` are [value, text]. */
function choice(name, key, label, options, onchange) {
  const id = `${name}-${key}`;
  const current = state[name][key];
  return h("fieldset", { class: "control choice" },
    h("legend", { class: "control-label" }, label),
    h("div", { class: "segments" }, options.map(([value, text]) =>
      h("label", { class: value === current ? "segment chosen" : "segment" },
        h("input", {
          type: "radio", name: id, value, checked: value === current, "data-testid": `${id}-${value}`,
          onchange: () => (onchange ?? setter(name, key))(value),
        }),
        h("span", {}, text)))));
}

/** On or off. */
function toggle(name, key, label, attributes = {}) {
  return h("label", { class: "control toggle", ...attributes },
    h("input", {
      type: "checkbox", checked: state[name][key], "data-testid": `${name}-${key}`,
      onchange: (event) => change(name, { [key]: event.target.checked }),
    }),
    h("span", {}, label));
}

function button(id, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "button", "data-testid": id, onclick, ...attributes }, label);
}

/** Buttons of presets: [id, label, values, explanation]. */
function presets(name, options) {
  return h("div", { class: "presets", role: "group", "aria-label": "Presets" },
    options.map(([id, label, values]) =>
      button(`${name}-preset-${id}`, label, () => change(name, { ...structuredClone(DEFAULTS[name]), ...values }))));
}

/** A number that is typed. Out of limits, it waits for the rest of what is typed. */
function field(name, key, index, label, { step = 0.1, width = 4, ...more } = {}) {
  const [min, max] = LIMITS[name][key];
  return h("input", {
    type: "number", class: "field", min, max, step, value: tidy(state[name][key][index]), style: `width: ${width}em`,
    "data-testid": `${name}-${key}-${index}`, "aria-label": label,
    oninput: (event) => {
      const value = event.target.value === "" ? NaN : Number(event.target.value);
      if (Number.isFinite(value) && value >= min && value <= max) changeAt(name, key, index, value);
    },
    onblur: (event) => { event.target.value = tidy(state[name][key][index]); },
    ...more,
  });
}

/** Attributes that let a pointer change a number by dragging sideways; a click still places the cursor. */
function scrubbable(name, key, index, unitsPerPixel) {
  const [min, max] = LIMITS[name][key];
  return {
    onpointerdown: (event) => { event.target.scrub = { x: event.clientX, from: state[name][key][index] }; },
    onpointermove: (event) => {
      const scrub = event.target.scrub;
      if (!scrub || !event.buttons || Math.abs(event.clientX - scrub.x) < 4) return;
      event.target.setPointerCapture(event.pointerId);
      const value = scrub.from + Math.round((event.clientX - scrub.x) * unitsPerPixel * 10) / 10;
      changeAt(name, key, index, tidy(clamp(value, min, max)));
    },
    onpointerup: (event) => { event.target.scrub = null; },
  };
}

/** Without the dust of binary fractions: 0.30000000000000004 is 0.3. */
function tidy(value) {
  return Math.round(value * 1e6) / 1e6;
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

/** The colour of a method, the same everywhere on the page. */
function tint(method) {
  return `var(--${method})`;
}

/** A table: heads, and rows of cells. The first cell of a row is its head. On a phone one that is stacked shows
 *  rows as paragraphs, or, if "compact", their cells side by side under the head. */
function table(heads, rows, attributes = {}) {
  const body = rows.map((cells) => h("tr", {}, cells.map((cell, i) => h(i ? "td" : "th", i ? { "data-label": heads[i] } : { scope: "row" }, cell))));
  const stacking = { true: "table stacked-rows", compact: "table stacked-rows compact" };
  const head = h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text))));
  return h("div", { class: stacking[attributes.stacked] ?? "table", style: `--columns: ${heads.filter(Boolean).length - 1}`, tabindex: 0, role: "region", "aria-label": attributes.label ?? "Table" },
    h("table", {}, head, h("tbody", {}, body)));
}

/** The name of a method behind a dot of its colour. */
function named(method, text) {
  return h("span", { class: "named" }, h("i", { class: "dot", style: `background: ${tint(method)}` }), text);
}

/** Axes of a chart: returns scales and the elements of its frame. */
function axes(width, height, [x0, x1], [y0, y1], { xLabel, yLabel, xTicks, yTicks, left = 40, right = 12, top = 14, bottom = 34, xDigits = 1, yDigits = 1, yText }) {
  const x = (value) => left + ((value - x0) / (x1 - x0)) * (width - left - right);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - top - bottom);
  const frame = [
    yTicks.map((tick) => [
      h("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      h("text", { class: "tick", x: left - 7, y: y(tick) + 4, "text-anchor": "end" }, yText ? yText(tick) : written(tick, yDigits)),
    ]),
    xTicks.map((tick) => h("text", { class: "tick", x: x(tick), y: height - bottom + 16, "text-anchor": "middle" }, written(tick, xDigits))),
    h("text", { class: "axis", x: width - right, y: height - 3, "text-anchor": "end" }, xLabel),
    h("text", { class: "axis", x: 0, y: 9 }, yLabel),
  ];
  return { x, y, frame };
}

/** From 0 in even steps up to at most `top`: four to eight of them. */
function evenTicks(top) {
  const step = [0.25, 0.5, 1, 2, 5, 10, 20, 50, 100].find((size) => top / size <= 6.5) ?? top / 4;
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, i) => i * step);
}

/** The path through points. */
function path(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");
}
