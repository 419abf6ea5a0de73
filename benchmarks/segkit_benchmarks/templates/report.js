"use strict";
// Tables: a click, Enter or Space on a heading sorts by it; again, the other way. What has no value stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.querySelectorAll("thead tr:last-child th")];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    const figures = heading.dataset.figures === "1";
    const value = (row) => {
      const text = row.cells[column].dataset.value;
      return text === undefined ? null : figures ? Number(text) : text;
    };
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, at) => ({ row, at, value: value(row) }));
    rows.sort((one, other) => {
      if (one.value === null || other.value === null) {
        return (one.value === null) - (other.value === null) || one.at - other.at;
      }
      const order = figures ? one.value - other.value : one.value.localeCompare(other.value, "en", { numeric: true });
      return direction * order || one.at - other.at;
    });
    body.append(...rows.map((entry) => entry.row));
  }));
}
// On paper nothing can be opened.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open], .licences)")) { details.open = true; }
});
