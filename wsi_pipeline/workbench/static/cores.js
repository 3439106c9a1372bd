// A microarray: its cores on the slide and in a list; each change stands in the run's table at once.

import { $, ask, button, make, number, say, send, trying } from "./page.js";
import { Pane } from "./pane.js";

const COLOURS = { "": "#1b5fc1", control: "#7b3fb8", doubtful: "#b35900", lost: "#b35900", unmapped: "#5f5f5f", missing: "#b3261e", outside: "#b3261e" };
const GRID = [
  ["rows up", { shift_rows: -1 }], ["rows down", { shift_rows: 1 }], ["columns left", { shift_columns: -1 }], ["columns right", { shift_columns: 1 }],
  ["turn by 90°", { turn: 90 }], ["turn by 180°", { turn: 180 }], ["mirror", { mirror: true }]];
const LINES = [["add row", "add_row"], ["add column", "add_column"], ["remove row", "remove_row"], ["remove column", "remove_column"]];

let open = null;
let turns = 0; // how often one went elsewhere: what is answered late is not shown
const path = () => `api/arrays/${encodeURIComponent(open.told.id)}`;
const keyOf = core => core.id || (core.box ? `${core.box[0]},${core.box[1]}` : "");
const middle = core => core.box ? [core.box[0] + core.box[2] / 2, core.box[1] + core.box[3] / 2] : core.about;
const picked = () => open.told.cores.find(core => keyOf(core) === open.picked) || null;
const name = core => core.place || "no name";

export async function showArray(id) {
  const turn = turns, told = await ask(`api/arrays/${encodeURIComponent(id)}`);
  if (turn !== turns) return;
  const here = open = { told, picked: null, pane: null, moved: null, adding: false, carrying: false };
  document.title = id;
  $("array-name").textContent = id;
  $("array-missing").hidden = !told.missing;
  $("array-missing").textContent = told.missing ? `The cores can be read, not corrected: ${told.missing}` : "";
  if (!told.missing) {
    here.pane = new Pane($("array-viewer"), { slide: told, path: `arrays/${encodeURIComponent(id)}`, draw, navigator: false });
    here.pane.spot = { press, drag, drop, click };
    window.workbench = { pane: here.pane, array: here };
  }
  show(told);
}

export function closeArray() {
  turns += 1;
  open?.pane?.close();
  for (const part of ["core-list", "core", "array-state"]) $(part).replaceChildren();
  open = null;
}

function show(told, words) {
  Object.assign(open.told, told);
  const { cores, doubts, accepted, orientation, undo } = open.told;
  const used = cores.filter(core => core.box && !core.status).length;
  $("array-state").replaceChildren(make("p", {}, `${used} cores are used, ${cores.filter(core => core.id && !core.box).length} places have none, `
    + `${cores.filter(core => core.status === "unmapped").length} spots have no name${orientation ? `; the map lies ${orientation}` : ""}`),
    ...(doubts.length ? [make("p", { class: "bad" }, `In doubt, and not used before somebody accepts: ${doubts.join("; ")}`)] : []),
    ...(accepted ? [make("p", { class: "note" }, `accepted ${accepted.slice(0, 16).replace("T", " ")}`)] : []));
  $("array-undo").disabled = !undo;
  $("array-undo").textContent = undo ? `Undo: ${undo}` : "Undo";
  $("core-list").replaceChildren(make("table", {}, make("caption", {}, "Cores of the table"),
    make("thead", {}, make("tr", {}, ...["Place", "Core", "Patient", "Label", "State"].map(words => make("th", { scope: "col" }, words)))),
    make("tbody", {}, ...cores.map(core => make("tr", { "aria-selected": keyOf(core) === open.picked },
      make("th", { scope: "row" }, button(name(core), () => choose(core, true), { "aria-pressed": keyOf(core) === open.picked })),
      ...[core.id, core.patient, core.label, [core.status, core.control && "control"].filter(Boolean).join(", ")].map(words => make("td", {}, words || "")))))));
  showCore();
  say(words || `${used} cores`);
  open.pane?.redraw();
}

function showCore() {
  const core = picked();
  if (!core) { $("core").replaceChildren(make("p", { class: "note" }, "Click a core, or choose one in the list.")); return; }
  const field = make("input", { id: "core-name", value: core.place, "aria-label": "place that this spot belongs to", autocomplete: "off", size: 8 });
  const form = make("form", { onsubmit: event => { event.preventDefault(); edit("name", { name: field.value }, field.value || core.id); } }, field, make("button", {}, "Rename"));
  $("core").replaceChildren(make("h2", {}, name(core)),
    make("p", { class: "note" }, [core.id, core.patient, core.label, core.status, core.tissue != null && `tissue ${number(core.tissue)}`, core.certainty != null && `certainty ${number(core.certainty)}`].filter(Boolean).join(" · ")),
    core.box ? form : make("p", { class: "note" }, "It has no spot: drag the dashed circle to its place, or press P to put it where it is drawn."),
    make("p", {}, ...(core.box ? [button(core.id ? "Mark missing" : "Delete", () => edit("remove")),
      ...(core.id ? [core.status ? button("Use it", () => edit("use")) : button("Set aside", () => edit("set-aside")),
        button(core.control ? "No control" : "A control", () => edit("control"))] : [])]
      : core.about ? [button("Put it here", () => edit("move", at(core)))] : [])));
}

const at = core => { const [x, y] = middle(core); return { x, y }; };

