// The browser's side of bioface.widgets: everything is drawn here, from what the kernel sent once.
// No library, no network, no eval. What is heavy (colours, edits) is computed in Python; see widgets.py.

const number = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(3))).replace("-", "−") : "–");
const bytes = ({ buffer, byteOffset, byteLength }) => buffer.slice(byteOffset, byteOffset + byteLength); // aligned

function h(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  // JupyterLab takes arrow keys and letters for itself, unless the very element that has the focus says no
  element.dataset.lmSuppressShortcuts = "true";
  element.append(...children);
  return element;
}

const row = (...children) => h("div", { className: "bioface-row" }, ...children);
const checkbox = (properties) => h("input", { type: "checkbox", ...properties });
const choice = (ariaLabel, options) =>
  h("select", { ariaLabel }, ...options.map(([text, value]) => new Option(text, JSON.stringify(value))));

function slider(ariaLabel, min, max, step, value, className = "") {
  const input = h("input", { type: "range", ariaLabel, className, min, max, step, value });
  input.defaultValue = input.value; // what a form's reset goes back to
  return input;
}

// --- maps side by side, with one crosshair --------------------------------------------------------------------

// maps: [{label, unit, letters, low, high, ramp}]; set(k, colours, values) draws map k: bytes (H × W × 3), and the
// numbers (H × W × letters) that are said under it
function panels(size, maps, className = "") {
  const [H, W] = size;
  const grid = h("div", { className: `bioface-panels ${className}` });
  const said = h("div", { role: "status" });
  let at = null; // [row, column] under the crosshair

  const all = maps.map((map) => {
    const canvas = h("canvas", { width: W, height: H });
    const frame = h("div", { className: "bioface-frame", tabIndex: 0, role: "img" }, canvas);
    frame.onpointermove = frame.onpointerdown = ({ offsetX, offsetY }) =>
      move([(offsetY / canvas.clientHeight) * H, (offsetX / canvas.clientWidth) * W]);
    frame.onkeydown = (event) => press(event, panel);
    const value = h("output");
    const ramp = h("div", { className: "bioface-ramp", hidden: !map.ramp });
    ramp.style.borderImageSource = `linear-gradient(to right, ${map.ramp})`;
    ramp.append(...[number(map.low), map.unit, number(map.high)].map((text) => h("span", {}, text)));
    grid.append(h("figure", {}, h("figcaption", {}, map.label), frame, ramp, value));
    const panel = { map, canvas, frame, value, values: [] };
    return panel;
  });

  function press(event, { map, value }) {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by && event.key !== "Escape") return;
    event.preventDefault();
    const far = event.shiftKey ? 8 : 1;
    move(by && (at?.map((place, d) => place + far * by[d]) ?? [H / 2, W / 2]));
    if (at) said.textContent = `row ${at[0]}, column ${at[1]}: ${map.label} ${value.textContent}`;
  }

  function move(to) {
    at = to && to.map((place, d) => Math.min(Math.max(Math.floor(place), 0), size[d] - 1));
    const [row, column] = (at ?? []).map((place, d) => `${(100 * (place + 0.5)) / size[d]}%`);
    grid.style = at ? `--row: ${row}; --column: ${column}` : "";
    all.forEach(say);
  }

  function say({ map, value, values }) {
    const place = at && (at[0] * W + at[1]) * map.letters.length;
    const numbers = map.letters.map((letter, c) => `${letter}\u00a0${number(values[place + c])}`.trim());
    const text = Number.isFinite(values[place]) ? [...numbers, map.unit].join(" ") : "no value here";
    value.textContent = at ? text.trim() : "";
  }

  function set(k, colours, values, label) {
    const image = new ImageData(W, H);
    image.data.fill(255);
    colours.forEach((value, j) => (image.data[j + Math.trunc(j / 3)] = value)); // an opacity after every three
    all[k].canvas.getContext("2d").putImageData(image, 0, 0);
    all[k].frame.ariaLabel = `${label}: arrow keys move the crosshair over all maps, Escape takes it away`;
    all[k].values = values;
    say(all[k]);
  }

  return { grid, said, set };
}

