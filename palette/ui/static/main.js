// Wiring: the form starts runs, runs fill sheets, sheets lead on.

import {composer} from "./composer.js";
import {byId, h, put, visible} from "./dom.js";
import {promptEditor} from "./prompts.js";
import {fromLink, payload, toLink} from "./request.js";
import {advance, close, isDecided, newRun, pastRun} from "./run.js";
import * as server from "./server.js";
import {sheet} from "./sheet.js";
import {copyText, openSnippets} from "./snippets.js";
import {openThreads} from "./threads.js";

const THEMES = ["", "light", "dark"];
const MOST_ROWS = 12;
const STREAM_MODES = ["custom", "tasks", "values"];

const [catalogue, assistants] = await Promise.all([server.catalogue(), server.assistants()]).catch((error) => {
  byId("answers").append(h("p", {class: "error", role: "alert"}, `The server does not answer: ${error.message}`));
  throw error;
});
const assistantOf = Object.fromEntries(assistants.map((found) => [found.graph_id, found.assistant_id]));
const countries = Object.fromEntries(catalogue.countries.map((country) => [country.iso3, country]));
const prompts = promptEditor(catalogue.prompts);
const form = composer(catalogue, new Set(Object.keys(assistantOf)), prompts, ask);
const graphs = {};

function say(text) {
  put(byId("status"), text);
}

// -- asking ---------------------------------------------------------------------------------------

async function ask(request, versus, origin) {
  const requests = [request];
  if (versus) requests.push({...request, [versus.kind]: versus.value});
  const row = h("div", {class: requests.length > 1 ? "row-of-two" : "row-of-one"});
  const runs = requests.map(newRun);
  const sheets = [];
  for (const run of runs) {
    const drawn = await sheetOf(run, row);
    sheets.push(drawn);
    row.append(drawn.element);
    drawn.update();
  }
  place(row);
  form.setOrigin(null);
  document.title = visible(`${countries[request.country].name}: ${request.question}`);
  say(`${runs.map(({request: {country}}) => countries[country].name).join(" and ")}: drafting begins.`);
  row.scrollIntoView({block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth"});
  history.replaceState(null, "", toLink(request, versus));
  // A conversation goes on in one thread; what stands beside it has one of its own.
  await Promise.all(runs.map((run, index) => go(run, sheets[index], index === 0 ? origin : null)));
  history.replaceState(null, "", toLink(request, versus, versus ? null : runs[0].thread));
}

function place(row) {
  const answers = byId("answers");
  answers.prepend(row);
  while (answers.children.length > MOST_ROWS) answers.lastElementChild.remove();
}

async function graphOf(request) {
  const body = payload(request, catalogue.map);
  const id = assistantOf[body.assistant_id];
  if (id === undefined) throw new Error(`The server has no graph ${body.assistant_id}.`);
  return (graphs[id] ??= server.graphOf(id));
}

/** What the loaded survey says of a question; without one there is nobody to ask. */
async function surveyed(request) {
  return catalogue.survey && request.options.length ? server.surveyed(request).catch(() => null) : null;
}

async function sheetOf(run, row) {
  const map = form.maps[run.request.map];
  const drawn = sheet(run, {
    map, country: countries[run.request.country], graph: await graphOf(run.request), beside: surveyed(run.request),
    actions: {
      stop: ({thread, run: id}) => thread && id && server.cancel(thread, id),
      goOn: (from) => goOn(from, false),
      fork: (from) => goOn(from, true),
      code: ({request}) => openSnippets(request, catalogue.map, say),
      link: (of) => link(of),
      again: ({request}) => { form.fill(request); ask(request, null, null); },
      remove: () => putAway(drawn.element, row),
    },
  });
  return drawn;
}

function putAway(element, row) {
  element.remove();
  row.className = "row-of-one";
  if (!row.children.length) row.remove();
  byId("answers").focus();
}

async function go(run, drawn, origin) {
  let due = false;
  const redraw = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; drawn.update(); });
  };
  const {request} = run;
  const names = Object.fromEntries(form.maps[request.map].communities.map(({key, name}) => [key, name]));
  const body = payload(request, catalogue.map);
  const metadata = {title: request.question, country: request.country, method: request.method};
  try {
    run.thread = await threadFor(origin, metadata);
    const from = origin?.fork ? {checkpoint_id: origin.checkpoint} : {};
    const stream = server.stream(run.thread, {
      ...body, ...from, stream_mode: STREAM_MODES, metadata: {palette_page: JSON.stringify(request)}, on_disconnect: "continue",
    });
    for await (const event of stream) {
      const news = advance(run, event, names);
      if (news) say(news);
      redraw();
    }
    close(run);
    if (run.phase === "done") run.checkpoint = (await server.threadState(run.thread)).checkpoint.checkpoint_id;
  } catch (error) {
    run.phase = "failed";
    run.error = {kind: error.name, message: error.message};
    close(run);
  }
  drawn.update();
  say(ending(run));
}

