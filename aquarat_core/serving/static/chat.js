const KEPT = "aquarat.chat";
const state = { models: [], turns: [], running: null };

const settings = {
  temperature: byId("temperature"), top_p: byId("top-p"), max_tokens: byId("max-tokens"), seed: byId("seed"),
};

// An on-screen keyboard has no Shift+Enter.
const touch = matchMedia("(pointer: coarse)").matches;

async function start() {
  if (touch) byId("say").placeholder = "Your message";
  restore();
  draw();
  try {
    const found = await get("chat/models");
    state.models = found.models;
    const chosen = state.wanted;
    show(byId("model"), ...state.models.map((model) => make("option", { value: model.id }, visible(model.id))));
    if (state.models.some((model) => model.id === chosen)) byId("model").value = chosen;
    byId("model").disabled = state.models.length < 2;
    describe();
    enable();
    if (!state.turns.length) draw();
  } catch (failure) {
    show(byId("problems"), band(failure.message));
  }
}

function model() {
  return state.models.find((one) => one.id === byId("model").value);
}

function describe() {
  const chosen = model();
  if (!chosen) return;
  const which = chosen.manifest ? `${named(chosen.manifest.slice(0, 12), chosen.names)}, ` : "";
  byId("facts").textContent = `${which}context of ${chosen.context.toLocaleString("en")} tokens`;
  byId("warning").textContent = chosen.warning ? visible(chosen.warning) : "";
  byId("warning").hidden = !chosen.warning;
}

function enable() {
  const busy = state.running !== null;
  byId("send").disabled = busy || !model();
  byId("stop").disabled = !busy;
  byId("fresh").disabled = busy && !state.turns.length;
}

// --- the conversation -----------------------------------------------------------------------------------------------

function draw() {
  const hello = make("div", { class: "hello" }, make("h2", {}, "Ask the model something"),
    make("p", {}, "It answers in the form in which it was taught. The conversation stays in this browser tab."));
  if (model()?.manifest) {
    const button = make("button", { type: "button" }, "A question that it was tested on");
    button.addEventListener("click", () => example(button));
    hello.append(button);
  }
  show(byId("talk"), ...(state.turns.length ? state.turns.map(drawn) : [hello]));
}

/** Puts a question of an evaluation into the field. */
async function example(button) {
  button.disabled = true;
  try {
    byId("say").value = (await get("chat/example", { model: model().id })).text;
    byId("say").focus();
    // Focus scrolls to the cursor at the end, but people read from the beginning.
    byId("say").scrollTop = 0;
    show(byId("problems"));
  } catch (failure) {
    show(byId("problems"), band(failure.message));
  }
  button.disabled = false;
}

function drawn(turn) {
  const who = turn.role === "user" ? "You" : visible(turn.model || "Model");
  const element = make("div", { class: `turn ${turn.role}` }, make("p", { class: "who" }, who),
    make("div", { class: "text" }));
  turn.element = element;
  fill(turn);
  return element;
}

/** Puts a turn's text, calls and notes on the page. */
function fill(turn) {
  const text = turn.element.querySelector(".text");
  const parts = [];
  let at = 0;
  for (const call of turn.calls || []) {
    parts.push(visible(turn.content.slice(at, call.at)), make("span", { class: "call" },
      `${visible(call.expression)} = `, make("b", {}, visible(call.result) || "no result")));
    at = call.at;
  }
  show(text, ...parts, visible(turn.content.slice(at)));
  text.hidden = !turn.content && turn !== state.running?.turn;
  turn.element.querySelectorAll(".after, .trouble").forEach((old) => old.remove());
  turn.element.classList.toggle("busy", turn === state.running?.turn);
  const notes = [];
  if (turn.letter) notes.push(make("span", { class: "badge" }, `Answer: ${turn.letter}`));
  else if (turn.letter === null && turn.done) notes.push(make("span", { class: "badge form" }, "no letter could be read"));
  if (turn.note) notes.push(make("span", {}, turn.note));
  if (notes.length) turn.element.append(make("div", { class: "after" }, ...notes));
  if (turn.trouble) turn.element.append(make("p", { class: "band error trouble", role: "alert" }, visible(turn.trouble)));
}

function follow() {
  const near = document.documentElement.scrollHeight - window.scrollY - window.innerHeight < 160;
  if (near) window.scrollTo(0, document.documentElement.scrollHeight);
}

async function send() {
  const said = byId("say").value.trim();
  if (!said || state.running || !model()) return;
  const wrong = invalid();
  if (wrong) {
    byId("more").open = true;
    wrong.reportValidity();
    return;
  }
  byId("say").value = "";
  show(byId("problems"));
  // A turn that failed is not part of the conversation that the model gets.
  state.turns = state.turns.filter((turn) => !turn.trouble || turn.content);
  const turn = { role: "assistant", content: "", calls: [], model: model().id };
  state.turns.push({ role: "user", content: said }, turn);
  state.running = { turn, stop: new AbortController() };
  draw();
  enable();
  window.scrollTo(0, document.documentElement.scrollHeight);
  byId("spoken").textContent = "The model is answering.";
  try {
    await answered(turn, state.running.stop.signal);
  } catch (failure) {
    if (failure.name === "AbortError") turn.note = [turn.note, "stopped"].filter(Boolean).join(", ");
    else turn.trouble = failure instanceof Failure ? failure.message : `This page made a mistake: ${failure.message}`;
  }
  state.running = null;
  await read(turn);
  fill(turn);
  if (!turn.content) undo(said, turn);
  enable();
  keep();
  follow();
  byId("spoken").textContent = turn.trouble || `${turn.content} ${turn.letter ? "" : turn.note || ""}`;
  byId("say").focus();
}

