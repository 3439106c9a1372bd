// One slide: its layers, what is known of a tile, decisions, its mask corrected by hand, two layers side by side.

import { $, ask, button, facts, make, number, say, send, slidePath, trying } from "./page.js";
import { said, state } from "./cohort.js";
import { Colour, Layers } from "./layers.js";
import { Lasso } from "./lasso.js";
import { Tiles } from "./overlay.js";
import { Pane, together } from "./pane.js";

let open = null; // the slide in sight: its pane, layers, colours
const WATCH_MS = 3000; // between two looks at what others have decided
let turns = 0; // how often one went elsewhere: what is answered late is not shown

export async function showSlide(id, place) {
  say("…");
  const turn = turns, slide = { ...await ask(slidePath(id)), picked: null };
  if (turn !== turns) return;
  const here = open = { slide, panes: [], lasso: null };
  $("name").textContent = document.title = id;
  $("tile").replaceChildren();
  $("missing").hidden = !slide.missing;
  $("missing").textContent = slide.missing ? `${slide.thumbnail ? "Only the thumbnail: " : ""}${slide.missing}` : "";
  $("nothing").hidden = !slide.missing || slide.thumbnail;
  const tiled = !!slide.tiles && !slide.missing;
  for (const part of ["layers", "mask-tools", "tile-keys"]) $(part).hidden = !tiled;
  $("decide-slide").hidden = slide.alone;
  const redraw = () => here.panes.forEach(pane => pane.redraw());
  const layers = here.layers = new Layers(slide, redraw);
  here.colours = [new Colour(slide, layers, redraw, "colour of the tiles"), new Colour(slide, layers, redraw, "colour of the tiles on the right")];
  $("colours").replaceChildren(here.colours[0].select, here.colours[0].key);
  $("layer-rows").replaceChildren(layers.box);
  tellRow();
  if (!slide.missing || slide.thumbnail) addPane(0);
  if (tiled) {
    layers.shown = new Tiles(await ask(`${slidePath(id)}/tiles`));
    if (open !== here) return;
    here.panes[0].whenOpen(() => lookAt(here));
    tellRow();
    layers.flagChoices();
  }
  $("side").setAttribute("aria-pressed", "false");
  if (slide.decided) showDecisions(slide.decided);
  if (!slide.alone) watch(here);
  say(slide.missing ? "the slide is not at hand" : "");
  if (place && layers.shown) {
    const at = layers.shown.rowAt(...place);
    if (at == null) say("the tile that was asked for is not kept any more"); else here.panes[0].whenOpen(() => visit(at));
  }
}

// Tells what the cohort's table knows of the slide in sight; the table may come after the slide.
export function tellRow() {
  if (!open) return;
  const { slide, colours, layers } = open;
  const row = (state.cohort?.slides || []).map(said).find(each => each.id === slide.id) || {};
  $("about").replaceChildren(...facts({ Patient: row.patient, Label: row.label, Split: row.split,
    Prediction: row.said && `${row.said}, ${row.sure.toFixed(2)}`, Tiles: number(slide.tiles),
    Resolution: slide.mpp && `${number(slide.mpp)} µm/px`, Size: slide.width && `${number(slide.width)} × ${number(slide.height)} px`,
    Stain: row.stain, Reader: slide.reader, Flags: (slide.flags || []).join(", "),
    "Novelty of the slide": Object.values(slide.novelty || {}).join(", "), Failure: row.failure || slide.damaged }));
  if (!layers.shown) return;
  colours.forEach(colour => colour.offer(layers.shown.layers, state.cohort?.trained || []));
  askNearest();
}

export function closeSlide() {
  turns += 1;
  open?.panes.forEach(pane => pane.close());
  open = null;
  $("whole").textContent = "";
  window.workbench = null;
}

// A core of a microarray is shown in its place, and not the whole array.
function lookAt({ slide, layers, panes }) {
  const { area } = layers.shown;
  if (area[2] * area[3] < 0.5 * slide.width * slide.height) panes[0].go(...area, true);
  panes[0].redraw();
}

function addPane(which) {
  const { slide, layers, colours, panes } = open, here = open;
  const pane = new Pane($("viewer"), { slide, path: `slides/${encodeURIComponent(slide.id)}`,
    picture: slide.missing ? `thumbnails/${encodeURIComponent(slide.id)}.jpg` : null,
    draw: paper => { if (!slide.missing) { layers.draw(paper, colours[which].chosen); here.lasso?.draw(paper); } } });
  panes.push(pane);
  pane.viewer.addHandler("canvas-click", event => {
    if (!event.quick || !layers.shown || pane.spot) return;
    const at = pane.viewer.viewport.viewerElementToImageCoordinates(event.position);
    pick(layers.shown.at(at.x, at.y));
  });
  window.workbench = { pane: panes[0], layers, slide }; // for tests and measurements
  return pane;
}

