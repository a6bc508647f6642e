"use strict";
{
const galleries = [];
const start = (root) => {
  const part = (name) => root.querySelector(`.${name}`);
  const data = JSON.parse(document.getElementById(`${root.dataset.section}-data`).textContent);
  const bar = part("bar"), grid = part("cards"), large = part("large");
  const tables = {};
  for (const [name, code] of Object.entries(data.tables)) tables[name] = Uint8Array.from(atob(code), (c) => c.charCodeAt(0));
  const inks = ["#ffd400", "#00e5ff", "#ff7bd5", "#8cff66", "#ffffff", "#ff9e3d"];
  const state = { method: 0, view: "overlay", shared: false, table: "auto", opacity: data.look.opacity, top: 1, grey: true, outlines: true, order: "", metric: 0, of: "shown" };

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  // As even rows as `most` panels a row allow.
  const across = (count, most) => Math.ceil(count / Math.ceil(count / most));
  const number = (value) => String(Number(value.toPrecision(3))).replace("-", "−");

  // From the stored pictures to numbers

  const scratch = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const read = (image, width, height) => {
    scratch.canvas.width = width;
    scratch.canvas.height = height;
    scratch.drawImage(image, 0, 0, width, height);
    return scratch.getImageData(0, 0, width, height).data;
  };
  const decoded = async (src) => {
    const image = new Image();
    image.src = src;
    await image.decode();
    const width = image.naturalWidth, height = image.naturalHeight, rgba = read(image, width, height);
    const codes = new Uint8Array(width * height);
    for (let i = 0; i < codes.length; i++) codes[i] = rgba[4 * i];
    return { width, height, codes };
  };
  // A map, decoded once: its values as shares of its own limit.
  const loaded = (map) => (map.loading ??= decoded(map.src).then((grid) => {
    map.grid = grid;
    map.src = null;
  }));

  const steps = (from, to) => {
    const at = new Int32Array(to), next = new Int32Array(to), share = new Float32Array(to);
    for (let i = 0; i < to; i++) {
      const place = Math.min(Math.max((i + 0.5) * from / to - 0.5, 0), from - 1);
      at[i] = Math.floor(place);
      next[i] = Math.min(at[i] + 1, from - 1);
      share[i] = place - at[i];
    }
    return { at, next, share };
  };
  // Bilinear, pixel centres at half integers: as the maps are resized everywhere else.
  const resized = (map, width, height, gain) => {
    const { codes, width: w, height: h } = map.grid, zero = map.signed ? 128 : 0, unit = gain / (map.signed ? 127 : 255);
    const along = steps(w, width), down = steps(h, height), values = new Float32Array(width * height);
    for (let y = 0, i = 0; y < height; y++) {
      const upper = down.at[y] * w, lower = down.next[y] * w, v = down.share[y];
      for (let x = 0; x < width; x++, i++) {
        const a = along.at[x], b = along.next[x], u = along.share[x];
        const high = codes[upper + a] * (1 - u) + codes[upper + b] * u, low = codes[lower + a] * (1 - u) + codes[lower + b] * u;
        values[i] = (high * (1 - v) + low * v - zero) * unit;
      }
    }
    return values;
  };
  // The size that a value must have to be among the strongest.
  const cut = (values, signed) => {
    if (state.top >= 1) return 0;
    const bins = new Uint32Array(1001);
    for (const value of values) bins[Math.min(1000, Math.floor(1000 * Math.max(0, signed ? Math.abs(value) : value)))]++;
    let room = state.top * values.length, bin = 1000;
    while (bin > 0 && bins[bin] <= room) room -= bins[bin--];
    return Math.min((bin + 1) / 1000, 1);
  };

  const tableOf = (method) => (state.table !== "auto" ? state.table : data.methods[method].signed ? "diverging" : "inferno");
  const limitOf = (map, method) => (state.shared ? data.methods[method].limit : map.limit);

  // Painting

  const paint = (canvas, photo, map, method) => {
    const width = canvas.width, height = canvas.height, out = canvas.getContext("2d"), picture = out.createImageData(width, height), to = picture.data;
    const name = tableOf(method), signed = name === "diverging", table = tables[name], overlay = state.view === "overlay";
    const values = resized(map, width, height, map.limit / limitOf(map, method));
    for (let i = 0; i < values.length; i++) values[i] = Math.min(1, Math.max(signed ? -1 : 0, values[i]));
    const least = cut(values, signed), under = overlay ? read(photo, width, height) : null;
    const { rise, faded } = data.look;
    for (let i = 0, p = 0; i < values.length; i++, p += 4) {
      let share = values[i];
      if (Math.abs(share) < least) share = 0;
      let alpha = 1, red = 0, green = 0, blue = 0;
      if (overlay) {
        alpha = state.opacity * Math.pow(Math.abs(share), rise);
        [red, green, blue] = [under[p], under[p + 1], under[p + 2]];
        if (state.grey) red = green = blue = 0.299 * red + 0.587 * green + 0.114 * blue;
        if (signed && state.grey) red = green = blue = 255 - faded * (255 - red);
        if (signed) share = Math.sign(share) * (0.5 + 0.5 * Math.abs(share));
      }
      const c = 3 * Math.round(signed ? 128 + 127 * share : 255 * share);
      to[p] = red + alpha * (table[c] - red);
      to[p + 1] = green + alpha * (table[c + 1] - green);
      to[p + 2] = blue + alpha * (table[c + 2] - blue);
      to[p + 3] = 255;
    }
    out.putImageData(picture, 0, 0);
  };

  const borders = ({ codes, width, height }) => {
    const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && codes[y * width + x] > 127;
    const path = [];
    for (let y = 0; y <= height; y++) {
      for (let x = 0; x <= width; x++) {
        if (inside(x, y) !== inside(x, y - 1)) path.push(`M${x} ${y}h1`);
        if (inside(x, y) !== inside(x - 1, y)) path.push(`M${x} ${y}v1`);
      }
    }
    return path.join("");
  };
  const outline = async (panel, item) => {
    const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg");
    for (const [index, src] of item.regions.entries()) {
      if (!src) continue;
      const mask = await ((item.masks ??= {})[index] ??= decoded(src));
      svg.setAttribute("viewBox", `0 0 ${mask.width} ${mask.height}`);
      svg.setAttribute("preserveAspectRatio", "none");
      const d = (mask.path ??= borders(mask));
      for (const halo of [true, false]) {
        const path = svg.appendChild(document.createElementNS(space, "path"));
        path.setAttribute("d", d);
        path.setAttribute(halo ? "class" : "stroke", halo ? "halo" : inks[index % inks.length]);
      }
    }
    panel.append(svg);
  };

  // Panels: an image, or one map of it

  const cards = [...grid.children].map((node, index) => {
    const photo = node.querySelector("img");
    return { node, index, photo, button: node.querySelector(".open"), item: data.items[index], panels: [], near: false, stale: true, text: node.textContent.toLowerCase() };
  });
  const cardOf = new Map(cards.map((card) => [card.node, card]));
  let order = cards;

  // Scores: an image has one for each metric and method, or null

  const compared = [...data.scored.keys()].filter((method) => !data.scored[method].control);
  const scoredAs = data.methods.map(({ name }) => data.scored.findIndex((scored) => scored.name === name));
  const known = (card) => compared.map((method) => card.item.scores[state.metric][method]).filter((score) => score !== null);
  const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
  // Whose score is asked for: a method's place among those with scores, or -1 for the mean of all.
  const asked = () => {
    if (state.of === "mean") return -1;
    if (state.of !== "shown") return Number(state.of);
    return state.method === "all" ? -1 : scoredAs[state.method] ?? -1;
  };
  const scoreOf = (card) => (asked() < 0 ? mean(known(card)) : card.item.scores[state.metric][asked()]);
  const apart = (card) => {
    const scores = known(card);
    return scores.length > 1 ? Math.max(...scores) - Math.min(...scores) : null;
  };
  const whose = () => (asked() < 0 ? "mean " : state.of === "shown" ? "" : `${data.scored[asked()].name} `);
  // What a card is sorted by, the larger the earlier.
  const rank = (card) => {
    if (state.order === "apart") return apart(card);
    const score = scoreOf(card);
    return score === null ? null : (state.order === "best") === data.metrics[state.metric].higher ? score : -score;
  };
  const sorted = () => {
    if (!state.order) return cards;
    const ranks = new Map(cards.map((card) => [card, rank(card)]));
    return [...cards].sort((a, b) => {
      const [x, y] = [ranks.get(a), ranks.get(b)];
      return x === null || y === null ? (x === null) - (y === null) || a.index - b.index : y - x || a.index - b.index;
    });
  };
  let sortedBy = "";
  const sort = () => {
    const by = [state.method, state.order, state.metric, state.of].join();
    if (!data.metrics.length || by === sortedBy) return;
    sortedBy = by;
    const before = order;
    order = sorted();
    if (order.some((card, at) => card !== before[at])) grid.append(...order.map(({ node }) => node));
    for (const card of cards) {
      card.score ??= card.node.insertBefore(element("p", "score"), card.node.querySelector(".caption"));
      const score = scoreOf(card), between = state.order === "apart" ? apart(card) : null;
      const said = `${whose()}${score === null ? "no score" : number(score)}${between === null ? "" : `, methods differ by ${number(between)}`}`;
      card.score.replaceChildren(element("bdi", "", data.metrics[state.metric].name), element("span", "", said));
    }
  };
  const panelOf = (card, method, photo) => {
    const box = element("div"), panel = element("span", "panel"), label = element("span", "label");
    const image = photo ?? card.photo.cloneNode();
    if (method === null) {
      panel.append(image);
      label.append(element("span", "name", "Image"));
    } else {
      const canvas = element("canvas");
      canvas.width = card.photo.getAttribute("width");
      canvas.height = card.photo.getAttribute("height");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Map by ${data.methods[method].name}`);
      panel.append(...(photo ? [image, canvas] : [canvas]));
      const range = element("span", "range"), name = element("span", "name", data.methods[method].name);
      name.title = data.methods[method].name;
      const score = element("span", "of");
      label.append(...(state.method === "all" || !photo ? [name, score, range] : [range]));
      const map = card.item.maps[method], note = map ? map.note : "no map";
      if (note) panel.append(element("span", "note", note));
      box.drawing = { canvas, range, map, method, score };
    }
    if (card.item.regions.some(Boolean)) box.outline = outline(panel, card.item);
    box.append(panel, label);
    return box;
  };
  const draw = async (card, box) => {
    const svg = box.querySelector("svg");
    if (svg) svg.toggleAttribute("hidden", !state.outlines);
    else if (box.outline) box.outline.then(() => box.querySelector("svg")?.toggleAttribute("hidden", !state.outlines));
    if (!box.drawing) return;
    const { canvas, range, map, method, score } = box.drawing;
    const own = data.metrics.length && scoredAs[method] >= 0 ? card.item.scores[state.metric][scoredAs[method]] : null;
    score.textContent = own === null ? "" : number(own);
    score.title = own === null ? "" : `${data.metrics[state.metric].name} of ${data.methods[method].name}`;
    canvas.hidden = state.view === "image" && canvas.previousElementSibling !== null;
    if (!map) return;
    if (!map.grid) await loaded(map);
    if (!card.photo.complete) await card.photo.decode();
    if (state.view === "image") canvas.getContext("2d").drawImage(card.photo, 0, 0, canvas.width, canvas.height);
    else paint(canvas, card.photo, map, method);
    range.textContent = `${number(map.min)} … ${number(map.max)}`;
    range.title = `smallest ${number(map.min)}, largest ${number(map.max)}; colours end at ${number(limitOf(map, method))}`;
    if (!canvas.dataset.drawn) root.dataset.drawn = Number(root.dataset.drawn ?? 0) + 1;
    canvas.dataset.drawn = `${state.view} ${tableOf(method)}`;
  };
  const trouble = (reason) => {
    part("trouble").hidden = false;
    part("trouble").textContent = reason;
  };
  const show = (card) => {
    if (!card.panels.length) {
      const all = state.method === "all";
      const shown = all ? [null, ...data.methods.keys()] : data.methods.length ? [state.method] : [null];
      card.panels = shown.map((method, place) => panelOf(card, method, place === 0 ? card.photo : null));
      card.button.replaceChildren(...card.panels);
    }
    card.stale = false;
    for (const box of card.panels) draw(card, box).catch((error) => trouble(`A map could not be drawn: ${error.message}`));
  };

  let waiting = false;
  const refresh = () => {
    for (const card of cards) card.stale = true;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      for (const card of cards) if (card.near) show(card);
      if (large.open) for (const box of part("large-panels").children) draw(cards[current], box);
      legend();
    });
  };
  const legend = () => {
    const method = state.method === "all" ? 0 : state.method, one = state.method !== "all";
    if (!data.methods.length) return;
    const name = tableOf(method), signed = name === "diverging", out = part("legend-bar").getContext("2d"), ramp = out.createImageData(256, 1);
    for (let i = 0; i < 256; i++) {
      const c = 3 * (signed ? Math.max(1, i) : i);
      ramp.data.set([tables[name][c], tables[name][c + 1], tables[name][c + 2], 255], 4 * i);
    }
    out.putImageData(ramp, 0, 0);
    const end = one && state.shared ? number(data.methods[method].limit) : "";
    part("legend-low").textContent = signed ? `against the target${end && ` −${end}`}` : "0";
    part("legend-high").textContent = `${end && `${end} `}for the target`;
    const own = "each map's colours end at its own 99.5th percentile", shared = `one scale for all maps of ${one ? "this" : "a"} method`;
    const mixed = !one && state.table === "auto" && data.methods.some((m) => m.signed) && data.methods.some((m) => !m.signed);
    part("legend-note").textContent = (state.shared ? shared : own) + (mixed ? "; red and blue where a method has both signs, else inferno" : "");
  };

  // Controls

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const card = cardOf.get(entry.target);
      card.near = entry.isIntersecting;
      if (card.near && card.stale) show(card);
    }
  }, { rootMargin: "400px" });

  const rebuild = () => {
    grid.classList.toggle("all", state.method === "all");
    grid.style.setProperty("--across", across(data.methods.length + 1, 8));
    for (const card of cards) card.panels = [];
  };
  const changed = () => {
    const form = bar.elements, method = form.method.value === "all" ? "all" : Number(form.method.value || 0);
    const before = state.method;
    Object.assign(state, {
      method, view: form.view.value, shared: form.scale.value === "shared", table: form.table.value, opacity: form.opacity.value / 100,
      top: form.top.value / 100, grey: form.grey.checked, outlines: form.outlines?.checked ?? false,
      order: form.order?.value ?? "", metric: Number(form.metric?.value ?? 0), of: form.of?.value ?? "shown",
    });
    form["opacity-value"].value = `${form.opacity.value} %`;
    form["top-value"].value = form.top.value === "100" ? "all" : `${form.top.value} %`;
    if (before !== method) rebuild();
    sort();
    refresh();
  };
  const found = () => {
    const wanted = bar.elements.find.value.trim().toLowerCase();
    let count = 0;
    for (const card of cards) {
      card.node.hidden = !card.text.includes(wanted);
      count += !card.node.hidden;
    }
    part("count").textContent = count === cards.length ? `${count} image${count === 1 ? "" : "s"}` : `${count} of ${cards.length} images`;
  };

  // All scores of the enlarged image: a row a method, a column a metric.
  const tabulate = (card) => {
    const box = part("large-scores");
    box.hidden = !data.metrics.length;
    if (box.hidden) return;
    const table = element("table", "overview"), head = table.createTHead().insertRow(), body = table.createTBody();
    head.append(element("th", "", "Score"), ...data.metrics.map(({ name }) => element("th", "", name)));
    data.scored.forEach(({ name, control }, method) => {
      const row = body.insertRow();
      if (control) row.className = "control";
      row.append(element("th", "", name));
      for (const scores of card.item.scores) row.append(element("td", "", scores[method] === null ? "–" : number(scores[method])));
    });
    box.replaceChildren(table);
  };

  let current = -1;
  const enlarge = () => {
    const card = cards[current];
    part("large-caption").textContent = card.node.querySelector(".caption").textContent;
    part("large-id").textContent = card.node.querySelector(".id").textContent;
    part("large-panels").replaceChildren(...[null, ...data.methods.keys()].map((method) => panelOf(card, method, null)));
    for (const box of part("large-panels").children) draw(card, box).catch((error) => trouble(`A map could not be drawn: ${error.message}`));
    part("large-panels").style.setProperty("--across", across(data.methods.length + 1, 4));
    tabulate(card);
    if (!large.open) large.showModal();
    large.dataset.index = current;
  };
  const move = (by) => {
    const shown = order.filter((card) => !card.node.hidden);
    if (!shown.length) return;
    const at = shown.findIndex((card) => card.index === current);
    current = shown[at < 0 ? 0 : Math.min(Math.max(at + by, 0), shown.length - 1)].index;
    if (large.open) enlarge();
    else cards[current].button.focus();
  };
  const next = (control) => {
    const choices = control instanceof RadioNodeList ? [...control].map((radio) => radio.value) : [...control.options].map((option) => option.value);
    control.value = choices[(choices.indexOf(control.value) + 1) % choices.length];
    changed();
  };
  const keys = {
    ArrowLeft: () => move(-1), ArrowRight: () => move(1), m: () => data.methods.length && next(bar.elements.method), v: () => next(bar.elements.view),
  };
  galleries.push({ root, large, keys });
  for (const card of cards) {
    card.button.addEventListener("focus", () => { current = card.index; });
    card.button.addEventListener("click", () => { current = card.index; enlarge(); });
    watcher.observe(card.node);
  }
  part("large-back").addEventListener("click", () => move(-1));
  part("large-on").addEventListener("click", () => move(1));
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  large.addEventListener("close", () => cards[current]?.button.focus());
  bar.addEventListener("submit", (event) => event.preventDefault());
  bar.addEventListener("input", (event) => (event.target.name === "find" ? found() : changed()));

  // Printing shows every card, also those that were never near the window: their maps are decoded while nothing else happens.
  const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 50));
  const ahead = (at) => {
    if (at < cards.length) idle(() => Promise.all(cards[at].item.maps.filter(Boolean).map(loaded)).finally(() => ahead(at + 1)));
  };
  window.addEventListener("beforeprint", () => cards.forEach(show));

  // Some browsers answer with noise when a page reads a canvas; maps cannot be decoded there, and must not be drawn wrong.
  const probe = () => {
    scratch.canvas.width = scratch.canvas.height = 16;
    scratch.fillStyle = "rgb(128, 64, 32)";
    scratch.fillRect(0, 0, 16, 16);
    return scratch.getImageData(0, 0, 16, 16).data.every((value, i) => value === [128, 64, 32, 255][i % 4]);
  };
  data.regions.forEach((name, index) => {
    const key = element("span", "key");
    key.style.borderColor = inks[index % inks.length];
    part("legend-regions").append(key, name);
  });
  bar.hidden = part("hint").hidden = cards.length === 0;
  found();
  if (probe()) {
    changed();
    ahead(0);
  } else {
    watcher.disconnect();
    trouble("This browser does not let pages read their own canvases (a protection against fingerprinting), so only the images can be shown.");
  }
};

for (const root of document.querySelectorAll(".gallery")) start(root);

// Keys go to the gallery that is enlarged, or else in the middle of the window.
const inMiddle = ({ root }) => {
  const { top, bottom } = root.getBoundingClientRect();
  return top < innerHeight / 2 && bottom > innerHeight / 2;
};
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea")) return;
  const gallery = galleries.find(({ large }) => large.open) ?? galleries.find(inMiddle) ?? galleries[0];
  if (!Object.hasOwn(gallery?.keys ?? {}, event.key)) return;
  event.preventDefault();
  gallery.keys[event.key]();
});
}
