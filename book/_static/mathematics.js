// Draws the mathematics of a page with KaTeX. Displayed equations break at their relations where the page is narrow,
// and those that cannot be broken are set smaller.
"use strict";

const MACROS = { "\\E": "\\mathbb{E}", "\\KL": "\\mathrm{KL}" };
const SMALLEST = 0.4;

function draw(element) {
  const displayMode = element.tagName === "DIV";
  katex.render(element.textContent, element, { displayMode, macros: MACROS, throwOnError: false, strict: "ignore" });
}

function fit(element) {
  element.style.fontSize = "";
  const ratio = element.clientWidth / element.scrollWidth;
  if (ratio < 1) element.style.fontSize = `${Math.max(SMALLEST, 0.98 * ratio)}em`;
}

function fitAll() {
  document.querySelectorAll("div.math").forEach(fit);
}

document.querySelectorAll(".math").forEach(draw);
document.fonts.ready.then(fitAll);
window.addEventListener("resize", fitAll);
window.addEventListener("beforeprint", fitAll);
document.addEventListener("toggle", fitAll, true); // what was folded has no width before
