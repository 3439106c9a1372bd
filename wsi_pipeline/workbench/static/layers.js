// The layers of a slide: which are shown, how strongly, and what is fetched when one is first asked for.

import { $, ask, button, choices, make, number, say, slidePath } from "./page.js";

const ROWS = [
  ["grid", "kept tiles", "#5b4bb7", 0.55, true], ["flags", "flags", "#ff8c00", 0.55, true], ["tissue", "tissue outline", "#0a8f3c", 1, false],
  ["out", "pieces left out", "#c03bb5", 0.9, false], ["rejected", "tiles not kept, by reason", "#777", 0.5, false], ["annotations", "annotations", "#c97a00", 1, false]];
const REASONS = ["#7d6b5d", "#1686a8", "#b3261e"];

export class Layers {
  constructor(slide, redraw) {
    Object.assign(this, { slide, redraw, shown: null, extra: {} });
    this.box = make("div", {}, ...ROWS.map(([key, words, colour, strength, on]) => make("div", { class: "layer" },
      make("label", { class: "switch" }, make("input", { type: "checkbox", id: `show-${key}`, checked: on, onchange: () => this.asked(key) }),
        make("span", { class: "swatch", style: `background: ${colour}` }), words),
      make("input", { type: "range", id: `opacity-${key}`, min: 0, max: 1, step: 0.05, value: strength,
        "aria-label": `opacity of ${words}`, oninput: redraw }), make("div", { id: `more-${key}`, class: "more" }))));
  }

  on(key) { return $(`show-${key}`)?.checked; }
  strength(key) { return +($(`opacity-${key}`)?.value ?? 1); }

  async asked(key) {
    const fetched = { tissue: "mask", rejected: "rejected", annotations: "annotations" }[key];
    if (fetched && this.on(key) && !this.extra[key]) {
      say("looking at the slide …");
      try {
        this.take(key, await ask(`${slidePath(this.slide.id)}/${fetched}`));
        say("");
      } catch (error) { $(`show-${key}`).checked = false; say(error.message); }
    }
    this.redraw();
  }

  take(key, told) {
    this.extra[key] = told;
    if (key === "rejected") {
      if (told.why) { $("show-rejected").checked = false; say(told.why); }
      const reasons = told.reasons || [];
      $("more-rejected").replaceChildren(...reasons.map((each, i) => make("label", {},
        make("input", { type: "checkbox", checked: true, id: `reason-${i}`, onchange: this.redraw }),
        make("span", { class: "swatch", style: `background: ${REASONS[i % 3]}` }), `${each.reason}, ${number(each.corners.length / 2)}`)),
        told.glass == null ? "" : make("p", { class: "note" }, `${number(told.glass)} places with no tissue at all are not drawn`));
    }
    if (key === "annotations" && !told.length) say("no regions are drawn on this slide");
  }

  flagChoices() {
    $("more-flags").replaceChildren(...(this.shown?.flags || []).map(flag => make("label", {},
      make("input", { type: "checkbox", id: `flag-${flag.name}`, checked: true, onchange: this.redraw }),
      make("span", { class: "swatch", style: `background: rgb(${flag.colour.join(" ")})` }), make("span", { id: `flag-${flag.name}-words` }))));
    this.countDropped();
  }

  // Rows with a flag that is switched on, in order: what one steps through.
  flagged() {
    const on = this.shown.flags.filter(flag => $(`flag-${flag.name}`)?.checked ?? true);
    return [...new Set(on.flatMap(flag => flag.rows))].sort((a, b) => a - b);
  }

  countDropped() {
    for (const { name, label, rows } of this.shown.flags) {
      const dropped = rows.filter(row => this.shown.dropped.has(row)).length;
      const words = $(`flag-${name}-words`);
      if (words) words.textContent = `${label}, ${number(rows.length)}${dropped ? `, ${number(dropped)} dropped` : ""}`;
    }
  }

  draw(paper, colour) {
    const { shown, slide } = this;
    if (shown && colour) shown.paint(paper, colour, +$("opacity").value);
    if (shown && this.on("flags")) for (const flag of shown.flags)
      if ($(`flag-${flag.name}`)?.checked) paper.fill(shown, flag.rows, `rgb(${flag.colour.join(" ")})`, this.strength("flags"));
    if (shown && this.on("rejected")) (this.extra.rejected?.reasons || []).forEach((each, i) => {
      if ($(`reason-${i}`)?.checked) paper.fill({ ...edges(shown), corners: each.corners }, each.all ??= count(each.corners), REASONS[i % 3], this.strength("rejected"));
    });
    if (shown && this.on("grid")) paper.stroke(shown, shown.all, "rgb(91 75 183)", this.strength("grid"));
    if (shown?.dropped.size) {
      paper.fill(shown, [...shown.dropped], "rgb(163 22 47)", 0.35);
      paper.stroke(shown, [...shown.dropped], "rgb(163 22 47)", 1);
    }
    if (shown && this.on("out")) for (const { box_level0: [x0, y0, x1, y1] } of shown.left_out)
      paper.outline([[x0, y0, x1, y0, x1, y1, x0, y1]], "#c03bb5", this.strength("out"));
    if (this.on("tissue") && this.extra.tissue) paper.outline(this.extra.tissue.outline, "#0a8f3c", this.strength("tissue"));
    if (this.on("annotations")) for (const each of this.extra.annotations || [])
      paper.outline(each.outline, `rgb(${each.colour.join(" ")})`, this.strength("annotations"), { filled: true });
    if (shown && slide.picked != null) paper.stroke(shown, [slide.picked], "#c93d74", 1, 3);
  }
}

const edges = ({ ux, uy, vx, vy }) => ({ ux, uy, vx, vy });
const count = corners => Array.from({ length: corners.length / 2 }, (_, row) => row);

// A choice of what colours the tiles; the values come when one is chosen.
export class Colour {
  constructor(slide, layers, redraw, label) {
    Object.assign(this, { slide, layers, redraw, chosen: null });
    this.select = make("select", { "aria-label": label, onchange: () => this.choose() });
    this.key = make("div", { class: "key", "aria-hidden": "true" });
  }

  offer(names, trained) {
    choices(this.select, [...names, ...trained.map(model => `novelty by ${model}`)], "none");
  }

  async choose() {
    const name = this.select.value, shown = this.layers.shown;
    const novel = name.match(/^novelty by (.+)$/);
    if (!name) this.chosen = null;
    else try {
      shown.values[name] ??= await ask(novel ? `${slidePath(this.slide.id)}/layers/novelty/${encodeURIComponent(novel[1])}`
        : `${slidePath(this.slide.id)}/layers?name=${encodeURIComponent(name)}`);
      if (this.select.value === name) this.chosen = shown.values[name];
    } catch (error) { this.select.value = ""; this.chosen = null; say(error.message); }
    this.key.replaceChildren(...(this.chosen ? [make("span", {}, number(this.chosen.low)), make("span", {}, number(this.chosen.high))] : []));
    this.redraw();
  }
}