function sideBySide() {
  if (open.panes.length > 1) {
    open.panes.pop().close();
    $("colours").replaceChildren(open.colours[0].select, open.colours[0].key);
  } else {
    const [left, right] = [open.panes[0], addPane(1)];
    together(left, right);
    right.whenOpen(() => left.viewer.viewport.goHome(true));
    $("colours").replaceChildren(make("p", { class: "note" }, "left"), open.colours[0].select, open.colours[0].key,
      make("p", { class: "note" }, "right"), open.colours[1].select, open.colours[1].key);
  }
  $("side").setAttribute("aria-pressed", open.panes.length > 1);
}

async function pick(row) {
  const { slide, layers, panes } = open, here = open;
  slide.picked = row;
  panes.forEach(pane => pane.redraw());
  if (row == null) { $("tile").replaceChildren(); return; }
  const told = await ask(`${slidePath(slide.id)}/tiles/${row}`);
  if (open !== here || slide.picked !== row) return;
  const picture = how => make("img", { src: `tiles/${encodeURIComponent(slide.id)}/${row}/${how}.jpg`, alt: `The tile ${how === "stored" ? "as stored, normalised" : "as scanned"}`,
    title: how === "stored" ? "as stored, normalised" : "as scanned", onerror: event => event.target.remove() });
  const list = entries => make("dl", {}, ...facts(Object.fromEntries(entries.map(([name, value]) => [name.replaceAll("_", " "), value]))));
  const mpp = slide.mpp, where = mpp ? `${number(told.x * mpp)}, ${number(told.y * mpp)} µm` : `${number(told.x)}, ${number(told.y)} px`;
  $("tile").replaceChildren(make("h2", { id: "tile-name" }, `Tile at ${where}`), picture("scanned"), " ", picture("stored"),
    make("p", { class: "dropped", hidden: !layers.shown.dropped.has(row) }, "dropped"),
    make("p", { class: "bad" }, told.reasons.join("; ")),
    make("p", {}, ...[["drop", "D"], ["keep", "K"], ["undo", "U"]].map(([choice, key]) =>
      button(`${choice} (${key})`, () => decide(choice, layers.shown.placeOf(row))))),
    make("div", { id: "nearest" }),
    ...Object.entries(told.probabilities).map(([model, values]) => make("div", {}, make("b", {}, model), list(Object.entries(values)))),
    list(Object.entries(told.measures)));
  $("tile").scrollIntoView({ block: "nearest" });
  askNearest();
}

function askNearest() {
  const box = $("nearest"), { slide } = open, models = state.cohort?.trained || [];
  if (!box) return;
  box.replaceChildren(...models.map(model => make("details", { ontoggle: async event => {
    const details = event.target, row = slide.picked;
    if (!details.open || details.dataset.asked) return;
    details.dataset.asked = "yes";
    try {
      const found = await ask(`${slidePath(slide.id)}/tiles/${row}/nearest/${encodeURIComponent(model)}`);
      details.append(found.length ? make("div", { class: "near" }, ...found.map(each => make("a", { href: `#/slide/${encodeURIComponent(each.slide)}?at=${each.x},${each.y}` },
        make("img", { src: `tiles/${encodeURIComponent(each.slide)}/at/${each.x}_${each.y}.jpg`, alt: `of ${each.slide}`, loading: "lazy" }),
        make("span", {}, each.label || "–", make("br"), `at ${each.distance}`)))) : "no training tile of another patient");
    } catch (error) { details.append(make("p", { class: "bad" }, error.message)); }
  } }, make("summary", {}, `Nearest training tiles, ${model}`))));
}

function showDecisions(decided) {
  const { slide, layers, panes } = open;
  open.decided = JSON.stringify(decided);
  slide.whole = decided.whole === "drop";
  $("whole").textContent = slide.whole ? "Keep the slide" : "Drop the slide";
  $("whole").setAttribute("aria-pressed", slide.whole);
  if (!layers.shown) return;
  layers.shown.dropped = new Set(decided.dropped);
  const { flagged, dropped } = layers.shown;
  layers.countDropped();
  $("counts").textContent = `${flagged.length} flagged, ${flagged.filter(row => dropped.has(row)).length} of them dropped; ${dropped.size} dropped in all`;
  const mark = $("tile").querySelector(".dropped");
  if (mark) mark.hidden = !dropped.has(slide.picked);
  panes.forEach(pane => pane.redraw());
}

