"use strict";
{
const data = JSON.parse(document.getElementById("curves-data").textContent);
const written = (value) => value.toFixed(3).replace("-", "−");
const start = (chart) => {
  const values = data.charts[chart.dataset.chart], board = chart.closest(".board"), pointer = chart.querySelector(".pointer");
  const rows = [...board.querySelectorAll("tr[data-line]")], reads = [...board.querySelectorAll(".read")];
  const most = Math.max(1, ...values.map((line) => line.length - 1));
  let at = null;
  const at_share = (line, share) => {
    const place = share * (line.length - 1), low = Math.floor(place), high = Math.min(low + 1, line.length - 1);
    return line[low] + (line[high] - line[low]) * (place - low);
  };
  const show = (share) => {
    at = share;
    const there = share !== null;
    pointer.setAttribute("visibility", there ? "visible" : "hidden");
    board.querySelector(".position").textContent = there ? `: ${Number(share.toFixed(3))}` : "";
    for (const read of reads) read.hidden = !there;
    if (!there) return;
    pointer.setAttribute("x1", `${100 * share}%`);
    pointer.setAttribute("x2", `${100 * share}%`);
    rows.forEach((row, index) => { row.querySelector(".read").textContent = values[index].length ? written(at_share(values[index], share)) : "–"; });
  };
  const point = (event) => {
    const { left, width } = chart.querySelector(".plot").getBoundingClientRect();
    show(Math.round(Math.min(1, Math.max(0, (event.clientX - left) / width)) * most) / most);
  };
  chart.addEventListener("pointermove", point);
  chart.addEventListener("pointerdown", point);
  chart.addEventListener("pointerleave", () => { if (document.activeElement !== chart) show(null); });
  chart.addEventListener("focus", () => { if (at === null) show(0.5); });
  chart.addEventListener("blur", () => show(null));
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -most, End: most }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    show(Math.min(1, Math.max(0, (Math.round((at ?? 0) * most) + step) / most)));
  });
  rows.forEach((row, index) => {
    const line = chart.querySelector(`g[data-line="${index}"]`);
    row.addEventListener("pointerenter", () => { chart.classList.add("dimmed"); line?.classList.add("bright"); });
    row.addEventListener("pointerleave", () => { chart.classList.remove("dimmed"); line?.classList.remove("bright"); });
  });
};
for (const chart of document.querySelectorAll(".chart[data-chart]")) start(chart);
}
