// What a page lacks for those who hear it, or see little: run in the page by the tests.

var named = node => node.getAttribute("aria-label") || node.labels?.length || node.textContent.trim()
  || document.getElementById(node.getAttribute("aria-labelledby"))?.textContent;

// Controls without a name.
var unnamed = () => [...document.querySelectorAll("button, a, input, select, summary, [role=application]")]
  .filter(node => node.checkVisibility() && !named(node) && !node.closest(".openseadragon-container"))
  .map(node => node.outerHTML);

var numbers = text => (text.match(/[\d.]+/g) || []).map(Number);
var linear = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
var light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
var behind = node => {
  for (; node; node = node.parentElement) {
    const found = numbers(getComputedStyle(node).backgroundColor);
    if (found.length === 3 || found[3] > 0.9) return found;
  }
  return [255, 255, 255];
};

// Text that stands out less than 4.5 to 1, WCAG 2's level AA.
var faint = () => [...document.querySelectorAll("main *, header *")]
  .filter(node => node.checkVisibility() && !node.disabled && !node.closest(".viewer")
    && [...node.childNodes].some(each => each.nodeType === 3 && each.textContent.trim()))
  .map(node => {
    const [a, b] = [numbers(getComputedStyle(node).color), behind(node)].map(light);
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.outerHTML.slice(0, 90)];
  })
  .filter(([ratio]) => ratio < 4.5);
