// Tables that are wider than the page become lists of their rows, each value with its column's name. Previews of terms
// stay inside of the window. Folds of claims open in print.
"use strict";

const TABLES = ".bd-article table";

function nameValues(table) {
  const heads = [...(table.tHead ? table.tHead.rows[table.tHead.rows.length - 1].cells : [])].map((cell) => cell.textContent.trim());
  for (const row of table.tBodies.length ? [...table.tBodies].flatMap((body) => [...body.rows]) : []) {
    [...row.cells].forEach((cell, k) => {
      if (cell.colSpan === 1 && heads[k] && !cell.dataset.head) cell.dataset.head = heads[k];
    });
  }
}

function stack(table) {
  table.classList.remove("stacked");
  const boxes = [table, table.closest(".pst-scrollable-table-container, .claim-scales")];
  if (!boxes.some((box) => box && box.clientWidth && box.scrollWidth > box.clientWidth + 1)) return;
  nameValues(table);
  table.classList.add("stacked");
}

function stackAll() {
  document.querySelectorAll(TABLES).forEach((table) => table.classList.contains("ledger-table") || stack(table));
}

let waiting;
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(stackAll, 100);
});
document.addEventListener("DOMContentLoaded", stackAll);
document.addEventListener("toggle", stackAll, true); // what was folded had no width before

// A preview near the right edge opens to the left.
function turn(event) {
  const preview = event.target.closest && event.target.closest(".preview");
  if (preview) preview.classList.toggle("leftwards", preview.getBoundingClientRect().left > window.innerWidth / 2);
}
document.addEventListener("mouseover", turn);
document.addEventListener("focusin", turn);

let folded = [];
window.addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll(".bd-article details.claim:not([open])")];
  folded.forEach((fold) => (fold.open = true));
});
window.addEventListener("afterprint", () => folded.forEach((fold) => (fold.open = false)));
