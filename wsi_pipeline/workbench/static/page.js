// What every part of the page uses: nodes, requests, words.

export const $ = id => document.getElementById(id);
export const say = text => { $("told").textContent = text; };

export async function ask(path, options) {
  const early = window.early?.path === path && !options ? window.early.answer : null; // see early.js
  if (early) window.early = null;
  const answer = await (early ?? fetch(path, options));
  const told = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw new Error(told.error || answer.statusText);
  return told;
}

export const send = (path, body) => ask(path, { method: "POST",
  headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// Runs what a person asked for; a refusal is said, not thrown.
export const trying = work => async (...given) => {
  try { return await work(...given); } catch (error) { say(error.message); return null; }
};

export function make(tag, attributes = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  node.append(...inside.filter(each => each != null));
  return node;
}

export const button = (words, onclick, more = {}) => make("button", { type: "button", onclick, ...more }, words);
export const address = (slide, kind = "slide") => `#/${kind}/${encodeURIComponent(slide)}`;
export const slidePath = id => `api/slides/${encodeURIComponent(id)}`;
export const number = value => (value == null ? "" : Math.abs(value) >= 1000 || Number.isInteger(value)
  ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3)));

export function choices(select, values, all) {
  const before = select.value;
  select.replaceChildren(...(all == null ? [] : [make("option", { value: "" }, all)]),
    ...values.map(value => make("option", { value }, value)));
  if (values.includes(before)) select.value = before;
}

export const facts = told => Object.entries(told).filter(([, value]) => value !== "" && value != null)
  .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]);
