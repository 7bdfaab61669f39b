// Tables sort by a click, or Enter, on a header; a second click turns the order over. Nothing else runs in this page.
for (const table of document.querySelectorAll("main table")) {
  const body = table.tBodies[0];
  const heads = table.tHead ? [...table.tHead.rows[table.tHead.rows.length - 1].cells] : [];
  if (!body || body.rows.length < 3 || heads.some((head) => head.colSpan > 1) || body.querySelector("[rowspan]")) continue;
  const number = (text) => {
    const plain = text.replace(/[,%\s]/g, "").replace("\u2212", "-");
    return plain !== "" && Number.isFinite(Number(plain)) ? Number(plain) : null;
  };
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (x !== null && y !== null) return x - y;
    if (x !== null || y !== null) return x === null ? 1 : -1;
    return a.localeCompare(b);
  };
  heads.forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => (row.cells[column] ? row.cells[column].textContent.trim() : "");
      const rows = [...body.rows].sort((a, b) => (down ? -1 : 1) * compare(text(a), text(b)));
      body.append(...rows);
    };
    head.tabIndex = 0;
    head.classList.add("sorts");
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        sort();
      }
    });
  });
}
