// What the page will ask first, asked before its scripts are here: a slide takes a moment to open.
{
  const slide = location.hash.match(/^#\/slide\/([^?/]+)/);
  const path = slide && `api/slides/${slide[1]}`;
  window.early = slide && { path, answer: fetch(path) };
  window.early?.answer.catch(() => {});
}
