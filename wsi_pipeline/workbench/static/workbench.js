// The workbench: a cohort as a table or a wall, and a slide with what the pipeline made of it.

const $ = id => document.getElementById(id);
const state = { cohort: null, sort: ["id", 1], wall: false, cell: null, slide: null };
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const STEPS = 48; // colours of a scale: tiles of one are drawn together
const say = text => { $("told").textContent = text; };

async function ask(path, options) {
  const answer = await fetch(path, options);
  const told = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw new Error(told.error || answer.statusText);
  return told;
}

function make(tag, attributes = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  node.append(...inside.filter(each => each != null));
  return node;
}

const address = slide => `#/slide/${encodeURIComponent(slide)}`;
const number = value => (value == null ? "" : Math.abs(value) >= 1000 || Number.isInteger(value)
  ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3)));

// ---- cohort

const COLUMNS = [
  ["id", "Slide"], ["patient", "Patient"], ["label", "Label"], ["split", "Split"],
  ["said", "Prediction"], ["sure", "Confidence", true], ["tiles", "Tiles", true], ["flags", "Flags"]];

function said(row) {
  const model = $("model").value;
  const found = (row.predictions || []).find(each => !model || each.bundle === model);
  return found ? { ...row, said: found.said, sure: found.probabilities[found.said] } : { ...row, said: null, sure: null };
}
const wrong = row => row.said && (row.truth || row.label) && row.said !== (row.truth || row.label);

function chosen() {
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = $("kind").value;
  return state.cohort.slides.map(said).filter(row =>
    (!$("label").value || row.label === $("label").value)
    && (!$("split").value || row.split === $("split").value)
    && (!kind || (kind === "wrong" ? wrong(row) : kind === "failed" ? row.failure : (row.flags || []).length))
    && (!state.cell || ((row.truth || row.label) === state.cell[0] && row.said === state.cell[1]))
    && words.every(word => [row.id, row.patient, row.label, row.split, row.said, row.failure, ...(row.flags || [])]
      .join(" ").toLowerCase().includes(word)));
}

function showCohort() {
  $("slide").hidden = true;
  $("cohort").hidden = false;
  document.title = $("title").textContent = state.cohort.title || "Workbench";
  const [key, way] = state.sort;
  const rows = chosen().sort((a, b) => way * (typeof a[key] === "number" || typeof b[key] === "number"
    ? (a[key] ?? -Infinity) - (b[key] ?? -Infinity) : String(a[key] ?? "").localeCompare(String(b[key] ?? ""), "en", { numeric: true })));
  say(`${rows.length} of ${state.cohort.slides.length} slides`);
  showConfusion();
  $("list").replaceChildren(state.wall ? wall(rows) : table(rows));
  $("as-wall").setAttribute("aria-pressed", state.wall);
  $("as-table").setAttribute("aria-pressed", !state.wall);
}

