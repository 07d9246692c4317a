// The page of `freeret serve`. Content of the store is shown through textContent alone.
"use strict";

const LONGEST_SIDE = 1024; // pixels of a picture that is sent
const TOKEN = "freeret-token";
const UNREADABLE = "no longer readable";
const COUNT = 12; // hits that are shown unless the form says otherwise
const $ = (id) => document.getElementById(id);

let picture = null; // a data URI
let reranks = false;
let stored = {}; // how many items of each signature the store holds
let current = new AbortController(); // aborts the request whose result is awaited
let urls = []; // of media that were fetched with a token

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
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
async function load(node, url) {
  if (!sessionStorage.getItem(TOKEN)) {
    node.src = url;
    return;
  }
  try {
    node.src = URL.createObjectURL(await (await request(url)).blob());
    urls.push(node.src);
  } catch {
    node.alt = UNREADABLE;
  }
}

function pictures(addresses, name) {
  return addresses.map((url, i) => {
    const image = element("img", { alt: addresses.length > 1 ? `${name} ${i + 1}` : name });
    image.onerror = () => image.replaceWith(element("span", { className: "soft", textContent: UNREADABLE }));
    load(image, url);
    return image;
  });
}

function strip(images, caption) {
  return element("figure", { className: "medium strip" },
    element("div", {}, ...images), element("figcaption", { textContent: caption }));
}

// The media of a hit, in order; several pictures stand in one film strip.
function gallery(media) {
  if (media.length > 1 && media.every((part) => part.kind === "image")) {
    const images = pictures(media.flatMap((part) => part.thumbnails), "picture");
    return [strip(images, `film strip, ${images.length} pictures`)];
  }
  return media.map(medium);
}

function medium(part) {
  if (part.kind === "video") {
    return strip(pictures(part.thumbnails, "frame"), `clip, ${part.thumbnails.length} frames`);
  }
  const player = element("audio", { controls: true });
  if (part.kind === "audio") load(player, part.url);
  const content = part.kind === "audio" ? [player] : pictures(part.thumbnails, "picture");
  return element("figure", { className: "medium" }, ...content);
}

function card(hit, rank) {
  const head = element("p", { className: "head" },
    element("b", { textContent: rank }),
    element("span", { className: "score", textContent: hit.score.toFixed(3), title: "score" }),
    element("span", { textContent: hit.id }));
  if (hit.legs) {
    const { cosine, cosine_rank: near, bm25, bm25_rank: match } = hit.legs;
    const rank = (place) => (place ? ` (rank ${place})` : "");
    head.append(element("span", { className: "tag", textContent: `cosine ${cosine.toFixed(3)}${rank(near)}, BM25 ${bm25.toFixed(1)}${rank(match)}` }));
  }
  if (hit.stage2_score !== null) {
    head.append(element("span", { className: "tag", textContent: `reranked: p(match) = ${hit.stage2_score.toFixed(2)}` }));
  }
  const media = element("div", { className: "media" }, ...gallery(hit.media));
  const item = element("li", {}, head, media);
  if (hit.text) item.append(element("p", { className: "text long", textContent: hit.text }));
  if (hit.words.length) item.append(element("p", { className: "score", textContent: `reads as: ${hit.words.join(" ")}` }));
  const facts = Object.entries(hit.metadata).map(([name, value]) => {
    const words = typeof value === "string" ? value : JSON.stringify(value);
    return element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: words }));
  });
  if (facts.length) item.append(element("dl", { className: "facts" }, ...facts));
  const more = element("button", { type: "button", textContent: "More like this" });
  more.setAttribute("aria-label", `More like hit ${rank}`);
  more.onclick = () => go(similar, hit.id);
  item.append(more);
  return item;
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
  const count = Number($("count").value) || COUNT;
  return { ...filters(), top_n: count, rerank: reranks && $("rerank").checked ? count : 0 };
}

// How many items a search passes over; undefined where a filter of metadata decides.
function candidates({ kinds, filter }) {
  if (filter) return undefined;
  const wanted = (signature) => !kinds.length || kinds.some((kind) => overlaps(kind, signature));
  return Object.entries(stored).filter(([signature]) => wanted(signature)).reduce((sum, [, n]) => sum + n, 0);
}

function overlaps(kinds, signature) {
  return kinds.split("+").some((kind) => signature.split("+").includes(kind));
}

// Run an action in place of the one before, and say what goes wrong.
async function perform(title, action) {
  current.abort();
  const controller = (current = new AbortController());
  $("answer").hidden = true;
  show([]);
  say(title);
  try {
    await action(controller.signal);
  } catch (error) {
    if (error.name !== "AbortError" && controller === current) say(error.message, true);
  }
}

