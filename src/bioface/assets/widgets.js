// The browser's side of bioface.widgets: everything is drawn here, from what the kernel sent once.
// No library, no network, no eval. What is heavy (colours, edits) is computed in Python; see widgets.py.

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const number = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(3))).replace("-", "−") : "–");
const bytes = ({ buffer, byteOffset, byteLength }) => buffer.slice(byteOffset, byteOffset + byteLength); // aligned

function h(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const row = (...children) => h("div", { className: "bioface-row" }, ...children);
const status = () => h("div", { role: "status" });
const checkbox = (properties) => h("input", { type: "checkbox", ...properties });
const choice = (ariaLabel, texts) => h("select", { ariaLabel }, ...texts.map((text) => new Option(text)));

function slider(ariaLabel, min, max, step, value, className = "") {
  const input = h("input", { type: "range", ariaLabel, className, min, max, step, value });
  input.defaultValue = input.value; // what a form's reset goes back to
  return input;
}

// --- maps side by side, with one crosshair --------------------------------------------------------------------

// maps: [{label, unit, letters, low, high, ramp}]; set(k, colours, values) draws map k: bytes (H × W × 3), and the
// numbers (H × W × letters) that are said under it
function panels([H, W], maps, live, size = "") {
  const grid = h("div", { className: `bioface-panels ${size}` });
  let at = null; // {row, column} under the crosshair

  const all = maps.map((map) => {
    const canvas = h("canvas", { width: W, height: H, role: "img" });
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      move(((event.clientY - box.top) / box.height) * H, ((event.clientX - box.left) / box.width) * W);
    };
    const frame = h("div", {
      className: "bioface-frame",
      tabIndex: 0,
      role: "group",
      ariaLabel: `${map.label}: arrow keys move the crosshair over all maps, Escape takes it away`,
      onpointermove: point,
      onpointerdown: point,
      onkeydown: (event) => press(event, panel),
    });
    frame.append(canvas);
    const value = h("output");
    const figure = h("figure", {}, h("figcaption", {}, map.label), frame);
    if (map.ramp) {
      const ends = [number(map.low), map.unit, number(map.high)].map((text) => h("span", {}, text));
      const style = `background: linear-gradient(to right, ${map.ramp.join(", ")})`;
      figure.append(h("div", { className: "bioface-ramp", style }), h("div", { className: "bioface-ends" }, ...ends));
    }
    figure.append(value);
    grid.append(figure);
    const panel = { map, canvas, value, values: null };
    return panel;
  });

  function press(event, panel) {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by && event.key !== "Escape") return;
    event.preventDefault();
    if (!by) return move(null);
    const far = event.shiftKey ? 8 : 1;
    if (at) move(at.row + far * by[0], at.column + far * by[1]);
    else move(H / 2, W / 2);
    live(`row ${at.row}, column ${at.column}: ${panel.map.label} ${panel.value.textContent}`);
  }

  function move(row, column) {
    at = row === null ? null : { row: clamp(Math.floor(row), 0, H - 1), column: clamp(Math.floor(column), 0, W - 1) };
    const share = (place, size) => `${(100 * (place + 0.5)) / size}%`;
    grid.style = at ? `--row: ${share(at.row, H)}; --column: ${share(at.column, W)}` : "";
    all.forEach(say);
  }

  function say({ map, value, values }) {
    const place = at && (at.row * W + at.column) * map.letters.length;
    const numbers = map.letters.map((letter, c) => `${letter}\u00a0${number(values[place + c])}`.trim()).join(" ");
    const known = Number.isFinite(values[place]);
    value.textContent = !at ? "" : known ? `${numbers} ${map.unit}`.trim() : "no value here";
  }

  function set(k, colours, values, ariaLabel) {
    const image = new ImageData(W, H);
    image.data.fill(255);
    colours.forEach((value, j) => (image.data[j + Math.trunc(j / 3)] = value)); // an opacity after every three
    all[k].canvas.getContext("2d").putImageData(image, 0, 0);
    all[k].canvas.ariaLabel = ariaLabel;
    all[k].values = values;
    say(all[k]);
  }

  return { grid, set };
}