function table(rows) {
  const head = COLUMNS.map(([key, words, right]) => make("th", { scope: "col", class: right ? "number" : "",
    "aria-sort": state.sort[0] === key ? (state.sort[1] > 0 ? "ascending" : "descending") : "none" },
    make("button", { type: "button", onclick: () => {
      state.sort = [key, state.sort[0] === key ? -state.sort[1] : 1]; showCohort(); } }, words)));
  const body = rows.map(row => make("tr", { class: row.failure || wrong(row) ? "bad" : "" },
    make("td", {}, make("a", { href: address(row.id) }, row.id)),
    ...["patient", "label", "split", "said"].map(key => make("td", {}, row[key] ?? "")),
    make("td", { class: "number" }, row.sure == null ? "" : row.sure.toFixed(2)),
    make("td", { class: "number" }, number(row.tiles)),
    make("td", {}, ...(row.failure ? [row.failure] : (row.flags || []).map(flag => make("span", { class: "chip" }, flag))))));
  return make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

function wall(rows) {
  return make("div", { class: "wall" }, ...rows.map(row =>
    make("a", { href: address(row.id), class: wrong(row) ? "wrong" : "" },
      make("img", { src: `/thumbnails/${encodeURIComponent(row.id)}.jpg`, alt: "", loading: "lazy" }),
      make("span", {}, make("b", {}, row.id), make("br"), row.failure || [row.label, row.said && `→ ${row.said} ${row.sure.toFixed(2)}`].filter(Boolean).join(" ")))));
}

function showConfusion() {
  const rows = state.cohort.slides.map(said).filter(row => row.said && (row.truth || row.label)
    && (!$("split").value || row.split === $("split").value));
  const names = [...new Set(rows.flatMap(row => [row.truth || row.label, row.said]))].sort();
  const cell = (truth, found) => {
    const count = rows.filter(row => (row.truth || row.label) === truth && row.said === found).length;
    const on = state.cell && state.cell[0] === truth && state.cell[1] === found;
    return make("td", { class: truth === found ? "right" : "" }, make("button", { type: "button", "aria-pressed": !!on,
      "aria-label": `${count} slides of ${truth} predicted ${found}`,
      onclick: () => { state.cell = on ? null : [truth, found]; showCohort(); } }, String(count)));
  };
  $("confusion").replaceChildren(names.length < 2 ? "" : make("table", {},
    make("caption", {}, "True class by row, prediction by column; a cell shows its slides"),
    make("thead", {}, make("tr", {}, make("td"), ...names.map(name => make("th", { scope: "col", class: "number" }, name)))),
    make("tbody", {}, ...names.map(truth => make("tr", {}, make("th", { scope: "row" }, truth), ...names.map(found => cell(truth, found)))))));
}

function choices(select, values, all) {
  select.replaceChildren(make("option", { value: "" }, all), ...values.map(value => make("option", { value }, value)));
}

// ---- slide

let viewer = null, canvas = null;

async function showSlide(id) {
  $("cohort").hidden = true;
  $("slide").hidden = false;
  close();
  $("name").textContent = document.title = id;
  $("tile").replaceChildren();
  say("…");
  const row = state.cohort.slides.map(said).find(each => each.id === id) || {};
  const slide = state.slide = await ask(`/api/slides/${encodeURIComponent(id)}`);
  slide.picked = null;
  const about = { Patient: row.patient, Label: row.label, Split: row.split,
    Prediction: row.said && `${row.said}, ${row.sure.toFixed(2)}`, Tiles: number(slide.tiles),
    Resolution: slide.mpp && `${number(slide.mpp)} µm/px`, Size: slide.width && `${slide.width} × ${slide.height} px`,
    Reader: slide.reader, Flags: (slide.flags || []).join(", "), Failure: row.failure || slide.damaged };
  $("about").replaceChildren(...Object.entries(about).filter(([, told]) => told)
    .flatMap(([name, told]) => [make("dt", {}, name), make("dd", {}, String(told))]));
  $("missing").hidden = !slide.missing;
  $("missing").textContent = slide.missing ? `Only the thumbnail: ${slide.missing}` : "";
  $("layers").hidden = !!slide.missing || !slide.tiles;
  if (slide.tiles && !slide.missing) slide.shown = prepare(await ask(`/api/slides/${encodeURIComponent(id)}/tiles`));
  if (state.slide !== slide) return;
  if (!slide.missing || slide.thumbnail) open(slide);
  layerChoices();
  showDecisions(slide.decided);
  say(slide.missing ? "the slide is not at hand" : "");
}

function close() {
  if (viewer) viewer.destroy();
  viewer = canvas = state.slide = null;
  $("place").textContent = "";
  $("scale").hidden = true;
}

function open(slide) {
  const path = `/slides/${encodeURIComponent(slide.id)}`;
  const source = slide.missing ? { type: "image", url: `/thumbnails/${encodeURIComponent(slide.id)}.jpg` } : {
    width: slide.width, height: slide.height, tileSize: slide.side, tileOverlap: 0, minLevel: 0, maxLevel: slide.levels,
    getTileUrl: (level, x, y) => `${path}/${level}/${x}_${y}.jpg` };
  viewer = OpenSeadragon({ element: $("viewer"), tileSources: source, showNavigationControl: false, showNavigator: !slide.missing,
    navigatorPosition: "TOP_RIGHT", drawer: "canvas", maxZoomPixelRatio: 8, animationTime: 0.4, gestureSettingsMouse: { clickToZoom: false } });
  canvas = make("canvas", { class: "overlay" });
  viewer.canvas.append(canvas);
  viewer.addHandler("update-viewport", draw);
  viewer.addHandler("resize", draw);
  viewer.addHandler("open", () => {
    $("scale").hidden = false;
    const area = slide.shown && slide.shown.area;
    if (area && area[2] * area[3] < 0.5 * slide.width * slide.height)
      viewer.viewport.fitBounds(viewer.viewport.imageToViewportRectangle(...area), true);
    draw();
  });
  viewer.addHandler("canvas-click", event => {
    if (!event.quick || !slide.shown) return;
    const at = viewer.viewport.viewerElementToImageCoordinates(event.position);
    pick(tileAt(slide.shown, at.x, at.y));
  });
  new OpenSeadragon.MouseTracker({ element: $("viewer"), moveHandler: event => {
    if (!viewer || !viewer.world.getItemCount() || slide.missing) return;
    const at = viewer.viewport.viewerElementToImageCoordinates(event.position), mpp = slide.mpp;
    $("place").textContent = mpp ? `${number(at.x * mpp)}, ${number(at.y * mpp)} µm` : `${number(at.x)}, ${number(at.y)} px`;
  } });
}

function prepare(told) {
  const [[ux, uy], [vx, vy]] = told.edges;
  const flagged = new Set(told.flags.flatMap(flag => flag.rows));
  return { ...told, count: told.corners.length / 2, ux, uy, vx, vy, flagged: [...flagged].sort((a, b) => a - b),
    dropped: new Set() };
}

function tileAt(shown, x, y) {
  const { corners, ux, uy, vx, vy, count } = shown, area = ux * vy - uy * vx;
  for (let row = 0; row < count; row++) {
    const dx = x - corners[2 * row], dy = y - corners[2 * row + 1];
    const a = (dx * vy - dy * vx) / area, b = (dy * ux - dx * uy) / area;
    if (a >= 0 && a < 1 && b >= 0 && b < 1) return row;
  }
  return null;
}

function colours(layer) {
  if (layer.steps) return layer.steps;
  const wide = layer.high - layer.low || 1, steps = Array.from({ length: STEPS }, () => []);
  layer.values.forEach((value, row) => {
    if (value != null) steps[Math.min(STEPS - 1, Math.max(0, Math.floor((value - layer.low) / wide * STEPS)))].push(row);
  });
  return layer.steps = steps;
}

function shade(part) {
  const at = part * (VIRIDIS.length - 1), i = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return `rgb(${VIRIDIS[i].map((low, channel) => Math.round(low + (at - i) * (VIRIDIS[i + 1][channel] - low))).join(" ")})`;
}

function draw() {
  const slide = state.slide;
  if (!viewer || !canvas || !slide || !viewer.world.getItemCount()) return;
  const ratio = window.devicePixelRatio || 1, box = viewer.container.getBoundingClientRect();
  const wide = Math.round(box.width * ratio), high = Math.round(box.height * ratio);
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide; canvas.height = high;
    canvas.style.width = `${box.width}px`; canvas.style.height = `${box.height}px`;
  }
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, wide, high);
  const zero = viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
  const one = viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(1000, 0));
  const scale = (one.x - zero.x) / 1000 * ratio, left = zero.x * ratio, top = zero.y * ratio;
  drawScale(slide, scale / ratio);
  const shown = slide.shown;
  if (!shown) return;
  const { corners } = shown, step = [shown.ux, shown.uy, shown.vx, shown.vy].map(each => each * scale);
  const reach = Math.abs(step[0]) + Math.abs(step[1]) + Math.abs(step[2]) + Math.abs(step[3]);
  const straight = step[1] === 0 && step[2] === 0;
  const path = rows => {
    context.beginPath();
    for (const row of rows) {
      const x = left + corners[2 * row] * scale, y = top + corners[2 * row + 1] * scale;
      if (x > wide + reach || y > high + reach || x < -reach || y < -reach) continue;
      if (straight) context.rect(x, y, step[0], step[3]);
      else {
        context.moveTo(x, y); context.lineTo(x + step[0], y + step[1]);
        context.lineTo(x + step[0] + step[2], y + step[1] + step[3]); context.lineTo(x + step[2], y + step[3]); context.closePath();
      }
    }
  };
  const layer = shown.layers.find(each => each.name === $("colour").value);
  context.globalAlpha = +$("opacity").value;
  if (layer) colours(layer).forEach((rows, i) => { if (rows.length) { path(rows); context.fillStyle = shade((i + 0.5) / STEPS); context.fill(); } });
  for (const flag of shown.flags)
    if ($(`flag-${flag.name}`)?.checked) { path(flag.rows); context.fillStyle = `rgb(${flag.colour.join(" ")})`; context.fill(); }
  context.globalAlpha = 1;
  context.lineWidth = ratio;
  if ($("grid").checked && step[0] + step[1] > 5 * ratio) {
    path(Array.from({ length: shown.count }, (_, row) => row));
    context.strokeStyle = "rgb(91 75 183 / .55)"; context.stroke();
  }
  if (shown.dropped.size) {
    path(shown.dropped); context.fillStyle = "rgb(163 22 47 / .35)"; context.fill();
    context.strokeStyle = "rgb(163 22 47)"; context.stroke();
  }
  if ($("out").checked) {
    context.strokeStyle = "#8a5300"; context.lineWidth = 2 * ratio;
    for (const { box_level0: [x0, y0, x1, y1] } of shown.left_out)
      context.strokeRect(left + x0 * scale, top + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
  }
  if (slide.picked != null) { path([slide.picked]); context.strokeStyle = "#c93d74"; context.lineWidth = 3 * ratio; context.stroke(); }
}

