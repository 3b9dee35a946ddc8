// What a checkpoint computes on a question: probabilities of tokens, letters by layer, attention.

let looking = 0;
const seen = { view: null, tokens: null, map: null, selected: 0, wanted: 0 };

function insideView(question, chosen) {
  const box = byId("inside");
  const sides = question.sides.filter((side) => side.answers.some((answer) => answer.inside));
  if (!sides.length) {
    show(box, make("p", { class: "quiet" }, "There is no written answer to look into."));
    return;
  }
  if (!chosen.look) {
    const button = make("button", { type: "button" }, "Look inside");
    button.addEventListener("click", () => go({ look: sides.at(-1).id }));
    show(box, make("p", { class: "quiet" }, "Loads the checkpoint and computes how likely it finds each token of its answer, "
      + "which letter each layer would say, and where each head looks."), button);
    return;
  }
  const side = sides.find((one) => one.id === chosen.look) || sides.at(-1);
  const samples = side.answers.filter((answer) => answer.inside);
  const answer = samples.find((one) => String(one.sample) === String(chosen.sample)) || samples[0];
  const whose = select("Checkpoint", sides.map((one) => [one.id, checkpointName(one)]), side.id,
    (value) => go({ look: value, token: null, layer: null, head: null, sample: null }));
  const which = samples.length > 1 ? select("Answer", samples.map((one) => [one.sample, `${one.sample + 1}`]), answer.sample,
    (value) => go({ sample: value, token: null })) : null;
  const content = make("div", { id: "looked" }, make("p", { class: "quiet" }, "computing… a checkpoint is loaded first"));
  show(box, make("div", { class: "looking" }, whose, which), content);
  look(chosen, { report: side.id, evaluation: chosen.evaluation, question: chosen.question, sample: answer.sample },
    answer.gold);
}

function select(name, options, value, changed, id = "") {
  const field = make("select", { id }, ...options.map(([key, text]) => make("option", { value: key }, text)));
  field.value = value;
  field.addEventListener("change", () => changed(field.value));
  return make("label", {}, name, field);
}

async function look(chosen, asked, gold) {
  const mine = ++looking;
  const box = byId("looked");
  try {
    const found = await get("explore/inside", { ...asked, view: "tokens" });
    if (mine !== looking) return;
    seen.gold = gold;
    drawInside(chosen, asked, found, box);
  } catch (failure) {
    if (mine === looking) show(box, band(failure.message));
  }
}

function drawInside(chosen, asked, found, box) {
  seen.tokens = found.tokens;
  seen.map = null;
  seen.layers = found.layers;
  seen.asked = asked;
  const list = make("div", { class: "tokens card", id: "tokens", role: "listbox", tabIndex: 0,
    aria: { label: "Tokens of the prompt and the answer; arrow keys choose one" } });
  found.tokens.forEach((token, i) => list.append(...chip(token, i, found.prompt)));
  list.addEventListener("click", (event) => {
    const token = event.target.closest(".token");
    if (token) choose(Number(token.dataset.place));
  });
  list.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowDown: 10, ArrowLeft: -1, ArrowUp: -10, Home: -1e9, End: 1e9 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    choose(Math.min(found.tokens.length - 1, Math.max(1, seen.selected + moves[event.key])));
  });
  const legend = make("span", { class: "legend", id: "legend" }, "likely", make("i", {}), "unlikely");
  const layers = Array.from({ length: found.layers }, (_, i) => [i, `${i + 1}`]);
  const heads = Array.from({ length: found.heads }, (_, i) => [i, `${i + 1}`]);
  const layer = Math.min(Number(chosen.layer ?? found.layers - 1), found.layers - 1);
  const head = Math.min(Number(chosen.head ?? 0), found.heads - 1);
  const shade = select("Shade by", [["probability", "probability"], ["attention", "attention from the chosen token"]],
    chosen.shade || "probability", (value) => go({ shade: value === "probability" ? null : value }, true), "shade");
  show(box,
    make("p", { class: "quiet" }, `The whole answer has the log-probability ${found.answer_logp.toFixed(2)} nats. `
      + "Its text was encoded again, so tokens may be split otherwise than when it was written. ", legend),
    list,
    make("div", { class: "about", id: "about", aria: { live: "polite" } }),
    make("h3", {}, "What each layer would say in place of the chosen token"), make("div", { id: "lens", class: "scroll", role: "region",
      tabIndex: 0, aria: { label: "Letters and tokens by layer" } }),
    make("h3", {}, "Attention"),
    make("div", { class: "looking" },
      select("Layer", layers, layer, (value) => go({ layer: value }, true), "layer"),
      select("Head", heads, head, (value) => go({ head: value }, true), "head"), shade),
    make("div", { class: "map", id: "map" }));
  shadeTokens(chosen.shade);
  pick(wantedToken(chosen));
  attention(layer, head, chosen.shade);
}

