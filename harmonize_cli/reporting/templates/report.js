"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const chosen = new Set();
  let shown = [], drawn = 0, here = -1;

  const names = Object.keys(data.noisy);
  for (const name of names) at("sort").append(new Option(name, name));
  const first = ["similarity_vt", "neighbours_vt", "loss_vt", "cosine_backbone"].find((n) => names.includes(n));
  if (first) at("sort").value = first;

  // captions come from strangers: everything is set as text, nothing as markup
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const item = (sample) => {
    const li = make("li");
    li.dataset.id = sample.id;
    const box = make("input");
    box.type = "checkbox";
    box.checked = chosen.has(sample.id);
    box.onchange = () => { choose(sample.id, box.checked); };
    li.append(box);
    for (const url of [sample.strip, sample.spectrum]) {
      if (!url) continue;
      const picture = make("img");
      picture.loading = "lazy"; picture.height = 48; picture.src = url; picture.alt = "";
      li.append(picture);
    }
    const words = make("div", "words");
    words.append(make("div", "caption", sample.texts.join(" / ") || "(no caption)"));
    words.append(make("div", "id", sample.id + "  " + sample.source + "  " + sample.labels.join(" ")));
    for (const hint of sample.hints) words.append(make("span", "hint", hint));
    li.append(words);
    if (sample.sound) {
      const sound = make("audio");
      sound.controls = true; sound.preload = "none"; sound.src = sample.sound;
      li.append(sound);
    }
    const name = at("sort").value, value = sample.scores[name];
    const score = make("div", "score", name + " " + (value === null ? "undefined" : value.toFixed(3)));
    score.title = names.map((n) => n + ": " + sample.scores[n]).join("\n");
    li.append(score);
    return li;
  };

  const choose = (id, on) => {
    if (on) chosen.add(id); else chosen.delete(id);
    at("chosen").textContent = chosen.size;
  };

  const more = (count) => {
    const part = document.createDocumentFragment();
    for (const sample of shown.slice(drawn, drawn + count)) part.append(item(sample));
    drawn = Math.min(shown.length, drawn + count);
    at("list").append(part);
    at("more").hidden = drawn >= shown.length;
  };

  const update = () => {
    const name = at("sort").value;
    const bad = (at("order").value === "bad") === (data.noisy[name] === "high") ? -1 : 1;
    const words = at("search").value.toLowerCase();
    const low = at("low").value === "" ? -Infinity : Number(at("low").value);
    const high = at("high").value === "" ? Infinity : Number(at("high").value);
    const free = at("low").value === "" && at("high").value === "";
    shown = data.samples.filter((s) => {
      const v = s.scores[name];
      if (v === null ? !free : v < low || v > high) return false;
      return !words || s.texts.some((t) => t.toLowerCase().includes(words));
    });
    const key = (s) => s.scores[name] === null ? Infinity : bad * s.scores[name];
    shown.sort((a, b) => key(a) - key(b));
    at("list").replaceChildren();
    drawn = 0; here = -1;
    at("count").textContent = shown.length + " shown";
    more(100);
  };

  const move = (to) => {
    if (to >= drawn) more(100);
    const all = at("list").children;
    if (!all.length) return;
    if (here >= 0 && all[here]) all[here].classList.remove("here");
    here = Math.max(0, Math.min(all.length - 1, to));
    all[here].classList.add("here");
    all[here].scrollIntoView({ block: "nearest" });
  };

  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    // where keys are typed they are no commands; a checkbox that was clicked keeps the focus but takes no text
    if (document.activeElement.matches("input:not([type=checkbox]), select") && e.key !== "Escape") return;
    const li = at("list").children[here];
    if (e.key === "j") move(here + 1);
    else if (e.key === "k") move(here - 1);
    else if (e.key === "x" && li) li.querySelector("input").click();
    else if (e.key === "p" && li) { const a = li.querySelector("audio"); if (a) { if (a.paused) a.play(); else a.pause(); } }
    else if (e.key === "/") { e.preventDefault(); at("search").focus(); }
    else if (e.key === "Escape") document.activeElement.blur();
  });

  at("all").onclick = () => {
    for (const sample of shown) choose(sample.id, true);
    for (const box of at("list").querySelectorAll("input")) box.checked = true;
  };
  at("export").onclick = () => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([[...chosen].join("\n") + "\n"], { type: "text/plain" }));
    link.download = "ids.txt";
    link.click();
  };
  at("more").onclick = () => more(200);
  for (const id of ["sort", "order", "low", "high", "search"]) at(id).addEventListener("input", update);
  update();
})();
