// The LangGraph server's own API, on the address this page came from.

export const ROOT = new URL("..", document.baseURI).href.replace(/\/$/, "");
export const MADE_BY = "palette page";
const JSON_HEADERS = {"Content-Type": "application/json"};

async function call(method, path, body) {
  const response = await fetch(ROOT + path, {
    method,
    headers: body === undefined ? {} : JSON_HEADERS,
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!response.ok) throw new Error(await reason(response));
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

async function reason(response) {
  const text = await response.text();
  try {
    const {detail, message} = JSON.parse(text);
    return detail ?? message ?? text;
  } catch {
    return text || `The server answered HTTP ${response.status}.`;
  }
}

export const catalogue = () => call("GET", "/palette/catalogue.json");
/** What a survey says of the same question: {survey, sample, shares}, or null. */
export const surveyed = ({country, question, options}) => call("GET", `/palette/survey.json?${new URLSearchParams(
  [["country", country], ["question", question], ...options.map((option) => ["option", option])])}`);
export const assistants = () => call("POST", "/assistants/search", {limit: 500});
export const graphOf = (assistant) => call("GET", `/assistants/${assistant}/graph`);
export const newThread = (metadata) => call("POST", "/threads", {metadata: {made_by: MADE_BY, ...metadata}});
export const copyThread = (thread) => call("POST", `/threads/${thread}/copy`);
export const renameThread = (thread, metadata) => call("PATCH", `/threads/${thread}`, {metadata});
export const deleteThread = (thread) => call("DELETE", `/threads/${thread}`);
export const history = (thread) => call("POST", `/threads/${thread}/history`, {limit: 200});
export const threadState = (thread) => call("GET", `/threads/${thread}/state`);
export const cancel = (thread, run) => call("POST", `/threads/${thread}/runs/${run}/cancel`);
export const threads = () =>
  call("POST", "/threads/search", {
    metadata: {made_by: MADE_BY}, limit: 100, sort_by: "updated_at", sort_order: "desc",
    select: ["thread_id", "metadata", "updated_at", "status"],
  });

/** A run's events as they come: {event, data}. */
export async function* stream(thread, payload) {
  const response = await fetch(`${ROOT}/threads/${thread}/runs/stream`, {
    method: "POST", headers: JSON_HEADERS, body: JSON.stringify(payload),
  });
  if (!response.ok) throw new Error(await reason(response));
  yield* events(response.body);
}

/** Server-sent events of a stream of bytes. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const {value, done} = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split(/\r?\n\r?\n/);
    text = parts.pop();
    for (const part of parts) {
      let event = "message";
      const data = [];
      for (const line of part.split(/\r?\n/)) {
        if (line.startsWith("event:")) event = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      }
      if (data.length) yield {event, data: JSON.parse(data.join("\n"))};
    }
  }
}
