"use strict";
(() => {
  const table = JSON.parse(document.getElementById("table").textContent);
  const DECISION = table.columns.indexOf("decision");
  const X = table.columns.indexOf("x");
  const before = table.rows.map((row) => row[DECISION]);
  const one = (query) => document.querySelector(query);

  const show = () => {
    for (const button of document.querySelectorAll("[data-row]")) {
      const choice = table.rows[button.dataset.row][DECISION];
      button.setAttribute("aria-pressed", String(choice === "drop"));
      button.querySelector("span").textContent = choice;
    }
    const dropped = table.rows.filter((row) => row[DECISION] === "drop");
    one("[data-dropped-tiles]").textContent = dropped.filter((row) => row[X] !== "").length;
    one("[data-dropped-slides]").textContent = dropped.filter((row) => row[X] === "").length;
    const changed = table.rows.filter((row, i) => row[DECISION] !== before[i]).length;
    one("[data-changed]").textContent = changed ? `· ${changed} changed, not yet saved` : "";
  };

  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const csv = () => [table.columns, ...table.rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.row !== undefined) {
      const row = table.rows[button.dataset.row];
      row[DECISION] = row[DECISION] === "drop" ? "keep" : "drop";
    } else if (button.dataset.all) {
      for (const row of button.dataset.rows.split(" ")) table.rows[row][DECISION] = button.dataset.all;
    } else if (button.dataset.download !== undefined) {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
      link.download = "decisions.csv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }
    show();
  });
  document.documentElement.dataset.ready = "true";
  show();
})();