/** The elements of one token; line breaks are shown and made. */
function chip(token, place, prompt) {
  const special = /^<\|.*\|>$/.test(token.text);
  const names = ["token", place < prompt ? "prompt" : "", special ? "special" : ""].filter(Boolean).join(" ");
  const breaks = (token.text.match(/\n/g) || []).length;
  const text = visible(token.text.replaceAll("\n", ""));
  const blank = text.trim() || breaks ? {} : { label: "space" };
  const element = make("span", { class: names, role: "option", id: `token-${place}`, data: { place },
    aria: { selected: "false", ...blank } }, text, breaks ? make("span", { class: "mark" }, "⏎".repeat(breaks)) : null);
  return breaks ? [element, "\n".repeat(breaks)] : [element];
}

/** Shades the tokens: by surprise, or by the attention that the chosen token pays to them. */
function shadeTokens(by) {
  const list = byId("tokens");
  if (!list) return;
  const row = by === "attention" ? rowOf(seen.selected) : null;
  list.classList.toggle("attention", row !== null);
  byId("legend").hidden = row !== null;
  const top = row ? Math.max(1, ...row) : 1;
  seen.tokens.forEach((token, i) => {
    const weight = row ? (row[i - seen.map.cut] ?? 0) / top : token.logp === undefined ? 0 : 1 - Math.exp(token.logp);
    byId(`token-${i}`).style.setProperty("--w", weight.toFixed(3));
  });
}

/** The token that the address asks for; 0 if it asks for none that is there. */
function wantedToken(chosen) {
  const place = Number(chosen.token || 0);
  return Number.isInteger(place) && place > 0 && place < seen.tokens.length ? place : 0;
}

/** Chooses a token and remembers it in the address. */
function choose(place) {
  go({ token: place }, true);
}

/** Shows a token without changing the address; 0 leaves the choice to the server. */
async function pick(place) {
  seen.wanted = place;
  if (place) mark(place);
  const mine = looking;
  try {
    const found = await get("explore/inside", { ...seen.asked, view: "lens", token: place });
    if (mine !== looking) return;
    if (!place) mark(found.token);
    if (found.token === seen.selected) lensTable(found);
  } catch (failure) {
    if (mine === looking) show(byId("lens"), band(failure.message));
  }
}

function mark(place) {
  byId(`token-${seen.selected}`)?.setAttribute("aria-selected", "false");
  seen.selected = place;
  const chosen = byId(`token-${place}`);
  const list = byId("tokens");
  chosen.setAttribute("aria-selected", "true");
  list.setAttribute("aria-activedescendant", chosen.id);
  const top = chosen.offsetTop - list.offsetTop;
  if (chosen.offsetTop < list.scrollTop || chosen.offsetTop > list.scrollTop + list.clientHeight - 24) {
    list.scrollTop = Math.max(0, chosen.offsetTop - list.clientHeight / 2);
  }
  about(place);
  lookFrom(place);
  shadeTokens(current().shade);
  return top;
}

const quoted = (text) => `“${visible(text.replaceAll("\n", "⏎"))}”`;

function about(place) {
  const token = seen.tokens[place];
  const parts = [make("b", {}, `Token ${place} `), make("code", {}, quoted(token.text))];
  if (token.logp !== undefined) parts.push(`: ${percent(Math.exp(token.logp), 2)} (${Math.abs(token.logp).toFixed(3)} nats of surprise). `);
  if (token.best) {
    parts.push("Most likely here: ", token.best.map(([text, p]) => `${quoted(text)} ${percent(p)}`).join(", "), ".");
  }
  show(byId("about"), ...parts);
}