function choose(core, go) {
  open.picked = core && keyOf(core);
  for (const row of $("core-list").querySelectorAll("tbody tr")) {
    const on = core != null && open.told.cores[row.sectionRowIndex] === core;
    row.setAttribute("aria-selected", on);
    row.querySelector("button").setAttribute("aria-pressed", on);
  }
  showCore();
  if (core && go && open.pane?.ready && middle(core)) {
    const [x, y] = middle(core), side = 6 * usual();
    open.pane.go(x - side / 2, y - side / 2, side, side);
  }
  open.pane?.redraw();
}

const usual = () => { const sides = open.told.cores.filter(core => core.box).map(core => core.box[2]).sort((a, b) => a - b); return sides[sides.length >> 1] || 1000; };

const edit = trying(async (deed, more = {}, next) => {
  const core = picked(), here = open;
  const sent = { do: deed, table: open.told.table, ...more };
  if (core && !["grid", "add", "accept"].includes(deed)) Object.assign(sent, core.id ? { core: core.id } : { at: core.box.slice(0, 2) });
  try {
    const told = await send(path(), sent);
    if (open !== here) return;
    const found = next && told.cores.find(each => [each.id, each.place].some(words => words.toLowerCase() === next.toLowerCase()));
    if (found) open.picked = keyOf(found);
    else if (core && !core.id) open.picked = null;
    show(told, `${deed}: written to cores/${here.told.id}.csv`);
  } catch (error) {
    if (open === here) show(await ask(path()));
    throw error;
  }
});

// ---- on the slide

function hit(x, y) {
  const { cores, margin } = open.told, radius = usual() / margin / 2;
  let best = null, least = radius;
  for (const core of cores) {
    const place = middle(core);
    if (!place) continue;
    const apart = Math.hypot(x - place[0], y - place[1]);
    if (apart < least) { best = core; least = apart; }
  }
  return best;
}

function press(x, y) {
  const core = open.adding ? null : hit(x, y);
  open.carrying = !!core;
  if (core) { choose(core); const place = middle(core); open.grip = [x - place[0], y - place[1]]; }
  return false;
}
function drag(x, y) {
  if (!open.carrying) return false;
  open.moved = [x - open.grip[0], y - open.grip[1]];
  open.pane.redraw();
  return true;
}
function drop() {
  const moved = open.moved, carried = open.carrying;
  Object.assign(open, { moved: null, carrying: false });
  if (moved) edit("move", { x: moved[0], y: moved[1] });
  return carried;
}
function click(x, y, event) {
  if (!event.quick) return false;
  if (open.adding) { open.adding = false; $("core-add").setAttribute("aria-pressed", "false"); edit("add", { x, y }); }
  else choose(hit(x, y));
  return true;
}

function draw(paper) {
  if (!open) return;
  const { cores, margin } = open.told, plain = usual() / margin / 2;
  for (const core of cores) {
    const on = keyOf(core) === open.picked, place = on && open.moved ? open.moved : middle(core);
    if (!place) continue;
    const colour = COLOURS[core.control && !core.status ? "control" : core.status] || COLOURS[""];
    const radius = core.box ? core.box[2] / margin / 2 : plain;
    paper.circle(...place, radius, on ? "#c93d74" : colour, { width: on ? 4 : 2, dashed: !core.box, words: core.place || "?" });
  }
}

function nudge(dx, dy) {
  const core = picked();
  if (!core?.box) return false;
  const [x, y] = middle(core), step = usual() / 40;
  edit("move", { x: x + dx * step, y: y + dy * step });
  return true;
}

export function arrayKey(key, event) {
  if (!open) return false;
  const ways = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] }, core = picked();
  const index = open.told.cores.indexOf(core);
  if (key === "escape") location.hash = "#/";
  else if (key === "u" && !$("array-undo").disabled) undo();
  else if (open.pane && ways[key] && event.shiftKey) return nudge(...ways[key]);
  else if (key === "n" || key === "p" && core?.box) choose(open.told.cores.at((index + (key === "n" ? 1 : -1)) % open.told.cores.length), true);
  else if (key === "p" && core?.about) edit("move", at(core));
  else if (key === "m" && core?.box) edit("remove");
  else return false;
  return true;
}

const undo = trying(async () => show(await send(`${path()}/undo`, {}), "the table is as it was before"));

export function startArray() {
  $("array-undo").onclick = undo;
  $("array-accept").onclick = () => edit("accept");
  $("core-add").onclick = () => {
    open.adding = !open.adding;
    $("core-add").setAttribute("aria-pressed", open.adding);
    if (open.adding) say("click where the core lies");
  };
  $("grid-tools").replaceChildren(...GRID.map(([words, asked]) => button(words, () => edit("grid", asked))));
  const line = make("input", { type: "number", id: "grid-line", min: 1, value: 1, "aria-label": "number of the row or column" });
  $("line-tools").replaceChildren(line, ...LINES.map(([words, key]) => button(words, () => edit("grid", { [key]: +line.value }))));
  $("array-map").onchange = trying(async event => {
    const file = event.target.files[0], here = open;
    event.target.value = "";
    if (!file) return;
    say(`finding the cores, and laying ${file.name} on them …`);
    const told = await send(`${path()}/map`, { name: file.name, text: await file.text() });
    if (open === here) show(told, `joined ${file.name}: written to cores/${here.told.id}.csv`);
  });
}
