"use strict";
// The number at the start of a text, or null: "0.31 [0.2, 0.4]" → 0.31.
function leadingNumber(text) {
  const value = parseFloat(text);
  return Number.isNaN(value) ? null : value;
}
// Rising order of numbers or texts; what is missing comes last, whichever way is sorted.
function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  return direction * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
}
// The next direction of a clicked header: numbers fall first, a second click turns them.
function turn(header) {
  const rising = header.getAttribute("aria-sort") === "descending";
  for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  return rising ? 1 : -1;
}
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.addEventListener("click", () => {
    const direction = turn(header);
    const key = row => row.cells[column].textContent.trim();
    const rows = [...table.tBodies[0].rows];
    const numeric = rows.some(row => leadingNumber(key(row)) !== null);
    const value = row => numeric ? leadingNumber(key(row)) : key(row);
    table.tBodies[0].append(...rows.sort((a, b) => compare(value(a), value(b), direction)));
  }));
}
