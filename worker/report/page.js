"use strict";
// Makes the tables sortable: each heading becomes a button. Without scripts, the tables stay as they are.
const said = document.getElementById("said");
const collator = new Intl.Collator(undefined, { numeric: true });

function compare(first, second) {
  const [a, b] = [first.dataset.value, second.dataset.value];
  return first.dataset.number === undefined ? collator.compare(a, b) : Number(a) - Number(b);
}

function sort(table, heading) {
  const column = heading.cellIndex;
  const isNumber = heading.classList.contains("number");
  const first = isNumber ? "descending" : "ascending";
  const second = isNumber ? "ascending" : "descending";
  const order = heading.getAttribute("aria-sort") === first ? second : first;
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const body = table.tBodies[0];
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...body.rows].sort((a, b) => sign * compare(a.cells[column], b.cells[column]));
  body.append(...rows);
  said.textContent = `Sorted by ${heading.textContent}, ${order}.`;
}

for (const table of document.querySelectorAll("table")) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, heading));
  }
}