function drawScale(slide, perPixel) {
  if (!slide.mpp || slide.missing) { $("scale").hidden = true; return; }
  const longest = 160 / perPixel * slide.mpp, power = 10 ** Math.floor(Math.log10(longest));
  const um = [5, 2, 1].map(each => each * power).find(each => each <= longest) ?? power;
  const bar = $("scale").firstElementChild;
  bar.style.width = `${um / slide.mpp * perPixel}px`;
  bar.textContent = um >= 1000 ? `${number(um / 1000)} mm` : `${number(um)} µm`;
}

function layerChoices() {
  const shown = state.slide && state.slide.shown, before = $("colour").value;
  choices($("colour"), shown ? shown.layers.map(layer => layer.name) : [], "none");
  if (shown && shown.layers.some(layer => layer.name === before)) $("colour").value = before;
  $("flags").replaceChildren(...(shown ? shown.flags : []).map(flag => make("label", {},
    make("input", { type: "checkbox", id: `flag-${flag.name}`, checked: true, onchange: draw }),
    make("span", { class: "swatch", style: `background: rgb(${flag.colour.join(" ")})` }), `${flag.label}, ${flag.rows.length}`)));
  showKey();
}

function showKey() {
  const layer = state.slide?.shown?.layers.find(each => each.name === $("colour").value);
  $("key").replaceChildren(...(layer ? [make("span", {}, number(layer.low)), make("span", {}, number(layer.high))] : []));
  draw();
}