function report(result, asked, like = "") {
  show(result.hits);
  const [count, total] = [result.hits.length, candidates(asked)];
  const nearest = count < asked.top_n || count >= total ? `${count === 1 ? "hit" : "hits"}`
    : total === undefined ? "nearest hits" : `nearest of ${total}`;
  const summary = count ? `${count} ${nearest}${like} in ${result.seconds.toFixed(2)} s` : "Nothing found. Try other filters.";
  say(result.note ? `${summary}. ${result.note}` : summary);
}

function search() {
  const text = $("text").value.trim();
  return perform("Searching …", async (signal) => {
    const body = { ...options(), ...(text && { text }), ...(picture && { image: picture }) };
    report(await (await request("/search", body, signal)).json(), body);
  });
}

function similar(id) {
  return perform("Searching …", async (signal) => {
    const { rerank, ...body } = { ...options(), id };
    report(await (await request("/similar", body, signal)).json(), body, ` like ${id}`);
    $("status").scrollIntoView({ block: "nearest" });
  });
}

function ask() {
  const question = $("text").value.trim();
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

// ------------------------------------------------------------------------------------- address

// Run an action, and put what it was asked into the address of the page, so that reload, Back and
// links repeat it. The picture is kept in the history of the tab.
function go(action, id = "") {
  const fields = new URLSearchParams();
  const add = (name, value) => value && fields.append(name, value);
  if (action === similar) add("like", id);
  add("q", $("text").value.trim());
  if (action === ask) add("ask", "yes");
  for (const box of $("kinds").querySelectorAll("input:checked")) add("kind", box.value);
  add("filter", $("filter").value.trim());
  if (Number($("count").value) !== COUNT) add("n", $("count").value);
  if ($("rerank").checked) add("rerank", "yes");
  const address = `${location.pathname}?${fields}`;
  const changed = address !== location.pathname + location.search || picture !== (history.state?.picture ?? null);
  if (changed) history.pushState({ picture }, "", address);
  return action(id);
}

// Fill in the form from the address, and run the action that it stands for.
function restore() {
  const fields = new URLSearchParams(location.search);
  $("text").value = fields.get("q") ?? "";
  $("filter").value = fields.get("filter") ?? "";
  $("count").value = fields.get("n") ?? COUNT;
  $("rerank").checked = fields.has("rerank");
  for (const box of $("kinds").querySelectorAll("input")) box.checked = fields.getAll("kind").includes(box.value);
  if (["kind", "filter", "n", "rerank"].some((name) => fields.has(name))) $("options").open = true;
  choose(history.state?.picture ?? null);
  if (fields.has("like")) return similar(fields.get("like"));
  if (fields.has("ask")) return ask();
  if (fields.has("q") || picture) return search();
  return perform("", async () => {});
}

function choose(uri) {
  picture = uri;
  $("picture").hidden = !uri;
  if (uri) $("preview").src = uri;
}

function submit(action) {
  const searchable = $("text").value.trim() || (action === search && picture);
  if (searchable) return go(action);
  return say(action === ask ? "Type a question." : "Type what you look for, or add a picture.");
}

async function take(file) {
  if (!file || $("pick").hidden) return;
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const [width, height] = [bitmap.width, bitmap.height].map((n) => Math.max(1, Math.round(n * scale)));
    const canvas = element("canvas", { width, height });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
    choose(canvas.toDataURL("image/png"));
  } catch {
    return say("This is not a picture that the browser can read.", true);
  }
  return go(search);
}

// --------------------------------------------------------------------------------------- start

async function start() {
  const health = await (await request("/healthz")).json();
  const recipe = await (await request("/recipe")).json();
  $("about").textContent = `${health.items} items, searched with ${health.model}`;
  $("pick").hidden = !health.reads.includes("image");
  reranks = health.reranks;
  $("judge").hidden = !reranks;
  stored = health.kinds;
  const kinds = Object.entries(stored);
  $("kinds").hidden = kinds.length < 2;
  for (const [kind, count] of kinds) {
    const box = element("input", { type: "checkbox", value: kind });
    $("kinds").append(element("label", {}, box, `${kind} (${count})`));
  }
  const reasons = health.why_not_reranked && !recipe.reasons.length ? [health.why_not_reranked] : recipe.reasons;
  $("reasons").replaceChildren(...reasons.map((textContent) => element("li", { textContent })));
  $("why").hidden = !reasons.length;
  if (!health.items) say("The store is empty. Add items with `freeret index`.");
  else if (location.search || history.state?.picture) restore();
}

$("form").onsubmit = (event) => { event.preventDefault(); submit(search); };
$("ask").onclick = () => submit(ask);
window.onpopstate = restore;
$("choose").onclick = () => $("file").click();
$("file").onchange = () => { take($("file").files[0]); $("file").value = ""; };
$("remove").onclick = () => { choose(null); $("text").focus(); };
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