// --- scrub ----------------------------------------------------------------------------------------------------

function scrub(model, root, spec) {
  const data = bytes(model.get("data"));
  const pixels = spec.size[0] * spec.size[1];
  const everyone = [...spec.names.keys()];
  const said = status();
  const shown = panels(spec.size, spec.maps, (text) => (said.textContent = text));
  const position = slider("sample", 0, everyone.length - 1, 1, 0, "bioface-long");
  position.oninput = show;
  const caption = h("div", { className: "bioface-caption" });
  root.append(row(position, caption));

  let order = everyone;
  const { scores, score_name } = spec;
  const ranked = (scores ?? []).filter((score) => score !== null).sort((a, b) => a - b);
  if (scores && everyone.length > 1) {
    const last = Math.max(ranked.length - 1, 0);
    const least = slider(`least ${score_name}`, 0, last, 1, 0);
    const most = slider(`highest ${score_name}`, 0, last, 1, last);
    const sort = checkbox();
    const count = h("span", { className: "bioface-count" });
    const filter = () => {
      const [low, high] = [ranked[least.value], ranked[most.value]];
      const within = (score) => score !== null && score >= low && score <= high;
      const whole = Number(least.value) === 0 && Number(most.value) === last; // those without a score as well
      const current = order[position.value];
      order = everyone.filter((k) => whole || within(scores[k]));
      if (sort.checked) order.sort((a, b) => (scores[b] ?? -Infinity) - (scores[a] ?? -Infinity));
      least.ariaValueText = number(low);
      most.ariaValueText = number(high);
      count.textContent = `${number(low)} to ${number(high)}: ${order.length} of ${everyone.length}`;
      position.max = Math.max(order.length - 1, 0);
      position.value = Math.max(order.indexOf(current), 0);
      show();
    };
    const controls = row(`Only ${score_name} from`, least, "to", most, count, h("label", {}, sort, "highest first"));
    controls.oninput = filter;
    root.append(controls);
    if (ranked.length) filter();
  }
  root.append(shown.grid, said);

  function show() {
    const k = order[position.value];
    position.disabled = order.length < 2;
    shown.grid.hidden = k === undefined;
    const parts = [`${Number(position.value) + 1} of ${order.length}`, spec.names[k], spec.about[k]];
    if (scores) parts.push(`${score_name} ${scores[k] === null ? "none" : number(scores[k])}`);
    const nobody = `No sample has a ${score_name} within these limits.`;
    position.ariaValueText = caption.textContent = k === undefined ? nobody : parts.filter(Boolean).join(" · ");
    if (k === undefined) return;
    spec.maps.forEach((map, m) => {
      const size = pixels * map.letters.length;
      const values = new Float32Array(data, map.values + 4 * k * size, size);
      const colours = new Uint8Array(data, map.colours + 3 * k * pixels, 3 * pixels);
      shown.set(m, colours, values, `${map.label} of ${spec.names[k]}`);
    });
  }
  show();
}

// --- edit -----------------------------------------------------------------------------------------------------

const PATIENCE = 2500; // ms until an answer is missed
const GONE = "The kernel does not answer, so the picture stays as it is. Run the notebook's cells again to go on editing.";

