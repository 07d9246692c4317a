// The page of `freeret serve`. What comes from the store is shown through textContent alone.
"use strict";

const LONGEST_SIDE = 1024; // pixels of a picture that is sent
const TOKEN = "freeret-token";
const $ = (id) => document.getElementById(id);

let picture = null; // a data URI
let reranks = false;
let current = new AbortController(); // of the request whose result is awaited
let urls = []; // of media that were fetched with a token

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", failed);
}

// ------------------------------------------------------------------------------------ requests

// A response that is not an error. Asks for the token when the server wants one.
async function request(path, body, signal) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = { headers, signal };
  if (body) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `freeret serve` still running?");
  }
  if (response.ok) return response;
  if (response.status === 401) {
    await unlock();
    return request(path, body, signal);
  }
  throw new Error(await reason(response));
}

async function reason(response) {
  if (response.status === 429) return "The server is busy. Try again in a moment.";
  if (response.status === 413) return "This is too large for the server. Try a smaller picture.";
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with an error (${response.status}).`;
  }
}

// One dialog, however many requests wait for it.
let opening = null;
function unlock() {
  opening ??= new Promise((done) => {
    $("token").value = "";
    $("door").showModal();
    $("door").onclose = () => {
      sessionStorage.setItem(TOKEN, $("token").value);
      opening = null;
      done();
    };
  });
  return opening;
}

// The events of a stream, each as its name and data.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", part; !(part = await reader.read()).done; ) {
    const blocks = (rest + part.value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const after = (field) => lines.filter((l) => l.startsWith(field)).map((l) => l.slice(field.length + 1));
      yield [after("event:")[0], JSON.parse(after("data:").join("\n"))];
    }
  }
}

// ---------------------------------------------------------------------------------------- hits

// Give a medium its source; with a token the browser cannot fetch it by itself.
async function load(shown, url) {
  if (!sessionStorage.getItem(TOKEN)) {
    shown.src = url;
    return;
  }
  try {
    shown.src = URL.createObjectURL(await (await request(url)).blob());
    urls.push(shown.src);
  } catch {
    shown.alt = "cannot be shown";
  }
}

function medium(part) {
  const names = { image: "picture", video: "clip", audio: "sound" };
  const figure = element("figure", { className: "medium" });
  const frames = part.thumbnails.map((url, i) => {
    const image = element("img", { alt: part.kind === "video" ? `frame ${i + 1}` : "picture" });
    image.onerror = () => image.replaceWith(element("span", { className: "soft", textContent: "cannot be shown" }));
    load(image, url);
    return image;
  });
  if (part.kind === "audio") {
    const player = element("audio", { controls: true });
    load(player, part.url);
    figure.append(player);
  } else if (part.kind === "video") {
    figure.classList.add("strip");
    const caption = `${names.video}, ${frames.length} frames`;
    figure.append(element("div", {}, ...frames), element("figcaption", { textContent: caption }));
  } else {
    figure.append(...frames);
  }
  return figure;
}

function card(hit, rank) {
  const head = element("p", { className: "head" },
    element("b", { textContent: rank }),
    element("span", { className: "score", textContent: hit.score.toFixed(3), title: "score" }),
    element("span", { textContent: hit.id }));
  if (hit.stage2_score !== null) {
    head.append(element("span", { className: "tag", textContent: `judged: p = ${hit.stage2_score.toFixed(2)}` }));
  }
  const media = element("div", { className: "media" }, ...hit.media.map(medium));
  const shown = element("li", {}, head, media);
  if (hit.text) shown.append(element("p", { className: "text long", textContent: hit.text }));
  const facts = Object.entries(hit.metadata).map(([name, value]) => {
    const words = typeof value === "string" ? value : JSON.stringify(value);
    return element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: words }));
  });
  if (facts.length) shown.append(element("dl", { className: "facts" }, ...facts));
  const more = element("button", { type: "button", textContent: "More like this" });
  more.setAttribute("aria-label", `More like hit ${rank}`);
  more.onclick = () => similar(hit.id);
  shown.append(more);
  return shown;
}

function show(hits) {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
  $("hits").replaceChildren(...hits.map((hit, i) => card(hit, i + 1)));
}

// ------------------------------------------------------------------------------------- actions

function filters() {
  const kinds = [...$("kinds").querySelectorAll("input:checked")].map((box) => box.value);
  const filter = {};
  for (const pair of $("filter").value.split(",").filter((pair) => pair.trim())) {
    const [name, ...rest] = pair.split("=");
    if (!name.trim() || !rest.length) throw new Error(`Write metadata as name=value, not “${pair.trim()}”.`);
    filter[name.trim()] = alternatives(rest.join("=").trim());
  }
  return { kinds, ...(Object.keys(filter).length && { filter }) };
}

// A value is the text that was typed, or the number or truth value that it reads as.
function alternatives(text) {
  try {
    const value = JSON.parse(text);
    return ["number", "boolean"].includes(typeof value) ? [text, value] : text;
  } catch {
    return text;
  }
}

function options() {
  const count = Number($("count").value) || 12;
  return { ...filters(), top_n: count, rerank: reranks && $("rerank").checked ? count : 0 };
}

// Run an action: the one before is dropped, and whatever goes wrong is said.
async function perform(title, action) {
  current.abort();
  const own = (current = new AbortController());
  $("answer").hidden = true;
  show([]);
  say(title);
  try {
    await action(own.signal);
  } catch (error) {
    if (error.name !== "AbortError" && own === current) say(error.message, true);
  }
}

function found(result, what) {
  show(result.hits);
  const count = result.hits.length;
  const summary = count ? `${count} ${count === 1 ? "hit" : "hits"} ${what} in ${result.seconds.toFixed(2)} s` : "Nothing found. Try other filters.";
  say(result.note ? `${summary}. ${result.note}` : summary);
}

function search() {
  const text = $("text").value.trim();
  if (!text && !picture) return say("Type what you look for, or add a picture.");
  return perform("Searching …", async (signal) => {
    const body = { ...options(), ...(text && { text }), ...(picture && { image: picture }) };
    found(await (await request("/search", body, signal)).json(), "");
  });
}

function similar(id) {
  return perform("Searching …", async (signal) => {
    const { rerank, ...body } = { ...options(), id };
    found(await (await request("/similar", body, signal)).json(), `like ${id}`);
    $("status").scrollIntoView({ block: "nearest" });
  });
}

function ask() {
  const question = $("text").value.trim();
  if (!question) return say("Type a question.");
  return perform("Reading the sources …", async (signal) => {
    const { rerank } = options();
    const response = await request("/answer", { question, rerank, stream: true }, signal);
    $("said").textContent = "";
    $("answer").hidden = false;
    for await (const [name, data] of events(response)) {
      if (name === "sources") {
        show(data.sources);
        say(data.note ?? "Writing …");
      } else if (name === "text") {
        $("said").textContent += data.text;
      } else if (name === "done") {
        say(`Answered in ${data.seconds.toFixed(1)} s by the same model; check it against the sources.`);
      } else if (name === "error") {
        throw new Error(data.error.message);
      }
    }
  });
}

async function take(file) {
  if (!file || $("pick").hidden) return;
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const [width, height] = [bitmap.width, bitmap.height].map((n) => Math.max(1, Math.round(n * scale)));
    const canvas = element("canvas", { width, height });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
    picture = canvas.toDataURL("image/png");
  } catch {
    return say("This is not a picture that the browser can read.", true);
  }
  $("preview").src = picture;
  $("picture").hidden = false;
  search();
}

// --------------------------------------------------------------------------------------- start

async function start() {
  const health = await (await request("/healthz")).json();
  const recipe = await (await request("/recipe")).json();
  $("about").textContent = `${health.items} items, searched with ${health.model}`;
  $("pick").hidden = !health.reads.includes("image");
  reranks = health.reranks;
  $("judge").hidden = !reranks;
  const kinds = Object.entries(health.kinds);
  $("kinds").hidden = kinds.length < 2;
  for (const [kind, count] of kinds) {
    const box = element("input", { type: "checkbox", value: kind });
    $("kinds").append(element("label", {}, box, `${kind} (${count})`));
  }
  const reasons = health.why_not_reranked && !recipe.reasons.length ? [health.why_not_reranked] : recipe.reasons;
  $("reasons").replaceChildren(...reasons.map((textContent) => element("li", { textContent })));
  $("why").hidden = !reasons.length;
  if (!health.items) say("The store is empty. Add items with `freeret index`.");
}

$("form").onsubmit = (event) => { event.preventDefault(); search(); };
$("ask").onclick = ask;
$("choose").onclick = () => $("file").click();
$("file").onchange = () => { take($("file").files[0]); $("file").value = ""; };
$("remove").onclick = () => { picture = null; $("picture").hidden = true; $("text").focus(); };
document.onpaste = (event) => {
  const [file] = event.clipboardData.files;
  if (file) { event.preventDefault(); take(file); }
};
document.ondragover = (event) => { event.preventDefault(); document.body.classList.add("dropping"); };
document.ondragleave = () => document.body.classList.remove("dropping");
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  take(event.dataTransfer.files[0]);
};
$("door").oncancel = (event) => event.preventDefault();
start().catch((error) => say(error.message, true));
