// The cohort: a table or a wall of thumbnails, filtered; the confusion matrix leads to its slides.

import { $, address, button, make, number, say } from "./page.js";

export const state = { cohort: null, sort: ["id", 1], wall: false, cell: null };

const COLUMNS = [
  ["id", "Slide"], ["patient", "Patient"], ["label", "Label"], ["split", "Split"],
  ["said", "Prediction"], ["sure", "Confidence", true], ["tiles", "Tiles", true], ["stain", "Stain"], ["flags", "Flags"]];

export function said(row) {
  const model = $("model").value;
  const found = (row.predictions || []).find(each => !model || each.bundle === model);
  return found ? { ...row, said: found.said, sure: found.probabilities[found.said] } : { ...row, said: null, sure: null };
}
const truth = row => row.truth || row.label;
const wrong = row => row.said && truth(row) && row.said !== truth(row);

function chosen() {
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = $("kind").value;
  return state.cohort.slides.map(said).filter(row =>
    (!$("label").value || row.label === $("label").value)
    && (!$("split").value || row.split === $("split").value)
    && (!kind || (kind === "wrong" ? wrong(row) : kind === "failed" ? row.failure : (row.flags || []).length))
    && (!state.cell || (truth(row) === state.cell[0] && row.said === state.cell[1]))
    && words.every(word => [row.id, row.patient, row.label, row.split, row.said, row.failure, ...(row.flags || [])]
      .join(" ").toLowerCase().includes(word)));
}

export function showCohort() {
  document.title = $("title").textContent = state.cohort.title || "Workbench";
  const [key, way] = state.sort;
  const rows = chosen().sort((a, b) => way * (typeof a[key] === "number" || typeof b[key] === "number"
    ? (a[key] ?? -Infinity) - (b[key] ?? -Infinity) : String(a[key] ?? "").localeCompare(String(b[key] ?? ""), "en", { numeric: true })));
  const checking = state.cohort.checked === false ? "; tile stores are being checked …" : "";
  say(`${rows.length} of ${state.cohort.slides.length} slides${checking}`);
  showArrays();
  showConfusion();
  $("list").replaceChildren(state.wall ? wall(rows) : table(rows));
  $("as-wall").setAttribute("aria-pressed", state.wall);
  $("as-table").setAttribute("aria-pressed", !state.wall);
}

const words = flag => flag.replaceAll("_", " ");
const filled = ([key]) => ["id", "label", "tiles", "flags"].includes(key)
  || state.cohort.slides.map(said).some(row => row[key] != null && row[key] !== "");

function table(rows) {
  const columns = COLUMNS.filter(filled); // a column that no slide fills is left out
  const head = columns.map(([key, words, right]) => make("th", { scope: "col", class: right ? "number" : "",
    "aria-sort": state.sort[0] === key ? (state.sort[1] > 0 ? "ascending" : "descending") : "none" },
    button(words, () => { state.sort = [key, state.sort[0] === key ? -state.sort[1] : 1]; showCohort(); })));
  const cells = {
    id: row => make("th", { scope: "row" }, make("a", { href: address(row.id) }, row.id)),
    said: row => make("td", {}, row.said ?? "", wrong(row) ? make("span", { class: "mark", title: `the label says ${truth(row)}` }, " ✗ wrong") : null),
    sure: row => make("td", { class: "number" }, row.sure == null ? "" : row.sure.toFixed(2)),
    tiles: row => make("td", { class: "number" }, number(row.tiles)),
    flags: row => make("td", {}, ...(row.failure ? [row.failure] : (row.flags || []).map(flag => make("span", { class: "chip" }, words(flag))))) };
  const body = rows.map(row => {
    const lost = row.failure && !row.tiles && !row.said; // its sentence takes the place of what is not there
    const shown = lost ? columns.filter(([key]) => ["id", "patient", "label", "split"].includes(key)) : columns;
    return make("tr", { class: row.failure ? "bad" : wrong(row) ? "wrong" : "" },
      ...shown.map(([key]) => cells[key] ? cells[key](row) : make("td", {}, row[key] ?? "")),
      lost ? make("td", { colspan: columns.length - shown.length }, row.failure) : null);
  });
  if (!rows.length) return make("p", { class: "none" }, "No slide is like that. ", button("Show all", () => {
    for (const id of ["find", "label", "split", "kind"]) $(id).value = "";
    state.cell = null;
    showCohort();
    $("find").focus();
  }));
  return make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

const blank = () => make("span", { class: "blank" }, "no picture");

function wall(rows) {
  if (!rows.length) return table(rows);
  return make("div", { class: "wall" }, ...rows.map(row =>
    make("a", { href: address(row.id), class: wrong(row) ? "wrong" : "" },
      row.tiles || !row.failure ? make("img", { src: `thumbnails/${encodeURIComponent(row.id)}.jpg`, alt: "", loading: "lazy", onerror: event => event.target.replaceWith(blank()) }) : blank(),
      make("span", { class: row.failure ? "clamp bad" : "", title: row.failure }, make("b", {}, row.id), make("br"), row.failure
        || [row.label, row.said && `→ ${row.said} ${row.sure.toFixed(2)}`, wrong(row) && "✗ wrong"].filter(Boolean).join(" ")))));
}

function showArrays() {
  const arrays = state.cohort.arrays || [], walls = state.cohort.predicted || [];
  $("more").replaceChildren(
    ...arrays.map(each => make("a", { class: each.unsure || each.failure ? "card bad" : "card", href: address(each.id, "array") },
      make("b", {}, each.id), each.failure || ` microarray, ${each.cores} cores${each.unsure ? ", in doubt: look" : ""}`)),
    ...walls.flatMap(model => ["attended", "mistaken"].map(kind => make("a", { class: "card",
      href: `#/wall/${kind}/${encodeURIComponent(model)}` }, make("b", {}, `most ${kind} tiles`), ` ${model}`))));
}

function showConfusion() {
  const rows = state.cohort.slides.map(said).filter(row => row.said && truth(row)
    && (!$("split").value || row.split === $("split").value));
  const names = [...new Set(rows.flatMap(row => [truth(row), row.said]))].sort();
  const cell = (right, found) => {
    const count = rows.filter(row => truth(row) === right && row.said === found).length;
    const on = state.cell && state.cell[0] === right && state.cell[1] === found;
    return make("td", { class: right === found ? "right" : "" }, button(String(count),
      () => { state.cell = on ? null : [right, found]; showCohort(); },
      { "aria-pressed": String(!!on), "aria-label": `${count} slides of ${right} predicted ${found}` }));
  };
  $("confusion").replaceChildren(names.length < 2 ? "" : make("table", {},
    make("caption", {}, "True class by row, prediction by column; a cell shows its slides"),
    make("thead", {}, make("tr", {}, make("td"), ...names.map(name => make("th", { scope: "col", class: "number" }, name)))),
    make("tbody", {}, ...names.map(right => make("tr", {}, make("th", { scope: "row" }, right), ...names.map(found => cell(right, found)))))));
}

export function startCohort(cohort, changed) {
  state.cohort = cohort;
  for (const id of ["find", "label", "split", "kind", "model"])
    $(id).addEventListener("input", () => { state.cell = null; changed(); });
  $("filters").addEventListener("submit", event => event.preventDefault());
  $("as-table").onclick = () => { state.wall = false; changed(); };
  $("as-wall").onclick = () => { state.wall = true; changed(); };
}