// --- scrub ----------------------------------------------------------------------------------------------------

function scrub(model, root, { size, maps, names, about, scores }) {
  const data = bytes(model.get("data"));
  const pixels = size[0] * size[1];
  const { grid, said, set } = panels(size, maps);
  const position = slider("sample", 0, names.length - 1, 1, 0, "bioface-long");
  const caption = h("div", { className: "bioface-caption" });
  root.append(row(position, caption));

  const ranked = (scores ?? []).filter((score) => score !== null).sort((a, b) => a - b);
  const last = Math.max(ranked.length - 1, 0);
  const least = slider("least mismatch score", 0, last, 1, 0);
  const most = slider("highest mismatch score", 0, last, 1, last);
  const sort = checkbox();
  const count = h("span", { className: "bioface-count" });
  const limits = row("Only mismatch score from", least, "to", most, count, h("label", {}, sort, "highest first"));
  if (ranked.length && names.length > 1) root.append(limits);

  let order = [...names.keys()];
  function update() {
    const current = order[position.value];
    const [low, high] = [ranked[least.value], ranked[most.value]];
    const whole = least.value === least.min && most.value === most.max; // those without a score as well
    const within = (score) => whole || (score !== null && score >= low && score <= high);
    order = [...names.keys()].filter((k) => within(scores?.[k]));
    if (sort.checked) order.sort((a, b) => (scores[b] ?? -Infinity) - (scores[a] ?? -Infinity));
    least.ariaValueText = number(low);
    most.ariaValueText = number(high);
    count.textContent = `${number(low)} to ${number(high)}: ${order.length} of ${names.length}`;
    position.disabled = order.length < 2;
    position.max = Math.max(order.length - 1, 0);
    position.value = Math.max(order.indexOf(current), 0);
    const k = order[position.value];
    grid.hidden = k === undefined;
    caption.textContent = "No sample has a mismatch score within these limits.";
    if (grid.hidden) return;
    const parts = [`${Number(position.value) + 1} of ${order.length}`, names[k], about[k]];
    if (scores) parts.push(`mismatch score ${scores[k] === null ? "none" : number(scores[k])}`);
    position.ariaValueText = caption.textContent = parts.filter(Boolean).join(" · ");
    maps.forEach((map, m) => {
      const size = pixels * map.letters.length;
      const values = new Float32Array(data, map.values + 4 * k * size, size);
      set(m, new Uint8Array(data, map.colours + 3 * k * pixels, 3 * pixels), values, `${map.label} of ${names[k]}`);
    });
  }
  root.append(grid, said);
  root.oninput = update;
  update();
}

// --- edit -----------------------------------------------------------------------------------------------------

const PATIENCE = 2500; // ms until an answer is missed
const GONE = "The kernel does not answer, so the picture stays as it is. Run the notebook's cells again to go on editing.";
const BUSY = "The kernel is busy; the picture follows when it is free.";
const BALANCES = { "kept: for the photo's light": "kept", "new: for the illuminant": "new" };

