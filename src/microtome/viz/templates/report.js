"use strict";
(() => {
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const one = (selector, root = document) => root.querySelector(selector);

  // ---- table: sort and find -------------------------------------------------------------------------------
  const table = one("#slide-table");
  const gallery = one(".cards");

  function cellValue(row, name) {
    const cell = one(`[data-column="${name}"]`, row);
    return cell ? cell.dataset.value : "";
  }

  function compare(kind, sign) {
    return (a, b) => {
      if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");  // what is absent comes last
      const order = kind === "number" ? Number(a.key) - Number(b.key) : a.key.localeCompare(b.key, "en", { numeric: true });
      return sign * order || a.at - b.at;
    };
  }

  function sortBy(header) {
    const rising = header.getAttribute("aria-sort") !== "ascending";
    all("thead th", table).forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = table.tBodies[0];
    const keyed = Array.from(body.rows, (row, at) => ({ row, at, key: cellValue(row, header.dataset.sort) }));
    keyed.sort(compare(header.dataset.kind, rising ? 1 : -1));
    body.append(...keyed.map((entry) => entry.row));
    if (!gallery) return;
    const cards = new Map(all(".card", gallery).map((card) => [card.dataset.slide, card]));
    gallery.append(...keyed.map((entry) => cards.get(entry.row.dataset.slide)).filter(Boolean));
  }

  function applyFilter() {
    const words = one("#find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = one("#status").value;
    const rows = Array.from(table.tBodies[0].rows);
    const shown = new Set();
    for (const row of rows) {
      const text = row.dataset.find.toLowerCase();
      const fits = words.every((word) => text.includes(word)) && (!status || row.dataset.status === status);
      row.hidden = !fits;
      if (fits) shown.add(row.dataset.slide);
    }
    all(".card").forEach((card) => { card.hidden = !shown.has(card.dataset.slide); });
    one("#found").textContent = shown.size < rows.length ? `${shown.size} of ${rows.length}` : "";
  }

  if (table) all("thead th[data-sort]", table).forEach((header) => one("button", header).addEventListener("click", () => sortBy(header)));
  if (one("#find")) {
    one("#find").addEventListener("input", applyFilter);
    one("#status").addEventListener("change", applyFilter);
    applyFilter();
  }

  // ---- layers ---------------------------------------------------------------------------------------------
  all("input[data-layer]").forEach((box) => {
    const apply = () => document.body.classList.toggle(`hide-${box.dataset.layer}`, !box.checked);
    box.addEventListener("change", apply);
    apply();  // browsers remember ticks over a reload
  });
  const strength = one("#strength");
  if (strength) {
    const apply = () => document.body.style.setProperty("--strength", String(strength.value / 100));
    strength.addEventListener("input", apply);
    apply();
  }

  // ---- one cluster alone ----------------------------------------------------------------------------------
  // A map is a picture of flat colours, one per cluster; alone means that pixels of all other colours are cleared.
  let alone = null;
  let aloneColour = null;
  const seen = new Set();

  function redraw(stage) {
    const map = one("img.clusters", stage);
    if (!map || !map.complete || !map.naturalWidth) return;
    const old = one("canvas.clusters", stage);
    if (old && old.dataset.cluster === String(alone)) return;
    if (old) old.remove();
    map.classList.toggle("alone", alone !== null);
    if (alone === null) return;
    const canvas = document.createElement("canvas");
    canvas.width = map.naturalWidth;
    canvas.height = map.naturalHeight;
    canvas.className = "layer clusters";
    canvas.dataset.cluster = String(alone);
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(map, 0, 0);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
    const values = new Uint32Array(pixels.data.buffer);
    const wanted = new Uint32Array(Uint8ClampedArray.from([...aloneColour, 255]).buffer)[0];
    for (let i = 0; i < values.length; i += 1) if (values[i] !== wanted) values[i] = 0;
    pen.putImageData(pixels, 0, 0);
    map.after(canvas);
  }

  function forget(stage) {
    const canvas = one("canvas.clusters", stage);
    if (canvas) canvas.remove();
  }

  // The grey picture under a map and the outline over it are the slide's own, which stand in the file only once.
  function underlay(stage) {
    const map = one(".map", stage);
    if (!map || one(".picture", map)) return;
    const copy = one(".pane .picture", stage).cloneNode();
    copy.alt = "";
    map.prepend(copy);
    const lines = one(".pane .lines", stage).cloneNode(true);
    lines.setAttribute("aria-hidden", "true");
    map.append(lines);
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { seen.add(entry.target); underlay(entry.target); redraw(entry.target); } else { seen.delete(entry.target); forget(entry.target); }
    }
  }, { rootMargin: "300px" });
  all(".stage").forEach((stage) => watcher.observe(stage));
  window.addEventListener("beforeprint", () => all(".stage").forEach((stage) => { underlay(stage); redraw(stage); }));

  const colourOf = (chip) => getComputedStyle(one("i", chip)).backgroundColor.match(/\d+/g).slice(0, 3).map(Number);

  function showAlone(cluster, colour) {
    alone = cluster;
    aloneColour = colour;
    document.body.classList.toggle("alone-on", alone !== null);
    all(".chip[data-cluster]").forEach((chip) => chip.setAttribute("aria-pressed", String(chip.dataset.cluster === alone)));
    all(".shares i").forEach((part) => part.classList.toggle("alone", part.dataset.cluster === alone));
    all(".cluster-card").forEach((card) => card.classList.toggle("alone", card.dataset.clusterCard === alone));
    all(".umap g[data-cluster]").forEach((path) => path.classList.toggle("dim", alone !== null && path.dataset.cluster !== alone));
    seen.forEach(redraw);
  }

  all(".chip[data-cluster]").forEach((chip) => chip.addEventListener("click", () => {
    if (alone === chip.dataset.cluster) showAlone(null, null); else showAlone(chip.dataset.cluster, colourOf(chip));
  }));

  // ---- one slide alone, in the UMAP -----------------------------------------------------------------------
  let slideAlone = "";
  function showSlide(slide) {
    slideAlone = slide;
    all(".chip[data-slide]").forEach((chip) => chip.setAttribute("aria-pressed", String(slide !== "" && chip.dataset.slide === slide)));
    all(".umap g[data-slide]").forEach((path) => {
      path.classList.toggle("dim", slide !== "" && path.dataset.slide !== slide);
      if (slide !== "" && path.dataset.slide === slide) path.parentNode.append(path);  // drawn last, on top
    });
  }
  all(".chip[data-slide]").forEach((chip) => chip.addEventListener("click", () => showSlide(slideAlone === chip.dataset.slide ? "" : chip.dataset.slide)));
  if (one("#umap-slide")) one("#umap-slide").addEventListener("change", (event) => showSlide(event.target.value));

  // ---- enlarge --------------------------------------------------------------------------------------------
  const viewer = one("#viewer");
  let open = null;  // the card whose stage is in the viewer

  const layers = one(".layers");

  function putBack() {
    if (!open) return;
    const stage = one(".stage", viewer);
    const button = one(".enlarge", open);
    button.append(stage);
    button.style.minHeight = "";
    open = null;
    redraw(stage);
  }

  function show(card) {
    putBack();
    const button = one(".enlarge", card);
    const stage = one(".stage", card);
    button.style.minHeight = `${button.offsetHeight}px`;
    open = card;
    one("#viewer-body").append(stage);
    one("#viewer-name").textContent = card.dataset.slide;
    if (!viewer.open) {
      if (layers) one("#viewer-layers").append(layers);
      viewer.showModal();
      one("#viewer-next").focus();
    }
    underlay(stage);
    redraw(stage);
  }

  function step(by) {
    const cards = all(".card").filter((card) => !card.hidden && one(".enlarge", card));
    if (open && cards.length) show(cards[(cards.indexOf(open) + by + cards.length) % cards.length]);
  }

  all(".card").forEach((card) => {
    const button = one(".enlarge", card);
    if (button) button.addEventListener("click", () => show(card));
  });
  one("#viewer-close").addEventListener("click", () => viewer.close());
  one("#viewer-previous").addEventListener("click", () => step(-1));
  one("#viewer-next").addEventListener("click", () => step(1));
  viewer.addEventListener("close", () => { const card = open; putBack(); if (layers) gallery.before(layers); if (card) one(".enlarge", card).focus(); });
  document.addEventListener("keydown", (event) => {
    if (!viewer.open || event.target.type === "range") return;  // the arrows are the slider's
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
})();