async function pick(row) {
  const slide = state.slide;
  slide.picked = row;
  draw();
  if (row == null) { $("tile").replaceChildren(); return; }
  const told = slide.told = await ask(`/api/slides/${encodeURIComponent(slide.id)}/tiles/${row}`);
  if (state.slide !== slide || slide.picked !== row) return;
  const picture = how => make("img", { src: `/tiles/${encodeURIComponent(slide.id)}/${row}/${how}.jpg`, alt: `Tile ${how}`,
    title: how === "stored" ? "as stored, normalised" : "as scanned", onerror: event => event.target.remove() });
  const rows = entries => make("dl", {}, ...entries.flatMap(([name, value]) => [make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, String(value))]));
  $("tile").replaceChildren(make("h2", {}, `Tile at ${number(told.x)}, ${number(told.y)} px`), picture("scanned"), " ", picture("stored"),
    make("p", { class: "dropped", hidden: !slide.shown.dropped.has(row) }, "dropped"),
    make("p", { class: "bad" }, told.reasons.join("; ")),
    ...Object.entries(told.probabilities).map(([model, values]) => make("div", {}, make("b", {}, model), rows(Object.entries(values)))),
    rows(Object.entries(told.measures)));
}

function showDecisions(decided) {
  const slide = state.slide;
  slide.whole = decided.whole === "drop";
  $("whole").textContent = slide.whole ? "Keep the slide" : "Drop the slide";
  $("whole").setAttribute("aria-pressed", slide.whole);
  if (!slide.shown) return;
  slide.shown.dropped = new Set(decided.dropped);
  const mark = $("tile").querySelector(".dropped");
  if (mark) mark.hidden = !slide.shown.dropped.has(slide.picked);
  draw();
}

