// The browser's side of bioface.widgets: everything is drawn here, from what the kernel sent once.
// No library, no network, no eval. What is heavy (colours, edits) is computed in Python; see widgets.py.

function h(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG.has(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  // JupyterLab takes arrow keys and letters for itself, unless the very element that has the focus says no
  if (FOCUSABLE.has(tag) || "tabindex" in attributes) element.setAttribute("data-lm-suppress-shortcuts", "true");
  element.append(...children);
  return element;
}
const FOCUSABLE = new Set(["input", "select", "button"]);
const SVG = new Set(["svg", "g", "line", "polyline", "circle", "text"]);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const number = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(3))).replace("-", "−") : "–");

function bytes(value) {
  return value.buffer.slice(value.byteOffset, value.byteOffset + value.byteLength); // a copy, aligned for floats
}

function slider(low, high, step, value, label) {
  return h("input", { type: "range", min: low, max: high, step, value, "aria-label": label });
}

// --- maps side by side, with one crosshair --------------------------------------------------------------------

// maps: [{label, unit, letters, low, high, ramp}]; set(k, colours, values) draws map k: bytes (H × W × 3), and the
// numbers (H × W × letters) that are said under it
function panels([H, W], maps, live, large = false) {
  const grid = h("div", { class: "bioface-panels" + (large ? " bioface-large" : "") });
  let at = null; // {row, column} under the crosshair

  const all = maps.map((map) => {
    const canvas = h("canvas", { width: W, height: H, role: "img" });
    const across = h("div", { class: "bioface-line bioface-across" });
    const down = h("div", { class: "bioface-line bioface-down" });
    const frame = h("div", { class: "bioface-frame", tabindex: 0, role: "group" }, canvas, across, down);
    frame.setAttribute("aria-label", `${map.label}: arrow keys move the crosshair over all maps, Escape takes it away`);
    const value = h("output", {}, "");
    const figure = h("figure", {}, h("figcaption", {}, map.label), frame);
    if (map.ramp) {
      const ramp = h("div", { class: "bioface-ramp", "aria-hidden": "true" });
      ramp.style.background = `linear-gradient(to right, ${map.ramp.join(", ")})`;
      const ends = h("div", { class: "bioface-ends" }, ...[number(map.low), map.unit, number(map.high)].map((text) => h("span", {}, text)));
      figure.append(ramp, ends);
    }
    figure.append(value);
    grid.append(figure);

    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * W);
      const row = Math.floor(((event.clientY - box.top) / box.height) * H);
      move({ row: clamp(row, 0, H - 1), column: clamp(column, 0, W - 1) });
    };
    frame.addEventListener("pointermove", point);
    frame.addEventListener("pointerdown", point);
    frame.addEventListener("keydown", (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!by && event.key !== "Escape") return;
      event.preventDefault();
      if (!by) return move(null);
      const from = at ?? { row: Math.floor(H / 2) - by[0], column: Math.floor(W / 2) - by[1] };
      const far = event.shiftKey ? 8 : 1;
      move({ row: clamp(from.row + far * by[0], 0, H - 1), column: clamp(from.column + far * by[1], 0, W - 1) });
      live(`row ${at.row}, column ${at.column}: ${map.label} ${said(panel)}`);
    });
    const panel = { map, canvas, across, down, value, values: null };
    return panel;
  });

  function said({ map, values }) {
    if (!values) return "";
    const place = (at.row * W + at.column) * map.letters.length;
    if (!Number.isFinite(values[place])) return "no value here";
    const numbers = map.letters.map((letter, c) => `${letter}\u00a0${number(values[place + c])}`.trim()).join(" ");
    return map.unit ? `${numbers} ${map.unit}` : numbers;
  }

  function move(place) {
    at = place;
    for (const panel of all) {
      panel.across.style.display = panel.down.style.display = at ? "block" : "none";
      panel.value.textContent = at ? said(panel) : "";
      if (!at) continue;
      panel.across.style.top = `${(100 * (at.row + 0.5)) / H}%`;
      panel.down.style.left = `${(100 * (at.column + 0.5)) / W}%`;
    }
  }

  function set(k, colours, values, alt) {
    const panel = all[k];
    const image = new ImageData(W, H);
    for (let i = 0, j = 0; i < image.data.length; i += 4, j += 3) {
      image.data[i] = colours[j];
      image.data[i + 1] = colours[j + 1];
      image.data[i + 2] = colours[j + 2];
      image.data[i + 3] = 255;
    }
    panel.canvas.getContext("2d").putImageData(image, 0, 0);
    panel.canvas.setAttribute("aria-label", alt);
    panel.values = values;
    if (at) panel.value.textContent = said(panel);
  }

  return { grid, set };
}

// --- scrub ----------------------------------------------------------------------------------------------------

