// What the page does in the browser: times in the reader's zone, the map, live parts, the keys of the review.

const two = (value) => String(value).padStart(2, "0");

function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (time.dataset.local || Number.isNaN(at.getTime())) continue;
    const zone = new Intl.DateTimeFormat(undefined, { timeZoneName: "short" }).formatToParts(at).find((part) => part.type === "timeZoneName");
    time.title = `${time.textContent} (your zone is ${zone ? zone.value : "unknown"})`;
    time.textContent = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
    time.dataset.local = "yes";
  }
}

// The map: one square a partition, drawn as few paths; which one is under the pointer is told by its place.
function map(element) {
  const cells = JSON.parse(element.querySelector("script").textContent);
  const [frame, svg, cursor, output] = [".frame", "svg", ".cursor", "output"].map((name) => element.querySelector(name));
  const [side, step] = [Number(element.dataset.side), Number(element.dataset.step)];
  const rest = output.textContent;
  const byPlace = new Map(cells.map((cell, index) => [`${cell[0]},${cell[1]}`, index]));
  const [left, top] = cells.length ? [Math.min(...cells.map((c) => c[0])) % step, Math.min(...cells.map((c) => c[1])) % step] : [0, 0];
  let current = -1;

  function at(event) {
    const box = svg.getBoundingClientRect();
    const snap = (value, first) => Math.floor((value - first) / step) * step + first;
    return byPlace.get(`${snap(event.clientX - box.left, left)},${snap(event.clientY - box.top, top)}`);
  }
  function point(index) {
    current = index ?? -1;
    const cell = cells[current];
    cursor.style.setProperty("visibility", cell ? "visible" : "hidden");
    output.textContent = cell ? `${cell[2]}: ${cell[3]}` : rest;
    if (cell) {
      cursor.setAttribute("x", cell[0] - 1);
      cursor.setAttribute("y", cell[1] - 1);
    }
  }
  const open = (index) => { location.href = `${element.dataset.href}?key=${encodeURIComponent(cells[index][2])}`; };
  function neighbour(dx, dy) {
    if (current < 0) return 0;
    const [x, y] = cells[current];
    let best = current, least = Infinity;
    cells.forEach((cell, index) => {
      const [across, along] = dx ? [cell[1] - y, (cell[0] - x) * dx] : [cell[0] - x, (cell[1] - y) * dy];
      const distance = along + 4 * Math.abs(across);
      if (along > 0 && distance < least) [best, least] = [index, distance];
    });
    return best;
  }
  svg.addEventListener("pointermove", (event) => point(at(event)));
  svg.addEventListener("pointerleave", () => point(-1));
  svg.addEventListener("click", (event) => { const index = at(event); if (index !== undefined) open(index); });
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  frame.addEventListener("keydown", (event) => {
    if (moves[event.key]) {
      event.preventDefault();
      point(neighbour(...moves[event.key]));
    } else if (event.key === "Enter" && current >= 0) open(current);
  });
  frame.addEventListener("focus", () => { if (current < 0 && cells.length && frame.matches(":focus-visible")) point(0); });
}

// A live part: the server sends it as it should look, and "end" when there will be nothing more.
function live(element) {
  const source = new EventSource(element.dataset.live);
  source.addEventListener("part", (event) => {
    element.innerHTML = event.data; // escaped by the server, as every page
    localTimes(element);
  });
  source.addEventListener("end", () => { source.close(); location.reload(); });
}

// Review: digits choose, Enter confirms, s skips; anything else is typed.
function review(element) {
  const field = element.querySelector("[name=answer]");
  const typing = () => document.activeElement === field || /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
  const press = (key) => { const button = element.querySelector(`[data-key="${key}"]`); if (button) button.click(); return Boolean(button); };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && document.activeElement === field) {
      event.preventDefault();
      press("submit");
      return;
    }
    if (event.key === "Escape" && typing()) document.activeElement.blur();
    if (typing() || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key === "Enter" ? "enter" : event.key.toLowerCase();
    if (key === "enter" && document.activeElement.matches("a, button, summary")) return;
    if (key === "e" && field) { event.preventDefault(); field.focus(); }
    else if (/^([1-9]|s|enter)$/.test(key) && press(key)) event.preventDefault();
  });
}

localTimes(document);
document.querySelectorAll("[data-map]").forEach(map);
document.querySelectorAll("[data-live]").forEach(live);
document.querySelectorAll("[data-review]").forEach(review);
document.querySelectorAll("form[data-confirm]").forEach((form) => form.addEventListener("submit", (event) => {
  if (!confirm(form.dataset.confirm)) event.preventDefault();
}));
document.querySelectorAll("form[method=get]").forEach((form) => form.addEventListener("submit", () => {
  for (const field of form.elements) if (field.name && !field.value) field.disabled = true; // short addresses
}));
document.addEventListener("keydown", (event) => {
  const field = document.querySelector("[data-find]");
  if (event.key === "/" && field && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    field.focus();
  }
});
