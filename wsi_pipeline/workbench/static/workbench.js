// The workbench: where one is, and which keys do what.

import { $, ask, choices, say } from "./page.js";
import { showCohort, startCohort, state } from "./cohort.js";
import { closeSlide, showSlide, slideKey, startSlide, tellRow } from "./slide.js";
import { arrayKey, closeArray, showArray, startArray } from "./cores.js";
import { showTiles } from "./tiles.js";

const PARTS = ["cohort", "slide", "array", "tiles"];
let last = null;

function turnTo(part) {
  closeSlide();
  closeArray();
  for (const each of PARTS) $(each).hidden = each !== part;
  if (last && last !== part) $({ cohort: "find", slide: "name", array: "array-name", tiles: "wall-name" }[part]).focus({ preventScroll: true });
  last = part;
}

async function route() {
  const [, kind, rest] = location.hash.match(/^#\/(slide|array|wall)\/([^?]+)/) || [];
  const parts = (rest || "").split("/").map(decodeURIComponent), at = location.hash.match(/\?at=(-?\d+),(-?\d+)$/);
  try {
    if (kind === "slide") { turnTo("slide"); await showSlide(parts[0], at && [+at[1], +at[2]]); }
    else if (kind === "array") { turnTo("array"); await showArray(parts[0]); }
    else if (kind === "wall") { turnTo("tiles"); await showTiles(parts[0], parts[1]); }
    else { turnTo("cohort"); if (state.cohort) showCohort(); }
  } catch (error) { say(error.message); }
}

document.addEventListener("keydown", event => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && !/^(checkbox|range)$/.test(event.target.type);
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "enter" && /^(A|BUTTON|SUMMARY)$/.test(event.target.tagName)) return;
  if (slideKey(key, event) || arrayKey(key, event)) event.preventDefault();
  else if (key === "escape" && !$("tiles").hidden) location.hash = "#/";
});
window.addEventListener("hashchange", route);

function offer(told) {
  const some = key => [...new Set(told.slides.map(row => row[key]).filter(Boolean))].sort();
  choices($("label"), some("label"), "any");
  choices($("split"), some("split"), "any");
  choices($("model"), told.models.map(model => model.name), "the first");
}

say("reading the run folder …");
startSlide();
startArray();
const elsewhere = () => /^#\/(slide|array|wall)\//.test(location.hash);
const early = elsewhere() && route(); // it need not wait for the table
ask("api/cohort").then(async told => {
  startCohort(told, showCohort);
  offer(told);
  document.body.dataset.ready = "yes";
  if (told.alone) history.replaceState(null, "", `#/slide/${encodeURIComponent(told.slides[0].id)}`);
  if (early && elsewhere()) tellRow();
  else await route();
  await early;
  if (told.checked !== false) return;
  state.cohort = await ask("api/damage"); // every store is opened: damaged ones are told of
  if (!$("cohort").hidden) showCohort();
}).catch(error => say(error.message));