async function decide(choice, place) {
  const slide = state.slide;
  try {
    const decided = await ask(`/api/slides/${encodeURIComponent(slide.id)}/decisions`, { method: "POST",
      headers: { "Content-Type": "application/json" }, body: JSON.stringify({ choice, place }) });
    if (state.slide === slide) showDecisions(decided);
    say(`${choice}: written to qc/decisions.csv`);
  } catch (error) { say(error.message); }
}

function step(way) {
  const { shown, picked } = state.slide, rows = shown.flagged.length ? shown.flagged : Array.from({ length: shown.count }, (_, row) => row);
  const at = way > 0 ? rows.find(row => picked == null || row > picked) ?? rows[0]
    : rows.findLast(row => picked == null || row < picked) ?? rows.at(-1);
  const side = Math.hypot(shown.ux, shown.uy);
  viewer.viewport.fitBounds(viewer.viewport.imageToViewportRectangle(
    shown.corners[2 * at] - 2 * side, shown.corners[2 * at + 1] - 2 * side, 5 * side, 5 * side));
  pick(at);
}

// ---- where we are, and keys

async function route() {
  try {
    const [, id] = location.hash.match(/^#\/slide\/(.+)$/) || [];
    if (id) await showSlide(decodeURIComponent(id)); else { close(); showCohort(); }
  } catch (error) { say(error.message); }
}

document.addEventListener("keydown", event => {
  if (!state.slide || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  const key = event.key.toLowerCase(), { shown, told, picked } = state.slide;
  if (key === "escape") location.hash = "#/";
  else if (shown && (key === "n" || key === "p")) step(key === "n" ? 1 : -1);
  else if (picked != null && told && "dku".includes(key)) decide({ d: "drop", k: "keep", u: "undo" }[key], [told.x, told.y]);
  else return;
  event.preventDefault();
});
for (const id of ["find", "label", "split", "kind", "model"]) $(id).addEventListener("input", () => { state.cell = null; showCohort(); });
$("filters").addEventListener("submit", event => event.preventDefault());
$("as-table").onclick = () => { state.wall = false; showCohort(); };
$("as-wall").onclick = () => { state.wall = true; showCohort(); };
$("whole").onclick = () => decide(state.slide.whole ? "undo" : "drop", null);
$("colour").onchange = showKey;
for (const id of ["opacity", "grid", "out"]) $(id).addEventListener("input", draw);
window.addEventListener("hashchange", route);

say("reading the run folder …");
ask("/api/cohort").then(told => {
  state.cohort = told;
  const some = key => [...new Set(told.slides.map(row => row[key]).filter(Boolean))].sort();
  choices($("label"), some("label"), "any");
  choices($("split"), some("split"), "any");
  choices($("model"), told.models.map(model => model.name), "the first");
  document.body.dataset.ready = "yes";
  route();
}).catch(error => say(error.message));