async function threadFor(origin, metadata) {
  if (!origin) return (await server.newThread(metadata)).thread_id;
  if (!origin.fork) return origin.thread;
  const {thread_id: thread} = await server.copyThread(origin.thread);
  await server.renameThread(thread, {...metadata, title: `${metadata.title} (forked)`});
  return thread;
}

function ending(run) {
  const country = countries[run.request.country].name;
  if (run.phase === "failed") return `${country}: no answer. ${run.error.message}`;
  if (run.phase !== "done") return `${country}: stopped.`;
  const {answer, distribution, degraded = [], notes = []} = run.values;
  const share = distribution?.[answer] === undefined ? "" : `, ${Math.round(distribution[answer] * 100)} percent`;
  return [`${country}: ${answer ?? "no answer that could be read"}${share}.`, ...degraded, ...notes].join(" ");
}

// -- threads and links ----------------------------------------------------------------------------

function goOn(run, fork) {
  form.fill({...run.request, question: "", options: []});
  form.setOrigin({thread: run.thread, checkpoint: run.checkpoint, fork, title: run.request.question});
  form.focus();
}

async function link(run) {
  const address = new URL(toLink(run.request, null, run.thread), location.href).href;
  history.replaceState(null, "", address);
  await copyText(address);
  say("The link is copied. It holds the seed: the same question gives the same answer on the embedded palette.");
}

/** Every turn that a thread has, newest first. */
async function openThread(thread) {
  const turns = turnsOf(await server.history(thread));
  const rows = [];
  for (const state of turns) {
    const run = pastRun(requestOf(state), state, thread);
    const row = h("div", {class: "row-of-one"});
    const drawn = await sheetOf(run, row);
    row.append(drawn.element);
    drawn.update();
    rows.push(row);
  }
  byId("answers").replaceChildren(...rows);
  const latest = turns[0] && requestOf(turns[0]);
  if (latest) {
    form.fill(latest);
    history.replaceState(null, "", toLink(latest, null, thread));
  }
  say(`The thread has ${turns.length} ${turns.length === 1 ? "answer" : "answers"}.`);
  byId("answers").scrollIntoView();
  return turns.length;
}

/** The states that turns ended with, from the newest back to the thread's start: a fork's thread also holds what
 * it turned away from. */
function turnsOf(states) {
  const byCheckpoint = Object.fromEntries(states.map((state) => [state.checkpoint.checkpoint_id, state]));
  const turns = [];
  let run = null;
  for (let state = states[0]; state; state = byCheckpoint[state.parent_checkpoint?.checkpoint_id]) {
    if (state.metadata.run_id !== run && isDecided(state.values)) turns.push(state);
    run = state.metadata.run_id;
  }
  return turns;
}

/** What a turn was started with: as this page noted it, or as far as the graph's state says. */
function requestOf({values, metadata}) {
  if (metadata?.palette_page) return JSON.parse(metadata.palette_page);
  const [method, map] = String(metadata?.graph_id ?? "palette").split("@");
  return {
    ...form.defaults, method, map: map ?? catalogue.map, country: values.country, question: values.turn.query,
    options: values.turn.options,
  };
}

async function start() {
  const given = fromLink(location.hash, form.defaults);
  form.fill(given?.request ?? form.defaults, given?.versus);
  if (!given?.thread) return;
  try {
    if (await openThread(given.thread)) return;
  } catch {
    // the server has forgotten it, or is another one: the form can ask again
  }
  form.fill(given.request, given.versus);
  say("The link's answer is not on this server any more; Ask gives it again.");
}

// -- the page -------------------------------------------------------------------------------------

function theme(next) {
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = {"": "Light or dark", light: "Light", dark: "Dark"}[next];
  byId("theme").setAttribute("aria-label", `Colours: ${next || "as the system"}`);
  localStorage.setItem("palette-theme", next);
}

byId("theme").addEventListener("click", () => {
  const old = document.documentElement.dataset.theme ?? "";
  theme(THEMES[(THEMES.indexOf(old) + 1) % THEMES.length]);
});
byId("open-threads").addEventListener("click", () => openThreads(catalogue.countries, openThread));
window.addEventListener("hashchange", start);
document.addEventListener("keydown", (event) => {
  const writing = event.target.closest?.("input, textarea, select, dialog");
  if (event.key === "/" && !writing) {
    event.preventDefault();
    form.focus();
  }
});
theme(localStorage.getItem("palette-theme") ?? "");
await start();
document.documentElement.dataset.ready = "yes";