/** Takes a question that was not answered back into the field, so that it can be sent again. */
function undo(said, turn) {
  if (!byId("say").value) byId("say").value = said;
  const place = state.turns.indexOf(turn);
  state.turns.splice(place - 1, 2);
  turn.element.previousSibling?.remove();
}

function invalid() {
  return Object.values(settings).find((field) => !field.checkValidity());
}

function asked() {
  const before = state.turns.slice(0, -1).map(({ role, content }) => ({ role, content }));
  const body = { model: model().id, messages: before, stream: true, stream_options: { include_usage: true },
    calculator: byId("calculator").checked };
  for (const [name, field] of Object.entries(settings)) {
    if (field.value !== "") body[name] = Number(field.value);
  }
  return body;
}

/** Streams an answer into `turn`. Throws a Failure, or an AbortError when it is stopped. */
async function answered(turn, signal) {
  let reply;
  const began = performance.now();
  try {
    reply = await fetch(`${root}/v1/chat/completions`, { method: "POST", signal,
      headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked()) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Is `aquarat serve` still running? Start it again, then send again.");
  }
  if (!reply.ok) throw new Failure(await advice(reply));
  const seen = { tokens: 0, first: 0, usage: null, end: null };
  for await (const chunk of events(reply.body)) {
    if (chunk.error) throw new Failure(chunk.error.message);
    if (chunk.usage) seen.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) continue;
    if (choice.finish_reason) seen.end = choice.finish_reason;
    const { content = "", calls = [] } = choice.delta || {};
    if (content || calls.length) {
      if (!seen.first) seen.first = performance.now();
      seen.tokens += 1;
      for (const call of calls) turn.calls.push({ ...call, at: turn.content.length });
      turn.content += content || "";
      fill(turn);
      follow();
    }
    note(turn, seen, began);
  }
  if (seen.end === null) throw new Failure("The answer was cut off: the server ended the connection. Send again.");
  turn.done = seen.end === "stop";
  note(turn, seen, began);
}

function note(turn, seen, began) {
  const n = seen.usage ? seen.usage.completion_tokens : seen.tokens;
  const seconds = (performance.now() - (seen.first || began)) / 1000;
  const speed = n > 1 && seconds > 0 ? `, ${((n - 1) / seconds).toFixed(0)} tokens/s` : "";
  const end = seen.end === "length" ? ", cut off by the limit of tokens" : "";
  turn.note = `${n} token${n === 1 ? "" : "s"}${speed}${end}`;
}

/** What to do about an answer that was refused. */
async function advice(reply) {
  let error = {};
  try {
    error = (await reply.clone().json()).error;
  } catch {
    return reason(reply);
  }
  const text = error.message || `The server answered with the error ${reply.status}.`;
  if (error.code === "context_length_exceeded") {
    return `The conversation is too long: ${text}. To go on, begin a new chat.`;
  }
  if (reply.status === 429) return `The server is busy: ${text}. Wait a moment, then send again.`;
  return text;
}

/** The JSON objects of a stream of server-sent events. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const text = line.slice(5).trim();
        if (text === "[DONE]") return;
        yield JSON.parse(text);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The answer was cut off: the server is gone, or sent something else. Send again.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Lets the server read the letter of an answer, as evaluations do. */
async function read(turn) {
  const chosen = state.models.find((one) => one.id === turn.model);
  if (!chosen?.letters || !turn.content || !turn.done) return;
  try {
    const found = await get("chat/answer", {}, { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: turn.model, text: turn.content }) });
    turn.letter = found.letter;
  } catch {
    turn.letter = undefined;
  }
}

// --- what stays when the page is loaded again ------------------------------------------------------------------------

function keep() {
  const turns = state.turns.map(({ element, ...turn }) => turn);
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ turns, model: byId("model").value }));
  } catch {
    // Without storage the conversation lasts as long as the page.
  }
}

function restore() {
  try {
    const found = JSON.parse(sessionStorage.getItem(KEPT) || "{}");
    state.turns = Array.isArray(found.turns) ? found.turns : [];
    state.wanted = found.model;
  } catch {
    state.turns = [];
  }
}

byId("send").addEventListener("click", send);
byId("stop").addEventListener("click", () => state.running?.stop.abort());
byId("model").addEventListener("change", () => { describe(); keep(); if (!state.turns.length) draw(); });
byId("temperature").addEventListener("input", () => {
  byId("temperature-shown").textContent = byId("temperature").value;
});
byId("say").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") state.running?.stop.abort();
});
byId("fresh").addEventListener("click", () => {
  state.running?.stop.abort();
  state.turns = [];
  show(byId("problems"));
  draw();
  keep();
  byId("say").focus();
});
start();