function scrub(model, root, spec) {
  const data = bytes(model.get("data"));
  const [H, W] = spec.size;
  const N = spec.names.length;
  const status = h("div", { role: "status" });
  const shown = panels(spec.size, spec.maps, (text) => (status.textContent = text));
  const position = slider(0, N - 1, 1, 0, "sample");
  position.classList.add("bioface-long");
  const caption = h("div", { class: "bioface-caption" });
  const list = h("div", { class: "bioface-row" }, position, caption);
  root.append(list);

  let order = [...Array(N).keys()];
  if (spec.scores && N > 1) {
    const ranked = spec.scores.filter((s) => s !== null).sort((a, b) => a - b);
    const last = Math.max(ranked.length - 1, 0);
    const least = slider(0, last, 1, 0, `least ${spec.score_name}`);
    const most = slider(0, last, 1, last, `highest ${spec.score_name}`);
    const sort = h("input", { type: "checkbox" });
    const count = h("span", { class: "bioface-count" });
    const filter = () => {
      const [low, high] = [ranked[least.value], ranked[most.value]];
      const everything = Number(least.value) === 0 && Number(most.value) === last; // those without a score as well
      const current = order[position.value];
      order = [...Array(N).keys()].filter((k) => everything || (spec.scores[k] !== null && spec.scores[k] >= low && spec.scores[k] <= high));
      if (sort.checked) order.sort((a, b) => (spec.scores[b] ?? -Infinity) - (spec.scores[a] ?? -Infinity));
      least.setAttribute("aria-valuetext", number(low));
      most.setAttribute("aria-valuetext", number(high));
      count.textContent = `${number(low)} to ${number(high)}: ${order.length} of ${N}`;
      position.max = Math.max(order.length - 1, 0);
      position.value = Math.max(order.indexOf(current), 0);
      show();
    };
    for (const control of [least, most, sort]) control.addEventListener("input", filter);
    root.append(
      h("div", { class: "bioface-row" }, h("span", {}, `Only ${spec.score_name} from`), least, "to", most, count, h("label", {}, sort, "highest first")),
    );
    if (ranked.length) filter();
  }
  root.append(shown.grid, status);

  function show() {
    const k = order[position.value];
    position.disabled = order.length < 2;
    shown.grid.hidden = k === undefined;
    if (k === undefined) {
      caption.textContent = `No sample has a ${spec.score_name} within these limits.`;
      return;
    }
    const parts = [`${Number(position.value) + 1} of ${order.length}`, spec.names[k], spec.about[k]];
    if (spec.scores) parts.push(`${spec.score_name} ${spec.scores[k] === null ? "none" : number(spec.scores[k])}`);
    caption.textContent = parts.filter(Boolean).join(" · ");
    position.setAttribute("aria-valuetext", caption.textContent);
    spec.maps.forEach((map, m) => {
      const C = map.letters.length;
      const values = new Float32Array(data, map.values + 4 * k * H * W * C, H * W * C);
      const colours = new Uint8Array(data, map.colours + 3 * k * H * W, 3 * H * W);
      shown.set(m, colours, values, `${map.label} of ${spec.names[k]}`);
    });
  }
  position.addEventListener("input", show);
  show();
}

// --- edit -----------------------------------------------------------------------------------------------------

const PATIENCE = 2500; // ms until an answer is missed
const GONE = "The kernel does not answer, so the picture stays as it is. Run the notebook's cells again to go on editing.";