function lensTable(found) {
  const { gold } = seen;
  const letters = found.letters.map((letter) => make("th", { scope: "col", class: letter === gold ? "gold" : "" },
    letter === gold ? `${letter} ✓` : letter));
  const head = make("tr", {}, make("th", { scope: "col" }, "After"), ...letters,
    found.letters.length ? make("th", { scope: "col" }, "all letters") : null,
    make("th", { scope: "col" }, quoted(found.text)), make("th", { scope: "col" }, "likeliest token"));
  const rows = found.rows.map((row, i) => make("tr", {}, make("th", { scope: "row" }, i ? `layer ${i}` : "embeddings"),
    ...row.letters.map(shaded), row.mass === null ? null : make("td", {}, percent(row.mass)), shaded(row.own_p),
    make("td", { class: "best" }, make("code", {}, quoted(row.best)), ` ${percent(row.best_p, 0)}`)));
  const note = found.letters.length ? "Letters: their shares among the letters. The other columns: probabilities among all tokens. "
    : "Probabilities among all tokens. ";
  show(byId("lens"), make("p", { class: "quiet" }, note, "An early layer that says nothing may still know: only the last one is "
    + "trained to be read."), make("table", { class: "lens" }, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function shaded(share) {
  const cell = make("td", { class: "cell" }, percent(share));
  cell.style.setProperty("--w", share.toFixed(3));
  return cell;
}

// --- attention --------------------------------------------------------------------------------------------------------

async function attention(layer, head, shade) {
  const mine = looking;
  try {
    const found = await get("explore/inside", { ...seen.asked, view: "attention", layer, head });
    if (mine !== looking) return;
    const bytes = Uint8Array.from(atob(found.map), (c) => c.charCodeAt(0));
    seen.map = { ...found, bytes };
    drawMap();
    shadeTokens(shade);
  } catch (failure) {
    if (mine === looking) show(byId("map"), band(failure.message));
  }
}

/** The weights with which a token looks at the others, from 0 to 255; null where there is no map. */
function rowOf(place) {
  if (!seen.map || place < seen.map.cut) return null;
  const { size, cut, bytes } = seen.map;
  return bytes.subarray((place - cut) * size, (place - cut + 1) * size);
}

function drawMap() {
  const { size, cut, bytes, window: reach } = seen.map;
  const canvas = make("canvas", { width: size, height: size, role: "img",
    aria: { label: "Attention map: each row is a token that looks, each column one that is looked at" } });
  const [r, g, b] = rgb(getComputedStyle(document.documentElement).getPropertyValue("--series-1"));
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  for (let i = 0; i < bytes.length; i += 1) image.data.set([r, g, b, Math.round(255 * Math.sqrt(bytes[i] / 255))], 4 * i);
  context.putImageData(image, 0, 0);
  canvas.addEventListener("click", (event) => {
    const place = Math.floor((event.offsetY / canvas.clientHeight) * size) + cut;
    if (place > 0) choose(Math.min(place, seen.tokens.length - 1));
  });
  const left = cut ? ` Only the last ${size} tokens are shown.` : "";
  show(byId("map"), canvas, make("div", { class: "words" },
    make("p", { class: "quiet" }, `Rows look, columns are looked at; darker is more. The layer sees ${reach} tokens back.${left}`),
    make("div", { id: "looks" })));
  lookFrom(seen.selected);
}

/** In words, where the chosen token looks: for those who cannot see the map. */
function lookFrom(place) {
  const box = byId("looks");
  const row = rowOf(place);
  if (!box || !row) return;
  const order = Array.from(row.keys()).sort((one, other) => row[other] - row[one]).slice(0, 6).filter((i) => row[i]);
  const items = order.map((i) => make("li", {}, make("code", {}, quoted(seen.tokens[i + seen.map.cut].text)),
    ` (token ${i + seen.map.cut}) ${percent(row[i] / 255, 0)}`));
  show(box, make("p", {}, "From token ", String(place), " ", make("code", {}, quoted(seen.tokens[place].text)),
    " this head looks at:"), make("ol", {}, ...items));
}

function rgb(colour) {
  const hex = colour.trim().slice(1);
  return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
}
