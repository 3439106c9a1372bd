// A wall of tiles: those that a model attends to most, or mistakes most; each leads to its place.

import { $, ask, make, number, say } from "./page.js";

export async function showTiles(kind, model) {
  document.title = $("wall-name").textContent = `Most ${kind} tiles, ${model}`;
  $("wall-about").textContent = kind === "attended"
    ? "Weight beside an even share over the slide's tiles; at most three of a slide."
    : "Least probability of the slide's own class, of slides that the model was not trained on; at most three of a slide.";
  $("wall-list").replaceChildren();
  say("reading the predictions …");
  const told = await ask(`api/wall/${encodeURIComponent(model)}/${kind}`);
  $("wall-list").replaceChildren(...told.tiles.map(each => make("a", { href: `#/slide/${encodeURIComponent(each.slide)}?at=${each.x},${each.y}` },
    make("img", { src: `tiles/${encodeURIComponent(each.slide)}/at/${each.x}_${each.y}.jpg`, alt: "", loading: "lazy" }),
    make("span", {}, make("b", {}, each.slide), make("br"), each.words))));
  say(told.tiles.length ? `${number(told.tiles.length)} tiles of ${number(told.slides)} slides` : "there is no such tile: no slide has what is asked for");
}
