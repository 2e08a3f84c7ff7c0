// Sliders over recorded points: a cursor in the drawing, and the values under it, the best first.
"use strict";

function follow(figure) {
  const slider = figure.querySelector("input[type=range]");
  const cursor = figure.querySelector(".cursor");
  const table = figure.querySelector("table");
  const shown = figure.querySelector("output");
  const places = slider.dataset.places.split(" ");
  const rows = [...table.tBodies[0].rows];

  function update() {
    const column = Number(slider.value) + 1;
    const setting = table.tHead.rows[0].cells[column].textContent;
    const found = rows.map((row) => [row.cells[0].textContent, Number(row.cells[column].textContent)]);
    found.sort((a, b) => b[1] - a[1]);
    cursor.setAttribute("transform", `translate(${places[column - 1]})`);
    cursor.setAttribute("visibility", "visible");
    slider.setAttribute("aria-valuetext", setting);
    shown.textContent = `${setting}: ` + found.map(([name, value]) => `${name} ${value.toFixed(1)}`).join(", ");
    for (const row of [...table.rows]) [...row.cells].forEach((cell, k) => cell.classList.toggle("chosen", k === column));
  }

  slider.closest("p").hidden = false;
  slider.addEventListener("input", update);
  update();
}

document.querySelectorAll("figure.explore").forEach(follow);
