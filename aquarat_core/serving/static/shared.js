"use strict";
const root = document.body.dataset.root;
const byId = (id) => document.getElementById(id);

/** A new element. `options` are its properties; `class` its classes, `data` its data attributes, `aria` ARIA's. */
function make(tag, options = {}, ...children) {
  const { class: names, data = {}, aria = {}, role, ...properties } = options;
  const element = Object.assign(document.createElement(tag), properties);
  if (names) element.className = names;
  if (role) element.setAttribute("role", role);
  Object.assign(element.dataset, data);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function show(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

/** Characters that turn the direction of reading, and control characters, become visible. */
function visible(text) {
  return String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** A text with the names of its artifact. */
function named(text, names) {
  return visible(names?.length ? `${text} (${names.join(", ")})` : text);
}

class Failure extends Error {}

/** JSON from this server. Throws a Failure whose message a person can act on. */
async function get(path, parameters = {}, options = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") query.set(name, value);
  }
  const asked = `${root}/${path}${query.size ? `?${query}` : ""}`;
  let reply;
  try {
    reply = await fetch(asked, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Is `aquarat serve` still running? Start it again, then reload.");
  }
  if (reply.status === 304) return null;
  if (!reply.ok) throw new Failure(await reason(reply));
  try {
    const value = await reply.json();
    if (options.tag) options.tag.value = reply.headers.get("ETag");
    return value;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server's answer was cut off. Try again.");
  }
}

/** What the server said about a request that failed. */
async function reason(reply) {
  try {
    return (await reply.json()).error.message;
  } catch {
    return `The server answered with the error ${reply.status}. Its log says why.`;
  }
}

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

function when(iso) {
  const time = new Date(iso);
  return Number.isNaN(time.getTime()) ? String(iso) : time.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

const band = (text) => make("p", { class: "band error", role: "alert" }, visible(text));
