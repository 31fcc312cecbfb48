// A run as the page sees it, moved on by the server's events. No elements here.

/** `phase`: starting, running, done, failed or stopped. `drafts`: community -> {state, text, error, seconds};
 * a draft's state: waiting, writing, done or failed. `values`: the graph's state. */
export function newRun(request) {
  return {
    request, phase: "starting", thread: null, run: null, checkpoint: null,
    running: new Set(), finished: new Set(), broken: new Set(),
    drafts: {}, account: "", reply: "", values: null, error: null, messageIds: {}, began: Date.now(), seconds: null,
  };
}

/** The run of a turn that a thread holds. */
export function pastRun(request, state, thread) {
  const run = newRun(request);
  Object.assign(run, {phase: "done", thread, checkpoint: state.checkpoint.checkpoint_id, values: state.values});
  takeDrafts(run, state.values.drafts ?? {});
  run.account = state.values.regulated ?? "";
  run.reply = state.values.answer ?? "";
  return run;
}

/** Moves a run on by one event, and says in words what is worth hearing; null for nothing. */
export function advance(run, {event, data}, names) {
  if (event === "metadata") {
    run.run = data.run_id;
    run.phase = "running";
  } else if (event === "messages") token(run, ...data);
  else if (event === "tasks") return task(run, data, names);
  else if (event === "values") run.values = data;
  else if (event === "error") {
    run.phase = "failed";
    run.error = {kind: data.error ?? "Error", message: data.message ?? String(data)};
  }
  return null;
}

/** The stream has ended. */
export function close(run) {
  run.seconds = (Date.now() - run.began) / 1000;
  run.running.clear();
  if (run.phase !== "running") return;
  run.phase = isDecided(run.values) ? "done" : "stopped";
}

/** Whether a turn came to its end: what the seed promises is said with the decision, and taken back by the next
 * turn's intake. The answer itself may be missing. */
export function isDecided(values) {
  return Boolean(values?.determinism);
}

function token(run, message, metadata) {
  if (message.type !== "AIMessageChunk") return;
  const text = typeof message.content === "string"
    ? message.content
    : message.content.map((part) => part.text ?? "").join("");
  const node = metadata.langgraph_node;
  // A request that was sent again starts its reply anew, under another id.
  const again = run.messageIds[node] !== undefined && run.messageIds[node] !== message.id;
  run.messageIds[node] = message.id;
  const grown = (old) => (again ? text : old + text);
  if (node.startsWith("draft_")) {
    const draft = draftOf(run, node.slice(6));
    draft.state = "writing";
    draft.text = grown(draft.text);
  } else if (node === "regulate") run.account = grown(run.account);
  else if (run.request.options.length === 0) run.reply = grown(run.reply);
}

function task(run, data, names) {
  const name = data.name;
  if (!("result" in data)) {
    run.running.add(name);
    if (name.startsWith("draft_")) draftOf(run, name.slice(6)).state = "writing";
    return null;
  }
  run.running.delete(name);
  (data.error ? run.broken : run.finished).add(name);
  const result = data.result ?? {};
  if (name !== "intake") {
    const drafts = Object.entries(result.drafts ?? {}).filter(([, draft]) => draft);
    takeDrafts(run, Object.fromEntries(drafts));
    if (drafts.length === 1) {
      const [key, draft] = drafts[0];
      if (draft.error) run.broken.add(name);
      return draft.error ? `No draft from ${names[key] ?? key}: ${draft.error}` : `${names[key] ?? key} has drafted.`;
    }
  }
  if (typeof result.regulated === "string") {
    run.account = result.regulated;
    return "The drafts are distilled into one account.";
  }
  return null;
}

function takeDrafts(run, drafts) {
  for (const [key, draft] of Object.entries(drafts)) {
    if (!draft) continue;
    Object.assign(draftOf(run, key), {
      state: draft.error ? "failed" : "done", text: draft.text ?? "", error: draft.error, seconds: draft.seconds,
    });
  }
}

function draftOf(run, key) {
  return (run.drafts[key] ??= {state: "waiting", text: "", error: null, seconds: null});
}
