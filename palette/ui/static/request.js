// What a person wants to know, and how it is put to the server, into a link, and into code.
//
// A request: {map, method, country, question, options, seed, knobs, prompts}, all plain values.

import {escaped, hex} from "./dom.js";
import {ROOT} from "./server.js";

/** The graph of a method on a map; `own` is the map the server's plain names stand for. */
export function graphId(request, own) {
  return request.map === own ? request.method : `${request.method}@${request.map}`;
}

/** The body of a run, as the server takes it. */
export function payload(request, own) {
  const context = {seed: request.seed, ...request.knobs};
  for (const [name, text] of Object.entries(request.prompts)) context[`prompt_${name}`] = text;
  return {
    assistant_id: graphId(request, own),
    input: {country: request.country, query: request.question, options: request.options},
    context,
  };
}

// -- links ----------------------------------------------------------------------------------------

const PLAIN = {map: "map", method: "method", country: "country", question: "q"};

/** A fragment that stands for a request, a second one beside it, and the thread that holds its answer. It is
 * never sent to a server. */
export function toLink(request, versus = null, thread = null) {
  const link = new URLSearchParams();
  for (const [field, short] of Object.entries(PLAIN)) link.set(short, request[field]);
  for (const option of request.options) link.append("o", option);
  link.set("seed", request.seed);
  for (const [name, value] of Object.entries(request.knobs)) link.set(`knob.${name}`, JSON.stringify(value));
  for (const [name, text] of Object.entries(request.prompts)) link.set(`prompt.${name}`, text);
  if (versus) link.set(`beside.${versus.kind}`, versus.value);
  if (thread) link.set("thread", thread);
  return `#${link}`;
}

/** {request, versus, thread} of a fragment; null for one that is no request. Unknown fields are left out. */
export function fromLink(fragment, defaults) {
  const link = new URLSearchParams(fragment.replace(/^#/, ""));
  if (!link.has("q") && !link.has("country")) return null;
  const request = {...defaults, options: link.getAll("o"), knobs: {}, prompts: {}};
  for (const [field, short] of Object.entries(PLAIN)) request[field] = link.get(short) ?? defaults[field];
  const seed = Number(link.get("seed"));
  request.seed = Number.isSafeInteger(seed) && seed >= 0 ? seed : defaults.seed;
  let versus = null;
  for (const [name, value] of link) {
    const [kind, rest] = [name.slice(0, name.indexOf(".")), name.slice(name.indexOf(".") + 1)];
    if (kind === "knob") request.knobs[rest] = parsed(value);
    else if (kind === "prompt") request.prompts[rest] = value;
    else if (kind === "beside") versus = {kind: rest, value};
  }
  return {request, versus, thread: link.get("thread")};
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

// -- code -----------------------------------------------------------------------------------------

/** The same run from elsewhere: {curl, Python, JavaScript} -> code. */
export function snippets(request, own) {
  const body = payload(request, own);
  const address = `${ROOT}/runs/wait`;
  return {
    curl: [
      `curl -s ${shell(address)} \\`,
      `  -H 'Content-Type: application/json' \\`,
      `  -d ${shell(escaped(JSON.stringify(body, null, 2)))}`,
    ].join("\n"),
    Python: [
      "from langgraph_sdk import get_sync_client  # pip install langgraph-sdk",
      "",
      `client = get_sync_client(url=${python(ROOT)})`,
      "answer = client.runs.wait(",
      "    None,",
      `    ${python(body.assistant_id)},`,
      `    input=${python(body.input, 4)},`,
      `    context=${python(body.context, 4)},`,
      ")",
      'print(answer["answer"], answer["distribution"], answer["blend"])',
    ].join("\n"),
    JavaScript: [
      `const response = await fetch(${JSON.stringify(address)}, {`,
      '  method: "POST",',
      '  headers: {"Content-Type": "application/json"},',
      `  body: JSON.stringify(${escaped(JSON.stringify(body, null, 2)).replaceAll("\n", "\n  ")}),`,
      "});",
      "const answer = await response.json();",
      "console.log(answer.answer, answer.distribution, answer.blend);",
    ].join("\n"),
  };
}

/** A word that a POSIX shell takes as it stands. */
function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A Python literal. */
function python(value, indent = 0) {
  const inner = " ".repeat(indent + 4);
  const close = " ".repeat(indent);
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map((item) => python(item, indent)).join(", ")}]`;
  if (typeof value === "object") {
    const rows = Object.entries(value).map(([key, item]) => `${inner}${python(key)}: ${python(item, indent + 4)},`);
    return rows.length ? `{\n${rows.join("\n")}\n${close}}` : "{}";
  }
  // JSON's escapes are Python's, but for surrogate pairs, which JSON.stringify leaves as characters.
  return escaped(JSON.stringify(value), (code) => `\\U${hex(code, 8)}`);
}