function edit(model, root, spec) {
  const maps = ["photo", "edited"].map((label) => ({ label, unit: "sRGB", letters: ["R", "G", "B"] }));
  const { grid, said, set } = panels(spec.size, maps, "bioface-large");
  const draw = (k, data, label) => {
    const pixels = new Uint8Array(bytes(data));
    set(k, pixels, Float32Array.from(pixels, (v) => v / 255), label);
  };

  const inputs = {
    melanin: slider("melanin, shift", -2, 2, 0.05, 0),
    haemoglobin: slider("haemoglobin, factor", 0, 4, 0.05, 1),
    specular: slider("specular shading, factor", 0, 4, 0.05, 1),
    illuminant: choice("illuminant", spec.lights),
    white_balance: choice("white balance", Object.entries(BALANCES)),
    b1: slider("camera, coefficient 1", -3, 3, 0.05, spec.camera[0]),
    b2: slider("camera, coefficient 2", -3, 3, 0.05, spec.camera[1]),
  };
  const sliders = h("div", { className: "bioface-sliders" });
  for (const input of Object.values(inputs))
    sliders.append(h("span", {}, input.ariaLabel), input, h("span", { ariaHidden: "true" }));

  function wanted() {
    const wish = Object.fromEntries(Object.entries(inputs).map(([name, { value }]) => [name, JSON.parse(value)]));
    const own = [inputs.b1, inputs.b2].every((b) => b.value === b.defaultValue);
    return { ...wish, camera: own ? null : [wish.b1, wish.b2] };
  }

  // One question at a time; when its answer is here, the newest wish is the next question.
  let waiting = false, asked = JSON.stringify(wanted()), id = 0, sent = 0, timer = 0;
  function ask() {
    for (const { type, min, value, nextSibling } of Object.values(inputs)) {
      const sign = min === "0" ? "× " : value > 0 ? "+" : "";
      nextSibling.textContent = type === "range" ? sign + number(Number(value)) : ""; // a choice says itself
    }
    const wish = wanted();
    if (waiting || JSON.stringify(wish) === asked) return;
    [waiting, asked, sent] = [true, JSON.stringify(wish), performance.now()];
    id = Math.random(); // another view of the same widget gets the same answers
    try {
      model.send({ id, ...wish });
      timer = setTimeout(missed, PATIENCE);
    } catch {
      missed(); // Jupyter refuses to send to a kernel that it knows is dead
    }
  }
  const warning = h("strong", { role: "status" });
  const cut = () => root.closest(".jupyter-widgets-disconnected") !== null; // ipywidgets, once a kernel restarts
  function missed() {
    const busy = model.widget_manager?.kernel?.status === "busy" && !cut();
    warning.textContent = busy ? BUSY : GONE;
    if (busy) timer = setTimeout(missed, PATIENCE);
    else [waiting, asked] = [false, null]; // the next change asks again
  }
  model.on("comm_live_update", () => cut() && (warning.textContent = GONE));
  model.on("msg:custom", (answer, buffers) => {
    if (answer.id !== id) return;
    warning.textContent = answer.error;
    if (buffers?.length) draw(1, buffers[0], "the edited photo");
    clearTimeout(timer);
    timer = setTimeout(() => ask((waiting = false)), sent + spec.pause - performance.now());
  });

  const reset = h("button", { type: "reset" }, "As it was");
  const actions = { oninput: ask, onreset: () => setTimeout(ask), onsubmit: () => false };
  root.append(h("form", actions, row(grid, sliders), row(reset, spec.note), warning, said));
  draw(0, model.get("data"), "the photo as it was");
  draw(1, model.get("data"), "the edited photo");
  ask();
  return () => clearTimeout(timer); // anywidget takes what listens to the model away
}

// --- compare --------------------------------------------------------------------------------------------------

// Round numbers from low to high, not closer than `least`
function ticks(low, high, least) {
  const rough = (high - low) / 5;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(least, size * [1, 2, 5, 10].find((m) => m * size >= rough));
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9 * step; v += step) found.push(v);
  return found.length > 1 ? found : [...new Set([low, (low + high) / 2, high])];
}