// Somebody else may decide about the same slide: what stands on disk is shown soon after.
async function watch(here) {
  const gone = () => open !== here;
  while (!gone()) {
    await new Promise(done => setTimeout(done, WATCH_MS));
    if (gone() || document.hidden) continue;
    const before = here.decided, decided = await ask(`${slidePath(here.slide.id)}/decisions`).catch(() => null);
    if (gone() || !decided || here.decided !== before || JSON.stringify(decided) === before) continue;
    showDecisions(decided);
    say("somebody else has decided: shown is how it stands in qc/decisions.csv");
  }
}

const decide = trying(async (choice, place) => {
  const here = open, decided = await send(`${slidePath(here.slide.id)}/decisions`, { choice, place });
  if (open === here) showDecisions(decided);
  say(`${choice}: written to qc/decisions.csv`);
});

function visit(row) {
  const { shown } = open.layers, side = Math.hypot(shown.ux, shown.uy);
  open.panes[0].go(shown.corners[2 * row] - 2 * side, shown.corners[2 * row + 1] - 2 * side, 5 * side, 5 * side);
  pick(row);
}

function step(way) {
  const { shown } = open.layers, { picked } = open.slide, flagged = open.layers.flagged();
  const rows = flagged.length ? flagged : shown.all;
  visit(way > 0 ? rows.find(row => picked == null || row > picked) ?? rows[0] : rows.findLast(row => picked == null || row < picked) ?? rows.at(-1));
}

// ---- the mask

async function draw(deed) {
  const { lasso } = open;
  stopDrawing();
  if (lasso?.deed === deed) return;
  $("show-tissue").checked = true;
  await open.layers.asked("tissue");
  if (!open.layers.extra.tissue) return;
  showMask(open.layers.extra.tissue);
  open.lasso = Object.assign(new Lasso(open.panes[0], { colour: deed === "add" ? "#0a8f3c" : "#b3261e",
    done: ring => stroke(deed, ring) }), { deed });
  $(`mask-${deed}`).setAttribute("aria-pressed", "true");
  say(`draw around what to ${deed}: drag, or click corners and press Enter; Esc ends it`);
}

function stopDrawing() {
  open?.lasso?.stop();
  if (open) open.lasso = null;
  for (const deed of ["add", "subtract"]) $(`mask-${deed}`).setAttribute("aria-pressed", "false");
}

const stroke = trying(async (deed, ring) => showMask(await send(`${slidePath(open.slide.id)}/mask`, { do: deed, ring: ring.map(at => at.map(Math.round)) }),
  `${deed}: written to masks/${open.slide.id}.geojson`));
const unstroke = trying(async () => showMask(await send(`${slidePath(open.slide.id)}/mask/undo`, {}), "the mask is as it was before"));

function showMask(told, words) {
  open.layers.take("tissue", told);
  $("mask-state").textContent = told.drawn ? "corrected by hand; cut the slide anew: wsi tile … --overwrite" : "as it was computed";
  $("mask-undo").disabled = !told.undo;
  $("mask-compute").disabled = !told.drawn;
  if (words) say(words);
  open.panes.forEach(pane => pane.redraw());
}

export function slideKey(key) {
  if (!open) return false;
  const { layers, slide, lasso } = open, { picked } = slide;
  if (key === "escape" && lasso) stopDrawing();
  else if (key === "enter" && lasso) lasso.close();
  else if (key === "escape") location.hash = "#/";
  else if (layers.shown && (key === "n" || key === "p")) step(key === "n" ? 1 : -1);
  else if (layers.shown && key === "s") sideBySide();
  else if (picked != null && "dku".includes(key)) decide({ d: "drop", k: "keep", u: "undo" }[key], layers.shown.placeOf(picked));
  else return false;
  return true;
}

export function startSlide() {
  $("whole").onclick = () => decide(open.slide.whole ? "undo" : "drop", null);
  $("opacity").oninput = () => open.panes.forEach(pane => pane.redraw());
  $("side").onclick = () => sideBySide();
  $("mask-add").onclick = trying(() => draw("add"));
  $("mask-subtract").onclick = trying(() => draw("subtract"));
  $("mask-undo").onclick = unstroke;
  $("mask-compute").onclick = () => stroke("compute", []);
}
