"use strict";
{
// Tables that can be sorted by a click on a head; without this script they stay in the order in which they came.
const sortable = (table) => {
  const body = table.tBodies[0], first = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.value ?? null;
  const sort = (column, kind, falling) => {
    const compare = (a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      if (x === null || y === null) return (x === null) - (y === null);
      const order = kind === "text" ? x.localeCompare(y, "en") : Number(x) - Number(y);
      return falling ? -order : order;
    };
    body.append(...[...first].sort(compare));
    // Bars join rows that stand in the order of their means; in another order letters say the same.
    table.classList.toggle("unordered", first.some((row, at) => body.rows[at] !== row));
  };
  heads.forEach((head, column) => {
    const kind = head.dataset.sort;
    if (!kind) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const again = head.getAttribute("aria-sort");
      const falling = again ? again === "ascending" : kind === "falling";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      sort(column, kind, falling);
    });
  });
};
for (const table of document.querySelectorAll("table.sortable")) sortable(table);
}