function edit(model, root, spec) {
  const maps = ["photo", "edited"].map((label) => ({ label, unit: "sRGB", letters: ["R", "G", "B"] }));
  const said = status();
  const shown = panels(spec.size, maps, (text) => (said.textContent = text), "bioface-large");
  const draw = (k, data, alt) => {
    const pixels = new Uint8Array(bytes(data));
    shown.set(k, pixels, Float32Array.from(pixels, (v) => v / 255), alt);
  };

  const signed = (v) => (v > 0 ? "+" : "") + number(v);
  const factor = (v) => `× ${number(v)}`;
  const controls = [
    [slider("melanin, shift", -2, 2, 0.05, 0), signed],
    [slider("haemoglobin, factor", 0, 4, 0.05, 1), factor],
    [slider("specular shading, factor", 0, 4, 0.05, 1), factor],
    [choice("illuminant", spec.lights.map(([text]) => text)), () => ""],
    [choice("white balance", ["kept: for the photo's light", "new: for the illuminant"]), () => ""],
    ...spec.camera.map((b, k) => [slider(`camera, coefficient ${k + 1}`, -3, 3, 0.05, b), signed]),
  ];
  const [melanin, haemoglobin, specular, light, balance, ...camera] = controls.map(([input]) => input);
  const sliders = h("div", { className: "bioface-sliders" });
  const outputs = controls.map(([input]) => {
    const output = h("span", { ariaHidden: "true" });
    sliders.append(h("span", {}, input.ariaLabel), input, output);
    return output;
  });

  const value = (input) => Number(input.value);
  const wanted = () => ({
    melanin: value(melanin),
    haemoglobin: value(haemoglobin),
    specular: value(specular),
    illuminant: spec.lights[light.selectedIndex][1],
    camera: camera.every((b) => b.value === b.defaultValue) ? null : camera.map(value),
    white_balance: balance.value.split(":")[0],
  });

  // One question at a time; when its answer is here, the newest wish is the next question.
  const view = Math.random().toString(36).slice(2); // another view of the same widget gets the same answers
  let count = 0, waiting = false, asked = JSON.stringify(wanted()), sent = 0, timer = 0;
  function ask() {
    const wish = JSON.stringify(wanted());
    if (waiting || wish === asked) return;
    [waiting, asked, sent] = [true, wish, performance.now()];
    timer = setTimeout(missed, PATIENCE);
    try {
      model.send({ id: `${view}-${++count}`, ...wanted() });
    } catch {
      missed(); // Jupyter refuses to send to a kernel that it knows is dead
    }
  }
  function missed() {
    clearTimeout(timer);
    if (model.widget_manager?.kernel?.status === "busy" && !cut()) {
      say("The kernel is busy; the picture follows when it is free.");
      timer = setTimeout(missed, PATIENCE);
      return;
    }
    [waiting, asked] = [false, null]; // the next change asks again
    say(GONE);
  }
  function say(text) {
    said.textContent = text;
    said.classList.toggle("bioface-warning", text !== "");
  }
  const cut = () => root.closest(".jupyter-widgets-disconnected") !== null; // ipywidgets, once a kernel restarts
  model.on("comm_live_update", () => cut() && say(GONE));
  model.on("msg:custom", (answer, buffers) => {
    if (answer.id !== `${view}-${count}`) return;
    say(answer.error);
    if (buffers?.length) {
      draw(1, buffers[0], "the edited photo");
      root.dataset.pictures = Number(root.dataset.pictures ?? 0) + 1;
    }
    clearTimeout(timer);
    timer = setTimeout(() => ask((waiting = false)), sent + spec.pause - performance.now());
  });

  function changed() {
    controls.forEach(([input, text], k) => (outputs[k].textContent = text(value(input))));
    ask();
  }
  const reset = h("button", { type: "reset" }, "As it was");
  const form = h("form", {}, row(shown.grid, sliders), row(reset, spec.note), said);
  Object.assign(form, { oninput: changed, onreset: () => setTimeout(changed), onsubmit: () => false });
  root.append(form);
  draw(0, model.get("data"), "the photo as it was");
  draw(1, model.get("data"), "the edited photo");
  changed();
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

// The value at a step, or the one closest to it that was measured
function nearest(values, k) {
  for (let far = 0; far < values.length; far++)
    for (const j of [k - far, k + far]) if (Number.isFinite(values[j])) return values[j];
  return NaN;
}

function compare(model, root, spec) {
  const data = bytes(model.get("data"));
  const [LEFT, RIGHT, TOP, BOTTOM] = [56, 750, 10, 266]; // of the curves, in a picture of 760 × 300
  const most = Math.max(...spec.runs.flatMap((run) => run.seeds.map((seed) => seed.steps)));
  const which = choice("curve", spec.curves);
  const log = checkbox({ checked: true });
  const step = slider("step", 0, most - 1, 1, most - 1, "bioface-long");
  const at = h("span");
  const picture = h("div", { role: "img" });
  const toggles = h("fieldset", {}, h("legend", {}, "Runs"));
  const runs = spec.runs.map((run) => {
    const box = checkbox({ checked: true });
    const swatch = h("span", { className: "bioface-swatch", style: `background: ${run.colour}` });
    const output = h("output");
    toggles.append(h("label", {}, row(box, swatch, run.name), output));
    return { ...run, box, output };
  });
  const curve = (seed) => new Float32Array(data, seed.values + 4 * which.selectedIndex * seed.steps, seed.steps);
  const x = (k) => LEFT + ((RIGHT - LEFT) * k) / Math.max(most - 1, 1);

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
    const y = (v) => BOTTOM - ((BOTTOM - TOP) * (v - low)) / (high - low);
    const marks = [`<text x="${(LEFT + RIGHT) / 2}" y="298" text-anchor="middle">step</text>`];
    for (const t of ticks(low, high, logs ? 1 : 0)) {
      marks.push(`<line class="bioface-axis" x1="${LEFT}" x2="${RIGHT}" y1="${y(t)}" y2="${y(t)}" />`);
      marks.push(`<text x="${LEFT - 6}" y="${y(t) + 4}" text-anchor="end">${number(logs ? 10 ** t : t)}</text>`);
    }
    for (const k of ticks(0, most - 1, 1))
      marks.push(`<text x="${x(k)}" y="${BOTTOM + 16}" text-anchor="middle">${k}</text>`);
    for (const { colour, values } of curves) {
      const points = values.map((v, k) => [x(k), y(v)]).filter(([, v]) => Number.isFinite(v));
      marks.push(`<polyline points="${points.join(" ")}" stroke="${colour}" />`);
      if (points.length === 1) marks.push(`<circle cx="${points[0][0]}" cy="${points[0][1]}" r="3" fill="${colour}" />`);
    }
    marks.push(`<line class="bioface-step" y1="${TOP}" y2="${BOTTOM}" />`);
    picture.innerHTML = `<svg viewBox="0 0 760 300">${marks.join("")}</svg>`; // numbers and our own colours only
    const names = seen.map((run) => run.name).join(", ") || "no run chosen";
    picture.ariaLabel = `${spec.curves[which.selectedIndex]} over ${most} steps: ${names}`;
    read();
  }

  function read() {
    const k = Number(step.value);
    picture.style = `--step: ${x(k)}px`;
    at.textContent = `step ${k}`;
    for (const run of runs) {
      const found = run.seeds.filter((seed) => k < seed.steps).map((seed) => nearest(curve(seed), k));
      found.sort((a, b) => a - b);
      const half = found.length / 2;
      const median = (found[Math.ceil(half) - 1] + found[Math.floor(half)]) / 2;
      const range = found.length > 1 ? ` (${number(found[0])} to ${number(found.at(-1))})` : "";
      run.output.textContent = found.length ? number(median) + range : "ended";
    }
    const values = runs.map((run) => `${run.name} ${run.output.textContent}`).join(", ");
    step.ariaValueText = `${at.textContent}: ${values}`;
  }

  picture.onpointermove = (event) => {
    const box = picture.firstChild.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * 760;
    step.value = Math.round(((place - LEFT) / (RIGHT - LEFT)) * (most - 1));
    read();
  };
  step.disabled = most < 2;
  step.oninput = read;
  which.oninput = log.oninput = toggles.oninput = draw;
  root.append(row(which, h("label", {}, log, "logarithmic"), step, at), toggles, picture);
  draw();
}

const nothing = (model, root, spec) => root.append(h("p", { role: "status" }, spec.text));

function render({ model, el }) {
  const spec = model.get("spec");
  const root = h("div", { className: `bioface bioface-${spec.kind}` });
  el.append(root);
  const end = { scrub, edit, compare, nothing }[spec.kind](model, root, spec);
  // JupyterLab takes arrow keys and letters for itself, unless the very element that has the focus says no
  for (const element of root.querySelectorAll("input, select, button, [tabindex]"))
    element.dataset.lmSuppressShortcuts = "true";
  return end ?? undefined;
}

export default { render };