function edit(model, root, spec) {
  const photo = new Uint8Array(bytes(model.get("data")));
  const maps = ["photo", "edited"].map((label) => ({ label, unit: "sRGB", letters: ["R", "G", "B"] }));
  const status = h("div", { role: "status" });
  const shown = panels(spec.size, maps, (text) => (status.textContent = text), true);
  const draw = (k, pixels) => shown.set(k, pixels, Float32Array.from(pixels, (v) => v / 255), k ? "the edited photo" : "the photo as it was");

  const controls = h("div", { class: "bioface-sliders" });
  const inputs = {};
  const add = (name, label, input, text) => {
    const output = h("span", { "aria-hidden": "true" });
    inputs[name] = { input, output, text, start: input.value };
    input.setAttribute("aria-label", label);
    controls.append(h("span", {}, label), input, output);
    input.addEventListener("input", ask);
  };
  const choice = (options) => h("select", {}, ...options.map((text) => h("option", {}, text)));
  const signed = (v) => (v > 0 ? "+" : "") + number(Number(v));
  const factor = (v) => `× ${number(Number(v))}`;
  add("melanin", "melanin, shift", slider(-2, 2, 0.05, 0), signed);
  add("haemoglobin", "haemoglobin, factor", slider(0, 4, 0.05, 1), factor);
  add("specular", "specular shading, factor", slider(0, 4, 0.05, 1), factor);
  add("light", "illuminant", choice(spec.lights.map(([text]) => text)), () => "");
  add("balance", "white balance", choice(["kept: for the photo's light", "new: for the illuminant"]), () => "");
  add("b1", "camera, coefficient 1", slider(-3, 3, 0.05, spec.camera[0]), signed);
  add("b2", "camera, coefficient 2", slider(-3, 3, 0.05, spec.camera[1]), signed);
  const reset = h("button", { type: "button" }, "As it was");
  reset.addEventListener("click", () => {
    for (const { input, start } of Object.values(inputs)) input.value = start;
    ask();
  });

  const value = (name) => inputs[name].input.value;
  function wanted() {
    const camera = ["b1", "b2"].some((b) => value(b) !== inputs[b].start) ? [Number(value("b1")), Number(value("b2"))] : null;
    return {
      melanin: Number(value("melanin")),
      haemoglobin: Number(value("haemoglobin")),
      specular: Number(value("specular")),
      illuminant: spec.lights[inputs.light.input.selectedIndex][1],
      camera,
      white_balance: value("balance").split(":")[0],
    };
  }

  // One question at a time; when its answer is here, the newest wish is the next question.
  const view = Math.random().toString(36).slice(2); // another view of the same widget gets the same answers
  let count = 0, waiting = null, asked = JSON.stringify(wanted()), sent = 0, timer = 0, patience = 0;
  function ask() {
    for (const { input, output, text } of Object.values(inputs)) output.textContent = text(input.value);
    pump();
  }
  function pump() {
    clearTimeout(timer);
    const wish = wanted();
    if (waiting || JSON.stringify(wish) === asked) return;
    const early = sent + spec.pause - performance.now();
    if (early > 0) return void (timer = setTimeout(pump, early));
    asked = JSON.stringify(wish);
    sent = performance.now();
    waiting = `${view}-${++count}`;
    patience = setTimeout(missed, PATIENCE);
    try {
      model.send({ id: waiting, ...wish });
    } catch {
      missed(); // Jupyter refuses to send to a kernel that it knows is dead
    }
  }
  function missed() {
    clearTimeout(patience);
    if (model.widget_manager?.kernel?.status === "busy" && !cut()) {
      say("The kernel is busy; the picture follows when it is free.");
      patience = setTimeout(missed, PATIENCE);
      return;
    }
    waiting = asked = null; // the next change asks again
    say(GONE);
  }
  function say(text) {
    status.textContent = text;
    status.classList.toggle("bioface-warning", text !== "");
  }
  function answered(content, buffers) {
    if (content.id !== waiting && !(waiting === null && content.id === `${view}-${count}`)) return;
    clearTimeout(patience);
    waiting = null;
    say(content.error);
    if (buffers?.length) {
      draw(1, new Uint8Array(bytes(buffers[0])));
      root.dataset.pictures = Number(root.dataset.pictures ?? 0) + 1;
    }
    pump();
  }
  const cut = () => root.closest(".jupyter-widgets-disconnected") !== null; // ipywidgets says so when a kernel restarts
  const noticed = () => cut() && say(GONE);
  model.on("msg:custom", answered);
  model.on("comm_live_update", noticed);
  draw(0, photo);
  draw(1, photo);
  root.append(h("div", { class: "bioface-row" }, shown.grid, controls), h("div", { class: "bioface-row" }, reset, spec.note), status);
  ask();
  return () => {
    model.off("msg:custom", answered);
    model.off("comm_live_update", noticed);
    clearTimeout(timer);
    clearTimeout(patience);
  };
}

// --- compare --------------------------------------------------------------------------------------------------

function ticks(low, high, log) {
  if (log) {
    const [first, last] = [Math.ceil(low - 1e-9), Math.floor(high + 1e-9)];
    const every = Math.max(1, Math.ceil((last - first) / 6));
    const found = [];
    for (let e = first; e <= last; e += every) found.push(e);
    return found.length > 1 ? found : [low, (low + high) / 2, high];
  }
  const rough = (high - low) / 4;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 2.5, 5, 10].find((m) => m * size >= rough);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9 * step; v += step) found.push(v);
  return found;
}

