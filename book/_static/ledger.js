// The ledger's table: filters, sorting, and panels that open when a link leads to them. Without it all rows are shown.
"use strict";

const FIRST = 15; // rows that are shown before anything is asked for

function ledgerTable(box) {
  const table = box.querySelector("table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const chosen = {};

  const controls = document.createElement("form");
  controls.className = "ledger-controls";
  controls.setAttribute("aria-label", "Filter the claims");
  controls.addEventListener("submit", (event) => event.preventDefault());
  const said = document.createElement("output");
  const more = Object.assign(document.createElement("button"), { type: "button", textContent: `Show all ${rows.length} claims` });
  let all = false;
  more.className = "ledger-more";
  more.addEventListener("click", () => {
    all = true;
    filter();
  });

  function labelled(name, field) {
    const label = document.createElement("label");
    label.append(name + " ", field);
    controls.append(label);
    return field;
  }

  function select(name, options, change) {
    const field = document.createElement("select");
    for (const [value, text] of options) field.add(new Option(text, value));
    field.addEventListener("change", () => change(field.value));
    return labelled(name, field);
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    let found = 0;
    const asked = words.length || [...controls.querySelectorAll("select:not([data-order])")].some((field) => field.value);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      const fits = Object.values(chosen).every((test) => test(row)) && words.every((word) => text.includes(word));
      found += fits;
      row.hidden = !fits || !(all || asked || found <= FIRST);
      shown += !row.hidden;
    }
    said.textContent = `${shown} of ${rows.length}`;
    more.hidden = all || asked || rows.length <= FIRST;
  }

  function choice(name, key) {
    const values = [...new Set(rows.map((row) => row.dataset[key]))];
    const options = [["", "all"], ...values.map((value) => [value, value])];
    select(name, options, (value) => {
      chosen[name] = (row) => !value || row.dataset[key] === value;
      filter();
    });
  }

  function order(column, direction) {
    const key = (row) => row.cells[column].dataset.order;
    const number = (text) => (text === "" ? Infinity : Number(text)); // what has no value comes last
    const numeric = rows.every((row) => !Number.isNaN(Number(key(row))));
    const sorted = [...rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (numeric) return number(x) === number(y) ? 0 : (x === "") - (y === "") || direction * (number(x) - number(y));
      return (x === "") - (y === "") || direction * x.localeCompare(y);
    });
    body.append(...sorted);
    filter();
    heads.forEach((head, k) => head.setAttribute("aria-sort", k !== column ? "none" : direction > 0 ? "ascending" : "descending"));
  }

  const search = labelled("search", Object.assign(document.createElement("input"), { type: "search" }));
  search.addEventListener("input", filter);
  choice("paper", "paper");
  choice("state", "state");
  choice("scale", "scale");
  choice("stand-in", "standIn");
  select("n", [["", "all"], ["few", "fewer than 3"], ["enough", "3 or more"]], (value) => {
    chosen.n = (row) => !value || Number(row.dataset.n) >= 3 === (value === "enough");
    filter();
  });

  const heads = [...table.tHead.rows[0].cells];
  const columns = heads.map((head, k) => [[`${k} 1`, head.textContent], [`${k} -1`, `${head.textContent}, descending`]]).flat();
  select("sort by", columns, (value) => order(...value.split(" ").map(Number))).dataset.order = "";
  heads.forEach((head, k) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent });
    button.addEventListener("click", () => order(k, head.getAttribute("aria-sort") === "ascending" ? -1 : 1));
    head.replaceChildren(button);
  });
  controls.append(said);
  box.prepend(controls);
  box.append(more);
  filter();
}

function openPanel() {
  const name = decodeURIComponent(location.hash.slice(1));
  const target = /^(ledger|index)-/.test(name) && document.getElementById(name); // index-: from the search
  const panel = target && (target.closest("details") || target.querySelector("details") || target.nextElementSibling);
  if (!panel || panel.tagName !== "DETAILS") return;
  for (let fold = panel; fold; fold = fold.parentElement.closest("details")) fold.open = true;
  panel.scrollIntoView({ behavior: "instant" });
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".ledger-claims").forEach(ledgerTable);
  openPanel();
});
window.addEventListener("load", openPanel); // once more when everything has its size
window.addEventListener("hashchange", openPanel);