function compare(model, root, spec) {
  const data = bytes(model.get("data"));
  const [WIDTH, HEIGHT] = [694, 256]; // of the curves, in a picture of 760 × 300
  const last = Math.max(...spec.runs.flatMap((run) => run.seeds.map((seed) => seed.steps))) - 1;
  const which = choice("curve", spec.curves.map((name, k) => [name, k]));
  const log = checkbox({ checked: true });
  const step = slider("step", 0, last, 1, last, "bioface-long");
  const picture = h("div", { className: "bioface-curves", role: "img" });
  const legend = h("legend");
  const toggles = h("fieldset", {}, legend);
  const runs = spec.runs.map((run) => {
    const box = checkbox({ checked: true, style: `accent-color: ${run.colour}` });
    const output = h("output");
    toggles.append(h("label", {}, box, run.name, output));
    return { ...run, box, output };
  });
  const curve = (seed) => new Float32Array(data, seed.values + 4 * which.selectedIndex * seed.steps, seed.steps);
  const x = (k) => (WIDTH * k) / Math.max(last, 1);

  function draw() {
    const seen = runs.filter((run) => run.box.checked);
    const curves = seen.flatMap(({ seeds, colour }) => seeds.map((seed) => ({ colour, values: [...curve(seed)] })));
    const logs = log.checked && curves.some(({ values }) => values.some((v) => v > 0));
    let [low, high] = [Infinity, -Infinity];
    for (const one of curves) {
      if (logs) one.values = one.values.map(Math.log10);
      for (const v of one.values.filter(Number.isFinite)) [low, high] = [Math.min(low, v), Math.max(high, v)];
    }
    if (low > high) [low, high] = [0, 1];
    if (high - low < 1e-9 * Math.max(1, Math.abs(high))) [low, high] = [low - 0.5, high + 0.5];
    const y = (v) => (HEIGHT * (high - v)) / (high - low);
    const marks = [];
    for (const t of ticks(low, high, logs ? 1 : 0)) {
      marks.push(`<line class="bioface-axis" x2="${WIDTH}" y1="${y(t)}" y2="${y(t)}" />`);
      marks.push(`<text style="text-anchor: end" x="-6" y="${y(t) + 4}">${number(logs ? 10 ** t : t)}</text>`);
    }
    for (const k of ticks(0, last, 1)) marks.push(`<text x="${x(k)}" y="272">${k}</text>`);
    for (const { colour, values } of curves) {
      const points = values.map((v, k) => [x(k), y(v)]).filter(([, v]) => Number.isFinite(v));
      marks.push(`<polyline points="${points.join(" ")}" stroke="${colour}" />`);
      const [cx, cy] = points[0] ?? [];
      if (points.length === 1) marks.push(`<circle cx="${cx}" cy="${cy}" r="3" fill="${colour}" />`);
    }
    marks.push(`<text x="${WIDTH / 2}" y="288">step</text>`, `<line class="bioface-step" y2="${HEIGHT}" />`);
    picture.innerHTML = `<svg viewBox="-56 -10 760 300">${marks.join("")}</svg>`; // numbers and our own colours only
    const names = seen.map((run) => run.name).join(", ") || "no run chosen";
    picture.ariaLabel = `${spec.curves[which.selectedIndex]} over ${last + 1} steps: ${names}`;
    read();
  }

  function read() {
    const k = Number(step.value);
    picture.style = `--step: ${x(k)}px`;
    legend.textContent = `Runs at step ${k}`;
    for (const run of runs) {
      const going = run.seeds.filter((seed) => k < seed.steps);
      const found = going.map((seed) => curve(seed).subarray(0, k + 1).findLast(Number.isFinite)); // measured by then
      found.sort((a, b) => a - b);
      const half = found.length / 2;
      const median = (found[Math.ceil(half) - 1] + found[Math.floor(half)]) / 2;
      const range = found.length > 1 ? ` (${number(found[0])} to ${number(found.at(-1))})` : "";
      run.output.textContent = found.length ? number(median) + range : "ended";
    }
    step.ariaValueText = `step ${k}: ${runs.map((run) => `${run.name} ${run.output.textContent}`).join(", ")}`;
  }

  picture.onpointermove = (event) => {
    const place = (event.offsetX / picture.clientWidth) * 760 - 56;
    step.value = Math.round((place / WIDTH) * last);
    read();
  };
  step.disabled = last < 1;
  step.oninput = read;
  which.oninput = log.oninput = toggles.oninput = draw;
  root.append(row(which, h("label", {}, log, "logarithmic"), step), toggles, picture);
  draw();
}

const nothing = (model, root, spec) => root.append(h("p", { role: "status" }, spec.text));

function render({ model, el }) {
  const spec = model.get("spec");
  const root = h("div", { className: `bioface bioface-${spec.kind}` });
  el.append(root);
  return { scrub, edit, compare, nothing }[spec.kind](model, root, spec);
}

export default { render };