function compare(model, root, spec) {
  const data = bytes(model.get("data"));
  const [WIDTH, HEIGHT, LEFT, BOTTOM] = [760, 300, 56, 34];
  const most = Math.max(...spec.runs.flatMap((run) => run.seeds.map((seed) => seed.steps)));
  const curve = (seed, c) => new Float32Array(data, seed.values + 4 * c * seed.steps, seed.steps);

  const choice = h("select", { "aria-label": "curve" }, ...spec.curves.map((name) => h("option", {}, name)));
  const log = h("input", { type: "checkbox" });
  log.checked = true;
  const step = slider(0, most - 1, 1, most - 1, "step");
  step.classList.add("bioface-long");
  step.disabled = most < 2;
  const at = h("span", {});
  const svg = h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const toggles = h("fieldset", {}, h("legend", {}, "Runs"));
  const runs = spec.runs.map((run) => {
    const box = h("input", { type: "checkbox" });
    box.checked = true;
    const swatch = h("span", { class: "bioface-swatch", "aria-hidden": "true" });
    swatch.style.background = run.colour;
    const value = h("output", {});
    toggles.append(h("label", {}, h("div", { class: "bioface-row" }, box, swatch, run.name), value));
    box.addEventListener("input", draw);
    return { ...run, box, value };
  });

  let x = () => 0, y = () => 0, marker = null;
  const c = () => choice.selectedIndex;
  function draw() {
    const seen = runs.filter((run) => run.box.checked);
    const values = seen.flatMap((run) => run.seeds.flatMap((seed) => [...curve(seed, c())])).filter(Number.isFinite);
    const positive = values.filter((v) => v > 0);
    const logs = log.checked && positive.length > 0;
    const scale = logs ? Math.log10 : (v) => v;
    const ends = (logs ? positive : values).map(scale).reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    let [low, high] = Number.isFinite(ends[0]) ? ends : [0, 1];
    if (high - low < 1e-9 * Math.max(1, Math.abs(high))) [low, high] = [low - 0.5, high + 0.5];
    x = (k) => LEFT + ((WIDTH - LEFT - 10) * k) / Math.max(most - 1, 1);
    y = (v) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - 10) * (scale(v) - low)) / (high - low);
    svg.replaceChildren();
    for (const t of ticks(low, high, logs)) {
      const v = logs ? 10 ** t : t;
      svg.append(h("line", { class: "bioface-axis", x1: LEFT, x2: WIDTH - 10, y1: y(v), y2: y(v) }));
      svg.append(h("text", { x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, number(v)));
    }
    for (const k of most > 1 ? ticks(0, most - 1, false).filter(Number.isInteger) : [0])
      svg.append(h("text", { x: x(k), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, String(k)));
    svg.append(h("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 2, "text-anchor": "middle" }, "step"));
    for (const run of seen) {
      for (const seed of run.seeds) {
        const points = [];
        curve(seed, c()).forEach((v, k) => Number.isFinite(v) && (!logs || v > 0) && points.push(`${x(k)},${y(v)}`));
        if (points.length === 1) {
          const [cx, cy] = points[0].split(",");
          svg.append(h("circle", { cx, cy, r: 3, fill: run.colour }));
        }
        svg.append(h("polyline", { points: points.join(" "), fill: "none", stroke: run.colour, "stroke-width": 1.5 }));
      }
    }
    marker = h("line", { y1: 10, y2: HEIGHT - BOTTOM, stroke: "currentColor", "stroke-dasharray": "3 3" });
    svg.append(marker);
    svg.setAttribute("aria-label", `${spec.curves[c()]} over ${most} steps: ${seen.map((run) => run.name).join(", ") || "no run chosen"}`);
    read();
  }
  function nearest(values, k) {
    for (let far = 0; far < values.length; far++)
      for (const j of [k - far, k + far]) if (Number.isFinite(values[j])) return values[j];
    return NaN;
  }
  function read() {
    const k = Number(step.value);
    marker.setAttribute("x1", x(k));
    marker.setAttribute("x2", x(k));
    at.textContent = `step ${k}`;
    for (const run of runs) {
      const found = run.seeds.filter((seed) => k < seed.steps).map((seed) => nearest(curve(seed, c()), k));
      found.sort((a, b) => a - b);
      const half = found.length / 2;
      const median = found.length % 2 ? found[Math.floor(half)] : (found[half - 1] + found[half]) / 2;
      const range = found.length > 1 ? ` (${number(found[0])} to ${number(found[found.length - 1])})` : "";
      run.value.textContent = found.length ? number(median) + range : "ended";
    }
    step.setAttribute("aria-valuetext", `${at.textContent}: ${runs.map((run) => `${run.name} ${run.value.textContent}`).join(", ")}`);
  }
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * WIDTH;
    step.value = Math.round(((place - LEFT) / (WIDTH - LEFT - 10)) * (most - 1));
    read();
  });
  choice.addEventListener("input", draw);
  log.addEventListener("input", draw);
  step.addEventListener("input", read);
  root.append(h("div", { class: "bioface-row" }, choice, h("label", {}, log, "logarithmic"), step, at), toggles, svg);
  draw();
}

const nothing = (model, root, spec) => root.append(h("p", { role: "status" }, spec.text));

function render({ model, el }) {
  const spec = model.get("spec");
  const root = h("div", { class: `bioface bioface-${spec.kind}` });
  el.append(root);
  return { scrub, edit, compare, nothing }[spec.kind](model, root, spec) ?? undefined;
}

export default { render };
